"""The same images for two trainers: files, order, and what is drawn for each of them."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch

from ..files import CannotRun, shown
from ..stages.sampling import compare_items

if TYPE_CHECKING:
    from .pair import TrainingPair


__all__ = ["Draws", "subset", "why_images_differ"]


def subset(image_folder: Any, source: Path, target: Path, images: int) -> None:
    """Makes the folder `target` of links to the first images of each class of `source`, by turns.

    Args:
        image_folder: the port's ImageFolder.
        images: how many; with more classes than that, the first classes.

    Raises:
        CannotRun: no such folder, too few images in it, or one that cannot be decoded.
    """
    try:
        dataset = image_folder(source)
    except OSError as error:
        raise CannotRun(str(error)) from error
    by_class = {}
    for path, label in dataset.samples:
        by_class.setdefault(label, []).append(path)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_class.values()))
    chosen = [path for path in turns if path is not None][:images]
    if len(chosen) < images:
        raise CannotRun(
            f"{shown(source)} has {len(chosen)} images, {images} are needed: give fewer --steps or "
            "a smaller --batch-size"
        )
    for path in chosen:
        try:
            dataset.loader(path)
        except OSError as error:
            raise CannotRun(f"{error}. Repair or remove it") from error
    for number, path in enumerate(map(Path, chosen)):
        folder = target / path.relative_to(source).parts[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06}_{path.name}").symlink_to(path.resolve())


class Draws:
    """What the port draws: the order of each epoch, the augmentation of each image, the mixing.

    All of it depends on the seed and on what it is drawn for, so it is drawn here once more.

    Args:
        pair: TrainingPair.
        args: of the port's command line.
        rank, world_size: whose share.

    Raises:
        CannotRun: too few images for the sampler.
    """

    def __init__(
        self, pair: TrainingPair, args: argparse.Namespace, rank: int = 0, world_size: int = 1
    ) -> None:
        self.pair, self.seed = pair, args.seed
        try:
            _, batches, self.dataset = pair.port_data.training_data(args, rank, world_size)
        except ValueError as error:
            raise CannotRun(str(error)) from error
        self.sampler = batches.sampler
        classes = len(self.dataset.classes)
        self.mix = pair.port.get_mixup_cutmix(args.mixup_alpha, args.cutmix_alpha, classes)

    def order(self, epoch: int) -> np.ndarray:
        """(images,) int64"""
        self.sampler.set_epoch(epoch)
        return self.sampler.permutation()

    def of_image(self, draw: Any, size: tuple[int, int]) -> Any:
        return self.pair.draw_image(self.dataset, self.seed, draw, size)

    def of_batch(self, first: Any, shape: Any) -> Any:
        """Args: `first`, the Draw of the batch's first image."""
        return self.pair.draw_batch(self.mix, self.seed, first, shape)

    @contextlib.contextmanager
    def replayed(self) -> Iterator[list[Any]]:
        """Within, the reference's data pipeline draws nothing of its own.

        Its sampler shuffles into the port's order, its transforms are given the port's draws.
        Yields a list that holds the Draws of the reference's newest batch.
        """
        draws: Draws = self
        batch: list[Any] = []
        state: dict[str, Any] = {"epoch": None, "last": []}
        new_draw: Any = self.pair.port.Draw
        reference: Any = self.pair.reference

        class Replaying(reference.ImageFolder):
            def __getitem__(self, index: int) -> tuple[Any, int]:
                if not hasattr(self.transform, "replay"):  # evaluation
                    return super().__getitem__(index)
                path, target = self.samples[index]
                draw = new_draw(index, state["epoch"], self._repetition(index))
                state["last"].append(draw)
                image = self.loader(path)
                return self.transform.replay(image, draws.of_image(draw, image.size)), target

            def _repetition(self, index: int) -> int:
                """How often the image was asked for before in this epoch."""
                if not hasattr(draws.sampler, "repetitions"):
                    return 0  # padding, if anything
                if getattr(self, "epoch", None) != state["epoch"]:
                    self.epoch, self.asked = state["epoch"], Counter()
                self.asked[index] += 1
                return self.asked[index] - 1

        class Sampler:
            """Listens for the epoch."""

            def set_epoch(self, epoch: int) -> None:
                super().set_epoch(epoch)  # type: ignore[misc]  # `listening` adds it
                state["epoch"] = epoch

        def collate(
            items: Any, original: Callable[..., Any] = torch.utils.data.default_collate
        ) -> Any:
            batch[:], state["last"] = state["last"], []
            return original(items)

        def mixing(
            mixup_alpha: float,
            cutmix_alpha: float,
            num_classes: int,
            original: Callable[..., Any] = reference.get_mixup_cutmix,
        ) -> Any:
            mix = original(mixup_alpha, cutmix_alpha, num_classes)
            if mix is None:
                return None
            return lambda images, labels: mix.replay(
                images, labels, draws.of_batch(batch[0], tuple(images.shape))
            )

        def listening(sampler: Any) -> Any:
            return type(sampler.__name__, (Sampler, sampler), {})

        def order(length: int, **_: Any) -> torch.Tensor:
            return torch.from_numpy(draws.order(state["epoch"]))

        data = torch.utils.data
        with contextlib.ExitStack() as stack:
            for target, name, value in (
                (reference, "ImageFolder", Replaying),
                (reference, "get_mixup_cutmix", mixing),
                (reference, "RASampler", listening(reference.RASampler)),
                (data, "DistributedSampler", listening(data.DistributedSampler)),
                (data, "default_collate", collate),
                (torch, "randperm", order),
            ):
                stack.enter_context(mock.patch.object(target, name, value))
            yield batch


def why_images_differ(pair: TrainingPair, args: argparse.Namespace, epoch: int) -> list[str]:
    """Lines on where the port's training images come from, for when they are not the reference's.

    Looks at the port alone: what its data set gives for a Draw, and what its loader gives, over all
    batches of an epoch: those of the second worker too.
    """
    args = type(args)(**{**vars(args), "mixup_alpha": 0.0, "cutmix_alpha": 0.0})
    loader, batches, dataset = pair.port_data.training_data(args, 0, 1)
    items = compare_items(dataset, pair.port.Draw)
    if not items.agrees:
        return items.lines()
    batches.set_epoch(epoch)
    for number, (draws, (images, *_)) in enumerate(zip(list(batches), loader)):
        for image, draw in zip(images.numpy(), draws):
            item = np.asarray(dataset[draw][0])
            if item.dtype != np.float32:
                item = pair.port.normalize_batch(item[None])[0]
            if not np.array_equal(image, item):
                return [
                    f"Batch {number}: for {draw} the loader gives another image than the data set. "
                    "What else is in the generator's seed: the worker, the number of images before?"
                ]
    return [
        "The loader gives the data set's images in each batch: the mistake is in what is done "
        "with an image, or in the mixing (step 02)"
    ]
