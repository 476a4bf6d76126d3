"""What both trainers say and write alike, the port's and the reference's. No framework in here."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import Parser
from .files import CannotRun, reason_of, shown, whole_file
from .origin import sha256_of

__all__ = [
    "USAGE",
    "add_flag",
    "classes_of_head",
    "described_training",
    "differences",
    "load_training",
    "new_head",
    "not_finite",
    "other_classes",
    "other_epochs",
    "training_of",
    "write_top1",
]


def new_head(head: str) -> str:
    """What a fine-tuning begins with; `head` is the name of the layer that gives the logits."""
    return f"its last layer, {head}, is initialised anew, all others are as in the file"


def classes_of_head(weight: Sequence[int], bias: Sequence[int], width: int) -> int | None:
    """N, if a last layer's weight has the shape (width, N) and its bias (N,); None otherwise.

    Args:
        weight, bias: shapes.
        width: of the model's layer, the number of features that go into it.
    """
    fits = len(weight) == 2 and weight[0] == width and tuple(bias) == (weight[1],)
    return weight[1] if fits and weight[1] > 0 else None


def not_finite(weights: str, name: str) -> str:
    """What is wrong where an entry of a file of weights is infinite or no number."""
    return (
        f"{weights} cannot be used: {name} in it holds infinite values or NaN. Give other weights, "
        "such as those of an earlier checkpoint"
    )


def other_classes(weights: str, trained_for: int | None, data: str, num_classes: int) -> str:
    """What is wrong where weights are for another number of classes than the data has."""
    return f"{weights} is of a model for {trained_for} classes, and {data} has {num_classes}"


def other_epochs(
    args: argparse.Namespace,
    before: int,
    epoch: int,
    rates: Sequence[float],
    decays: Sequence[float] | None = None,
) -> list[str]:
    """[line] on what --epochs changes where a training is resumed that began with another number.

    Args:
        args: of the command line.
        before: --epochs until now.
        epoch: that is trained next, from 0.
        rates: the learning rate of that epoch by the schedule of `before`, and by that of now.
        decays: of the moving average before and now, or None.
    """
    lines = []
    if args.lr_scheduler == "cosineannealinglr":
        lines.append(
            f"--epochs is {args.epochs} and was {before}: the cosine now ends with epoch "
            f"{args.epochs - 1}; the learning rate of epoch {epoch} becomes {rates[1]:.6g}, and "
            f"would have been {rates[0]:.6g}"
        )
    else:
        lines.append(
            f"--epochs is {args.epochs} and was {before}: {args.lr_scheduler} goes on as it is, "
            f"with a learning rate of {rates[1]:.6g} in epoch {epoch}"
        )
    if decays:
        lines.append(
            f"the decay of the moving average follows --epochs: it becomes {decays[1]:.6g}, and "
            f"was {decays[0]:.6g}"
        )
    return lines


# --- their flags, which are those of torchvision's references/classification ---

# {group of --help: {flag: what it does}}
FLAGS = {
    "the data and the model": {
        "--data-path": "folder with the folders train and val",
        "--model": "which network",
        "--weights": "weights to begin with: a checkpoint, a state_dict, or IMAGENET1K_V1, which "
        "are torchvision's",
        "--pretrained": "the same as --weights IMAGENET1K_V1",
        "--cache-dataset": "keep the list of image files in ~/.cache/paddle_mv3. It is made anew "
        "when a folder changes",
        "--skip-corrupt": "leave out up to N image files that cannot be decoded",
    },
    "where it runs": {
        "--device": "where it computes. Default: a GPU where the framework sees one",
        "--workers": "processes that load images, for each process that trains",
        "--sync-bn": "batch norm over the images of all processes",
        "--amp": "mixed precision, on a GPU. O2: the weights are in 16 bits too",
        "--amp-dtype": "of mixed precision",
        "--use-deterministic-algorithms": "the same bits in every run on a GPU. It may be slower",
        "--seed": "of all random numbers",
    },
    "the optimizer": {
        "--batch-size": "images of one process in a step",
        "--epochs": "how long to train",
        "--opt": "optimizer",
        "--lr": "learning rate after the warm-up",
        "--momentum": "of sgd and rmsprop",
        "--weight-decay": "weight decay of all other parameters than those of the next two flags",
        "--norm-weight-decay": "of normalisation layers. Default: as --wd",
        "--bias-weight-decay": "of biases. Default: as --wd",
        "--label-smoothing": "share of a label that is spread over all classes",
        "--clip-grad-norm": "largest norm of all gradients together. Default: no limit",
    },
    "the learning rate": {
        "--lr-scheduler": "how it falls after the warm-up",
        "--lr-warmup-epochs": "epochs of warm-up",
        "--lr-warmup-method": "linear: the rate grows with each epoch. constant: it stays low",
        "--lr-warmup-decay": "share of --lr with which the warm-up begins",
        "--lr-step-size": "epochs between two steps of steplr",
        "--lr-gamma": "factor of each step of steplr, of each epoch of exponentiallr",
        "--lr-min": "where cosineannealinglr ends",
    },
    "the images": {
        "--train-crop-size": "pixels a side, to train on",
        "--val-resize-size": "pixels of the shorter side, before the centre crop",
        "--val-crop-size": "pixels a side, to evaluate on",
        "--interpolation": "how images are resized",
        "--auto-augment": "policy that changes images at random. Default: none",
        "--ra-magnitude": "of --auto-augment ra",
        "--augmix-severity": "of --auto-augment augmix",
        "--random-erase": "probability that a piece of an image is erased",
        "--mixup-alpha": "mix two images, with shares from Beta(X, X). 0: never",
        "--cutmix-alpha": "paste a piece of one image into another, sized by Beta(X, X). 0: never",
        "--ra-sampler": "repeated augmentation: each image several times in an epoch",
        "--ra-reps": "how often, with --ra-sampler",
    },
    "the moving average of the weights": {
        "--model-ema": "keep an exponential moving average, and evaluate it too",
        "--model-ema-steps": "steps from one update of it to the next",
        "--model-ema-decay": "how much of the old average an update keeps. It is adjusted to "
        "the batch size and the number of epochs",
    },
    "output": {
        "--output-dir": "folder of checkpoints and logs",
        "--result-dir": "folder of the last accuracy, which compare_top1.py reads",
        "--resume": "checkpoint to go on from. auto: the newest in --output-dir, or a new training "
        "where there is none",
        "--start-epoch": "first epoch of a training that is not resumed",
        "--test-only": "evaluate --weights or --resume, and end",
        "--print-freq": "steps from one line to the next",
        "--save-steps": "steps from one checkpoint to the next. 0: one after each epoch only",
        "--keep-last": "how many checkpoints are kept",
        "--keep-best": "how many are kept of those that were the best when they were made",
    },
}
USAGE = "%(prog)s [@RECIPE] [flags]"


def add_flag(parser: Parser, *names: str, **options: Any) -> None:
    """Adds one of FLAGS, under the last of `names`; `options` as of argparse."""
    title = next(title for title, flags in FLAGS.items() if names[-1] in flags)
    parser.group(title).add_argument(*names, **{"help": FLAGS[title][names[-1]], **options})


# --- what an accuracy is of ---

# Of the recipe, what has a place of its own in the description of a training.
_TOLD = ("model", "epochs", "batch_size", "seed", "processes")
_LARGEST = 1 << 20  # bytes of a description


def training_of(
    recipe: Mapping[str, Any], processes: int, data_path: Path, train_set: Any, eval_set: Any
) -> dict[str, Any]:
    """What decides which accuracy a training reaches: plain values, alike on both sides.

    Args:
        recipe: {argument: value} of all that decides what is computed.
        train_set, eval_set: with `classes`, and `samples` of (path, class index).
    """
    return {
        "model": recipe["model"],
        "folder": os.path.basename(os.path.realpath(data_path)),
        "classes": len(train_set.classes),
        "train": _fingerprint(data_path / "train", train_set),
        "val": _fingerprint(data_path / "val", eval_set),
        "epochs": recipe["epochs"],
        "images in a step": recipe["batch_size"] * processes,
        "recipe": {name: value for name, value in recipe.items() if name not in _TOLD},
        "seeds": [recipe["seed"]],
    }


def _fingerprint(folder: Path, dataset: Any) -> dict[str, Any]:
    """The same for the same files on every machine, wherever the folder lies there."""
    start = len(os.path.join(folder, ""))
    digest = hashlib.sha256()
    for name in sorted(os.fsencode(path[start:]) for path, _ in dataset.samples):
        digest.update(name.replace(os.fsencode(os.sep), b"/") + b"\0")
    return {"images": len(dataset.samples), "sha256": digest.hexdigest()}


def write_top1(path: Path, top1: float, training: Mapping[str, Any]) -> None:
    """Writes an accuracy, in per cent, as reprod_log does; beside it, as JSON, what it is of.

    Args:
        path: of the .npy.
        training: of `training_of`.

    Raises:
        CannotRun: they cannot be written.
    """
    from reprod_log import ReprodLogger  # it imports paddle, which the reference has no need of

    log = ReprodLogger()
    log.add("top1", np.array([top1]))
    with whole_file(path) as temporary:
        log.save(str(temporary))
    entry = {"sha256": sha256_of(path), "training": training}
    with whole_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")


def load_training(path: Path) -> dict[str, Any]:
    """What the accuracy in `path`, a .npy, is of: as `training_of` gives it.

    Raises:
        CannotRun: that is not known.
    """
    beside = path.with_suffix(".json")
    unknown = f"it cannot be told what {shown(path)} was trained on"
    try:
        with open(beside, "rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError("too large")
        entry = json.loads(text)
        training, digest = entry["training"], entry["sha256"]
        described_training(training)
        differences(training, training)
    except FileNotFoundError:
        raise CannotRun(
            f"{unknown}: there is no {shown(beside)}, which its trainer writes with it"
        ) from None
    except OSError as error:
        raise CannotRun(f"{unknown}: cannot read {shown(beside)}: {reason_of(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CannotRun(f"{unknown}: {shown(beside)} is damaged") from error
    if digest != sha256_of(path):
        raise CannotRun(f"{unknown}: {shown(beside)} is of another one, an older or a newer")
    return training


def described_training(training: Mapping[str, Any]) -> str:
    """In words, without the recipe."""
    seeds = training["seeds"]
    count = f", mean of {len(seeds)} seeds" if len(seeds) > 1 else ""
    return f"{training['model']}, {training['epochs']} epochs on {_data(training)}{count}"


def _data(training: Mapping[str, Any]) -> str:
    return (
        f"{training['folder']} ({training['train']['images']:,} and {training['val']['images']:,} "
        f"images of {training['classes']:,} classes)"
    )


def differences(port: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """[text] on what the trainings of two accuracies differ in. Seeds may be others."""
    found = []
    if any(port[part] != reference[part] for part in ("train", "val", "classes")):
        names = [_data(training) for training in (port, reference)]
        also = "" if names[0] != names[1] else ", whose files have other names"
        found.append(f"data: {names[0]} | {names[1]}{also}")
    for name in ("model", "epochs", "images in a step"):
        if port[name] != reference[name]:
            found.append(f"{name}: {port[name]} | {reference[name]}")
    recipes = port["recipe"], reference["recipe"]
    for name in sorted({**recipes[0], **recipes[1]}):
        a, b = (recipe.get(name) for recipe in recipes)
        if a != b:
            found.append(f"{name}: {a} | {b}")
    return found
