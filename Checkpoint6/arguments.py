"""The command line of train.py: the flags of torchvision's references/classification/train.py."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import paddle

import paddle_mv3
from alignment.arguments import (
    Formatter,
    Parser,
    batch_size,
    count,
    count_or_0,
    epochs,
    file_path,
    nonempty,
    pixels,
    rate,
    repetitions,
    seed,
    share,
    workers,
)
from alignment.files import CannotRun, shown, unpack_once
from alignment.trainers import USAGE, add_flag
from Checkpoint6.checkpoint import checkpoints

__all__ = [
    "device_of",
    "parse",
    "parser",
    "recipe_of",
    "require_same_recipe",
    "settle",
]

ROOT = Path(__file__).resolve().parent.parent

# Without --data-path: what learns lite_data in under a minute on two cores. Many small steps: the
# statistics of batch norm, which evaluation uses, move by a hundredth in each.
TRY_OUT: dict[str, Any] = {
    "data_path": ROOT / "lite_data",
    "epochs": 15,
    "batch_size": 8,
    "lr": 0.03,
    "lr_scheduler": "cosineannealinglr",
    "lr_warmup_epochs": 1,
    "train_crop_size": 64,
    "val_resize_size": 73,
    "val_crop_size": 64,
}

# What a resumed training may do otherwise: how and where it runs, not what it computes.
NOT_THE_RECIPE = (
    "cache_dir",
    "cache_dataset",
    "data_path",
    "device",
    "keep_best",
    "keep_last",
    "output_dir",
    "pretrained",
    "print_freq",
    "result_dir",
    "resume",
    "save_steps",
    "skip_corrupt",
    "start_epoch",
    "test_only",
    "use_deterministic_algorithms",
    "weights",
    "workers",
)


def parser(description: str) -> Parser:
    flags = Parser(
        usage=USAGE,
        description=description,
        formatter_class=Formatter,
        fromfile_prefix_chars="@",
    )
    add = partial(add_flag, flags)
    add("--data-path", type=file_path, help="folder with the folders train and val. Default: "
        "lite_data, as a try-out with fewer epochs and smaller images")  # fmt: skip
    add("--model", choices=sorted(paddle_mv3.MODELS), default="mobilenet_v3_small")
    add("--weights", type=nonempty, metavar="FILE|IMAGENET1K_V1")
    add("--pretrained", action="store_true")
    add("--cache-dataset", action="store_true")
    add("--skip-corrupt", type=count_or_0, default=0)
    add("--device", choices=("cpu", "gpu", "cuda"))
    add("-j", "--workers", type=workers, default=default_workers())
    add("--sync-bn", action="store_true")
    add("--amp", nargs="?", choices=("O1", "O2"), const="O1")
    add("--amp-dtype", choices=("float16", "bfloat16"), default="float16")
    add("--use-deterministic-algorithms", action="store_true", help="the same bits in every run on "
        "a GPU. It may be slower. On the CPU they are the same anyway")  # fmt: skip
    add("--seed", type=seed, default=0)
    add("-b", "--batch-size", type=batch_size, default=32)
    add("--epochs", type=epochs, default=90)
    add("--opt", choices=paddle_mv3.OPTIMIZERS, default="sgd")
    add("--lr", type=rate, default=0.1)
    add("--momentum", type=rate, default=0.9)
    add("--wd", "--weight-decay", dest="weight_decay", type=rate, default=1e-4)
    add("--norm-weight-decay", type=rate)
    add("--bias-weight-decay", type=rate)
    add("--label-smoothing", type=share, default=0.0)
    add("--clip-grad-norm", type=rate)
    add("--lr-scheduler", choices=paddle_mv3.LR_SCHEDULERS, default="steplr")
    add("--lr-warmup-epochs", type=count_or_0, default=0)
    add("--lr-warmup-method", choices=paddle_mv3.LR_WARMUP_METHODS, default="constant")
    add("--lr-warmup-decay", type=rate, default=0.01)
    add("--lr-step-size", type=count, default=30)
    add("--lr-gamma", type=rate, default=0.1)
    add("--lr-min", type=rate, default=0.0)
    add("--train-crop-size", type=pixels, default=224)
    add("--val-resize-size", type=pixels, default=256)
    add("--val-crop-size", type=pixels, default=224)
    add("--interpolation", choices=("nearest", "bilinear", "bicubic"), default="bilinear")
    add("--auto-augment", choices=("imagenet", "ra", "ta_wide", "augmix"))
    add("--ra-magnitude", type=count_or_0, default=9)
    add("--augmix-severity", type=count, default=3)
    add("--random-erase", type=share, default=0.0)
    add("--mixup-alpha", type=rate, default=0.0)
    add("--cutmix-alpha", type=rate, default=0.0)
    add("--ra-sampler", action="store_true")
    add("--ra-reps", type=repetitions, default=3)
    add("--model-ema", action="store_true")
    add("--model-ema-steps", type=count, default=32)
    add("--model-ema-decay", type=share, default=0.99998)
    add("--output-dir", type=file_path, default=Path("output"))
    add("--result-dir", type=file_path, default=ROOT / "result")
    add("--resume", type=nonempty, metavar="FILE|auto")
    add("--start-epoch", type=count_or_0, default=0)
    add("--test-only", action="store_true")
    add("--print-freq", type=count, default=10)
    add("--save-steps", type=count_or_0, default=0)
    add("--keep-last", type=count, default=3)
    add("--keep-best", type=count, default=1)
    return flags


def default_workers() -> int:
    ranks = int(os.environ.get("PADDLE_LOCAL_SIZE", os.environ.get("PADDLE_TRAINERS_NUM", "1")))
    return min(8, max(1, (os.cpu_count() or 1) // ranks))


def device_of(wanted: str | None) -> str:
    """Either "cpu" or "gpu": as `--device` says or, where that is None, as there is one.

    Raises:
        CannotRun: a GPU is wanted and Paddle sees none.
    """
    has_gpu = paddle.device.cuda.device_count() > 0
    if wanted is None:
        return "gpu" if has_gpu else "cpu"
    if wanted != "cpu" and not has_gpu:
        raise CannotRun("--device gpu: Paddle sees no GPU. Use --device cpu")
    return wanted.replace("cuda", "gpu")


def parse(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a command line, settled.

    Raises:
        CannotRun: arguments that do not go together.
        SystemExit: 2, with argparse's message, for an unknown or bad one.
    """
    flags = parser(description)
    args = flags.parse_args(argv)
    if args.data_path is None:
        flags.set_defaults(**try_out(args.epochs))
        args = flags.parse_args(argv)
    return settle(args)


