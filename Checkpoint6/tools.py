"""What average_checkpoints.py, predict.py and export.py share: a trained model, images, errors."""

from __future__ import annotations

import argparse
import contextlib
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import paddle
from PIL import Image

import paddle_mv3
from alignment import environment
from alignment.arguments import Formatter, Parser, file_path, pixels
from alignment.files import CannotRun, described, reason_of, shown
from alignment.screen import CANNOT_RUN, leave
from Checkpoint6 import checkpoint
from paddle_mv3.data.listing import EXTENSIONS, walk

paddle.disable_signal_handler()  # it can hang for ever; see alignment/cli.py

__all__ = [
    "CheckFailed",
    "Trained",
    "add_model",
    "image_files",
    "load_trained",
    "logits_of",
    "parser",
    "run",
]

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
# What a file of weights alone does not say; train.py's defaults.
DEFAULTS: dict[str, Any] = {
    "model": "mobilenet_v3_small",
    "val_crop_size": 224,
    "val_resize_size": 256,
    "interpolation": "bilinear",
}


# What a file may say of itself. Of an image, in pixels: 200 MB in float32.
MAX_SIZE = 4096
# ImageNet-21k has 21,841; 100,000 take 500 MB.
MAX_CLASSES = 100_000


class CheckFailed(Exception):
    """What was made is not right, or cannot be judged: exit status 1."""


class Trained(NamedTuple):
    """A model in eval mode, float32, and what was trained with it.

    preset maps an RGB image to (3, crop_size, crop_size) float32; classes are names, or None.
    """

    model: paddle.nn.Layer
    name: str
    preset: paddle_mv3.ClassificationPresetEval
    crop_size: int
    num_classes: int
    classes: list | None


def parser(description: str) -> Parser:
    return Parser(description=description, formatter_class=Formatter)


def add_model(flags: Parser) -> None:
    """Adds what `load_trained` reads."""
    add = flags.group("the model and its images").add_argument
    add("--weights", type=file_path, required=True, metavar="FILE",
        help="a checkpoint of train.py or average_checkpoints.py, or a state_dict")  # fmt: skip
    for name, what, options in (
        ("model", "which network", {"choices": sorted(paddle_mv3.MODELS)}),
        ("val_crop_size", "pixels a side", {"type": pixels}),
        ("val_resize_size", "pixels of the shorter side, before the crop", {"type": pixels}),
        (
            "interpolation",
            "how images are resized",
            {"choices": INTERPOLATIONS},
        ),
    ):
        why = f"Default: as the checkpoint was trained, otherwise {DEFAULTS[name]}"
        add(f"--{name.replace('_', '-')}", help=f"{what}. {why}", **options)


def run(
    main: Callable[[argparse.Namespace], int | None],
    flags: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Parses the command line, runs `main(args)`, leaves with the exit status.

    The status is what `main` returns, None being 0; 1 with one line on stderr if it raises
    CheckFailed, 2 if it raises CannotRun or OSError.
    """
    args = flags.parse_args(argv)
    environment.imported()
    status, message = CANNOT_RUN, ""
    try:
        status = main(args) or 0
    except CheckFailed as error:
        status, message = 1, str(error)
    except CannotRun as error:
        message = str(error)
    except OSError as error:
        message = described(error)
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        message = f"{type(error).__name__}: {reason_of(error)}"
    leave(status, message)


def load_trained(args: argparse.Namespace) -> Trained:
    """The Trained of a command line. What it leaves open is as the checkpoint says.

    Raises:
        CannotRun: --weights cannot be read, or does not fit the model.
    """
    path = args.weights
    arrays, state = checkpoint.read_weights(path)
    chosen = {
        **DEFAULTS,
        **{n: v for n, v in state.get("args", {}).items() if n in DEFAULTS},
        **{n: v for n, v in vars(args).items() if n in DEFAULTS and v is not None},
    }
    _require_usable(chosen, path)
    bias_name = f"{paddle_mv3.HEAD}.bias"
    if bias_name not in arrays:
        raise CannotRun(
            f"{shown(path)} holds no weights of a MobileNetV3: there is no {bias_name} in it"
        )
    # A model of as many classes as a damaged bias is long would not fit into memory.
    bias = arrays[bias_name]
    if bias.ndim != 1 or not 0 < bias.size <= MAX_CLASSES:
        raise CannotRun(
            f"{shown(path)} does not fit the model: {bias_name} is {list(bias.shape)}, "
            f"wanted one number for each of up to {MAX_CLASSES:,} classes"
        )
    num_classes = bias.size
    model = paddle_mv3.MODELS[chosen["model"]](num_classes=num_classes)
    # Trained with --amp O2, most are in 16 bits.
    arrays = {name: checkpoint.as_float32(array) for name, array in arrays.items()}
    checkpoint.load_model(model, arrays, path)
    model.eval()
    preset = paddle_mv3.ClassificationPresetEval(
        chosen["val_crop_size"],
        chosen["val_resize_size"],
        Image.Resampling[chosen["interpolation"].upper()],
    )
    name, crop_size = chosen["model"], chosen["val_crop_size"]
    return Trained(model, name, preset, crop_size, num_classes, state.get("classes"))


def _require_usable(chosen: Mapping[str, Any], path: Path) -> None:
    """Raises CannotRun unless what a checkpoint says of its model and images can be used."""
    choices = {
        "model": sorted(paddle_mv3.MODELS),
        "interpolation": ("nearest", "bilinear", "bicubic"),
    }
    for name, wanted in choices.items():
        if chosen[name] not in wanted:
            raise CannotRun(
                f"{shown(path)} is of the {name} {chosen[name]!a:.80}, which is none of "
                + ", ".join(wanted)
            )
    for name in ("val_crop_size", "val_resize_size"):
        if not isinstance(chosen[name], int) or not 0 < chosen[name] <= MAX_SIZE:
            raise CannotRun(
                f"{shown(path)} is of images of a {name} of {chosen[name]!a:.80}: wanted a whole "
                f"number from 1 to {MAX_SIZE}"
            )


def logits_of(model: paddle.nn.Layer, batch: np.ndarray) -> np.ndarray:
    """(N, 3, H, W) float32 array -> (N, classes) float32 array.

    Raises:
        CannotRun: they are infinite or no numbers.
    """
    with paddle.no_grad():
        logits = model(paddle.to_tensor(batch)).numpy()
    if not np.isfinite(logits).all():
        raise CannotRun(
            "the model's logits are infinite or no numbers: its weights, or their training, are bad"
        )
    return logits


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, and for each folder all images in it and below, sorted.

    Raises:
        CannotRun: nothing there, or a folder without images.
        OSError: a folder that cannot be read, or whose links have no end.
    """
    files = []
    for path in paths:
        if path.is_dir():
            found = [
                Path(folder, name)
                for folder, _, names in sorted(walk(str(path)))
                for name in sorted(names)
                if name.lower().endswith(EXTENSIONS)
            ]
            if not found:
                os.scandir(path).close()  # as the walk passes over what it cannot read
                raise CannotRun(f"no images in {shown(path)}: looked for {' '.join(EXTENSIONS)}")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise CannotRun(f"no such image or folder: {shown(path)}")
    return files
