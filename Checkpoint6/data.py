"""The images of a training: which rank sees which, and what is done to them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from PIL import Image

import paddle_mv3
from alignment.files import CannotRun, shown
from Checkpoint6 import distributed

if TYPE_CHECKING:
    import paddle


__all__ = ["evaluation_data", "require_same_data", "training_data"]


def training_data(
    args: argparse.Namespace, rank: int, world_size: int
) -> tuple[paddle_mv3.DataLoader, paddle.io.BatchSampler, paddle_mv3.ImageFolder]:
    """(DataLoader of this rank's share, its BatchSampler, ImageFolder).

    Raises:
        ValueError: more processes than images.
        OSError: no such folder, or a class without images.
    """
    # Workers send bytes, a quarter of float32, unless they mix images, which normalising precedes.
    as_bytes = not (args.mixup_alpha or args.cutmix_alpha)
    preset = paddle_mv3.ClassificationPresetTrain(
        crop_size=args.train_crop_size,
        interpolation=Image.Resampling[args.interpolation.upper()],
        auto_augment_policy=args.auto_augment,
        ra_magnitude=args.ra_magnitude,
        augmix_severity=args.augmix_severity,
        random_erase_prob=args.random_erase,
        normalize=not as_bytes,
    )
    dataset = paddle_mv3.ImageFolder(args.data_path / "train", preset, args.seed, args.cache_dir)
    share = {"rank": rank, "world_size": world_size, "seed": args.seed}
    if args.ra_sampler:
        sampler = paddle_mv3.RASampler(dataset, repetitions=args.ra_reps, **share)
    else:
        sampler = paddle_mv3.DistributedSampler(dataset, **share)
    batches = paddle_mv3.BatchSampler(sampler, args.batch_size)
    mix = paddle_mv3.get_mixup_cutmix(args.mixup_alpha, args.cutmix_alpha, len(dataset.classes))
    loader = paddle_mv3.DataLoader(
        dataset,
        batch_sampler=batches,
        batch_transform=mix,
        seed=args.seed,
        finish=paddle_mv3.normalize_on_device if as_bytes else None,
        num_workers=args.workers,
        worker_init_fn=distributed.in_worker,
        skip_corrupt=args.skip_corrupt,
    )
    return loader, batches, dataset


def evaluation_data(
    args: argparse.Namespace, rank: int, world_size: int
) -> tuple[paddle_mv3.DataLoader, paddle_mv3.ImageFolder]:
    """(DataLoader of this rank's share, ImageFolder). Raises: OSError, as `training_data`."""
    preset = paddle_mv3.ClassificationPresetEval(
        args.val_crop_size,
        args.val_resize_size,
        Image.Resampling[args.interpolation.upper()],
        normalize=False,
    )
    dataset = paddle_mv3.ImageFolder(args.data_path / "val", preset, cache=args.cache_dir)
    loader = paddle_mv3.DataLoader(
        dataset,
        batch_sampler=paddle_mv3.EvalBatchSampler(len(dataset), args.batch_size, rank, world_size),
        finish=paddle_mv3.normalize_on_device,
        num_workers=args.workers,
        worker_init_fn=distributed.in_worker,
        skip_corrupt=args.skip_corrupt,
    )
    return loader, dataset


def require_same_data(
    args: argparse.Namespace,
    train_set: paddle_mv3.ImageFolder,
    eval_set: paddle_mv3.ImageFolder,
    world_size: int,
) -> None:
    """Raises CannotRun unless both folders have the same classes, and all ranks the same images."""
    if train_set.classes != eval_set.classes:
        odd = sorted(set(train_set.classes) ^ set(eval_set.classes))
        raise CannotRun(
            f"{shown(args.data_path / 'train')} has {len(train_set.classes)} classes and "
            f"{shown(args.data_path / 'val')} has {len(eval_set.classes)}: {odd[0]} is in one of "
            "them only. Both need the same class folders"
        )
    mine = len(train_set), len(eval_set), train_set.classes
    for rank, theirs in enumerate(distributed.agree(mine, world_size)):
        if theirs != mine:
            raise CannotRun(
                f"rank {rank} sees {theirs[0]} and {theirs[1]} images of {len(theirs[2])} classes, "
                f"this rank {mine[0]} and {mine[1]} of {len(mine[2])}: give all machines the same "
                "data"
            )