def try_out(epochs: int) -> dict[str, Any]:
    """The defaults without --data-path, of a training of so many epochs."""
    return {**TRY_OUT, "lr_warmup_epochs": shorter(TRY_OUT["lr_warmup_epochs"], epochs)}


def shorter(lr_warmup_epochs: int, epochs: int) -> int:
    """A default of --lr-warmup-epochs for a training of `epochs`: something is left after it."""
    return min(lr_warmup_epochs, epochs - 1)


def settle(args: argparse.Namespace) -> argparse.Namespace:
    """Puts in what follows from the arguments: lite_data, device, cache. Raises: CannotRun."""
    if args.data_path == TRY_OUT["data_path"]:
        unpack_once(ROOT / "lite_data.tar", args.data_path)
    args.device = device_of(args.device)
    if args.amp and args.device == "cpu":
        raise CannotRun("--amp has no effect in Paddle on the CPU: leave it out, or use a GPU")
    if args.start_epoch >= args.epochs:
        raise CannotRun(
            f"--start-epoch {args.start_epoch} is not before the end: --epochs is {args.epochs}"
        )
    if args.weights and args.pretrained:
        raise CannotRun("--weights and --pretrained: give one of them")
    if args.test_only and not (args.weights or args.pretrained or args.resume):
        raise CannotRun("--test-only evaluates --weights FILE or --resume FILE: give one")
    if args.test_only:
        args.weights, args.resume, args.model_ema = args.weights or args.resume, None, False
        if args.weights == "auto":
            found = checkpoints(args.output_dir)
            if not found:
                raise CannotRun(f"no checkpoint in {shown(args.output_dir)}: give --weights FILE")
            args.weights = found[0]
    if args.pretrained:
        args.weights = "IMAGENET1K_V1"
    args.cache_dir = None
    if args.cache_dataset:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        args.cache_dir = Path(cache) / "paddle_mv3"
    return args


def recipe_of(args: argparse.Namespace) -> dict[str, Any]:
    """{argument: value} of all that decides what is computed; plain values."""
    return {name: v for name, v in vars(args).items() if name not in NOT_THE_RECIPE}


def require_same_recipe(
    args: argparse.Namespace,
    world_size: int,
    dataset: paddle_mv3.ImageFolder,
    state: dict[str, Any],
    path: str | Path,
) -> None:
    """Raises CannotRun unless the checkpoint `state` is one of this very training.

    --epochs may be another number, as long as there is something left of it.
    """
    if "optimizer" not in state:
        raise CannotRun(
            f"{shown(path)} holds weights alone, an average: begin a new training with "
            f"--weights {shown(path)}"
        )
    saved = {**state["args"], "processes": state["world_size"], "images": state["images"]}
    wanted = {**recipe_of(args), "processes": world_size, "images": len(dataset)}
    if state["classes"] != dataset.classes:
        saved["classes"], wanted["classes"] = map(", ".join, (state["classes"], dataset.classes))
    names = [n for n in {**saved, **wanted} if n != "epochs" and saved.get(n) != wanted.get(n)]
    if names:
        differences = ", ".join(
            f"{_flag(name)} is {wanted.get(name)} and was {saved.get(name)}" for name in names
        )
        raise CannotRun(
            f"{shown(path)} is of another training: {differences}. Give the same arguments, or "
            f"begin a new training in another --output-dir with --weights {shown(path)}"
        )
    if state["epoch"] >= args.epochs:
        raise CannotRun(
            f"{shown(path)} is in its epoch {state['epoch']}, counted from 0, and --epochs "
            f"{args.epochs} ends before that: give {state['epoch'] + 1} or more"
        )


def _flag(name: str) -> str:
    if name in ("processes", "images"):
        return f"the number of {name}"
    if name == "classes":
        return "the list of classes"
    return "--wd" if name == "weight_decay" else "--" + name.replace("_", "-")
