"""Writes a trained model for deployment: a Paddle inference model and an ONNX file.

    python export.py --weights output/best_0014.pdparams --output-dir exported
    python export.py --weights … --output-dir exported --format onnx --opset 13

Both take normalised images, (N, 3, crop, crop) float32, any N, and give logits, (N, classes).
Before anything is put into --output-dir, each file is run by paddle.inference or ONNX Runtime on
some images, and must give the logits of the model that was trained.

Exit status: 0 done, 1 a file gives other logits, or they are too small to be judged, and nothing
was written; 2 it could not run.
"""

from __future__ import annotations

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import environment  # isort: skip  (first: Ctrl-C is quiet)

import argparse
import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

environment.require("numpy", "PIL", "paddle", "tabulate")

# Otherwise ONNX Runtime reports to its maker over the network, and writes an id of the machine
# into ~/.cache. Read when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from tabulate import tabulate  # noqa: E402

from alignment.arguments import file_path  # noqa: E402
from alignment.files import (  # noqa: E402
    CannotRun,
    missing,
    reason_of,
    require_writable,
    shown,
    unpack_once,
)
from Checkpoint6 import tools  # noqa: E402
from paddle_mv3.data.dataset import load_input  # noqa: E402

if TYPE_CHECKING:
    import paddle_mv3


ROOT = Path(__file__).resolve().parent.parent

# The largest difference of a logit that passes, over the spread of the logits (the most by which
# two images differ in one of them): so many times the model's own rounding error, which is its
# difference in float32 from itself in float64, and no less than a hundred units of float32.
# Measured with `python benchmarks/export.py`, 16 images, 2 x86 cores: at most 3.5 times, over 20
# sets of live random weights for each model, whose own error is 3e-6 to 8e-4; of a model trained on
# lite_data 1.5 times, which is 7e-7.
IMPRECISE = 30.0
LEAST = 1e-5

# Where the bound would be larger, it would pass what is wrong.
MOST = 0.05

# A spread that is too small to tell two images apart says nothing about the file: as torchvision
# initialises it, MobileNetV3 gives 6e-9, trained for some minutes 2.
SPREAD = 1e-3

IMAGES = 16
STEM = "inference"


def parser() -> argparse.ArgumentParser:
    flags = tools.parser(__doc__)
    tools.add_model(flags)
    add = flags.group("what is written").add_argument
    add("--output-dir", type=file_path, required=True, metavar="DIR",
        help=f"for {STEM}.json and {STEM}.pdiparams (paddle), {STEM}.onnx (onnx)")  # fmt: skip
    add("--format", nargs="+", choices=tuple(FORMATS), default=list(FORMATS),
        help="what to write")  # fmt: skip
    add("--opset", type=int, choices=range(7, 22), default=17, metavar="7…21",
        help="version of ONNX's operators")  # fmt: skip
    add("--images", type=file_path, metavar="FOLDER",
        help=f"to check with, {IMAGES} from it and below; default: lite_data/val")  # fmt: skip
    return flags


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keeps what libraries write to stdout and stderr, from C++ too, for the case of an error."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        before = [os.dup(1), os.dup(2)]
        os.dup2(kept.fileno(), 1)
        os.dup2(kept.fileno(), 2)
        unclear = False
        try:
            yield
        except Exception as error:
            unclear = not isinstance(error, OSError)
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(before, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            if unclear:
                kept.seek(0)
                os.write(2, kept.read())


@contextlib.contextmanager
def writing(where: str) -> Iterator[None]:
    """Raises CannotRun for an OSError within: `where` cannot be written."""
    try:
        yield
    except OSError as error:
        raise CannotRun(
            f"cannot write {where}: {reason_of(error)}. Make room or make it writable, or "
            "choose another folder"
        ) from error


def require_place(target: Path, where: str) -> None:
    """Raises CannotRun where no folder `target` can be made, or nothing be written into it."""
    with writing(where):
        with contextlib.suppress(FileNotFoundError):
            target.lstat()  # a name that is too long raises here
        if missing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=target.parent).close()
        else:
            require_writable(target)


def place(folder: Path, target: Path, files: Sequence[str]) -> None:
    """Copies `files` of a folder into `target`, none before all of them are there."""
    prefix = f".{target.name[:50]}."
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as temporary:
        for file in files:
            shutil.copyfile(folder / file, Path(temporary, file))
        target.mkdir(exist_ok=True)
        for file in files:
            os.replace(Path(temporary, file), target / file)


def write_paddle(trained: tools.Trained, folder: Path) -> None:
    """Writes `folder`/inference.json, the network, and inference.pdiparams, its weights."""
    shape = [None, 3, trained.crop_size, trained.crop_size]
    spec = paddle.static.InputSpec(shape, "float32", "image")
    with silenced():
        network = paddle.jit.to_static(trained.model, input_spec=[spec], full_graph=True)
        paddle.jit.save(network, str(folder / STEM))


def write_onnx(folder: Path, opset: int) -> None:
    """Writes `folder`/inference.onnx from what `write_paddle` wrote."""
    import paddle2onnx

    program, weights = (str(folder / f"{STEM}{suffix}") for suffix in (".json", ".pdiparams"))
    with silenced():
        # Without a file to save to, it leaves out its optimisers: one of them starts pip.
        model = paddle2onnx.export(
            program, weights, opset_version=opset, auto_upgrade_opset=False, optimize_tool=None
        )
    (folder / f"{STEM}.onnx").write_bytes(model)


def run_paddle(folder: Path, onednn: bool) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to logits: the inference model on the CPU."""
    from paddle import inference

    files = (str(folder / f"{STEM}{suffix}") for suffix in (".json", ".pdiparams"))
    config = inference.Config(*files)
    config.disable_gpu()
    config.disable_glog_info()
    if onednn:
        config.enable_onednn()
    else:
        config.disable_onednn()
    predictor = inference.create_predictor(config)
    (source,), (target,) = predictor.get_input_names(), predictor.get_output_names()

    def logits(images: np.ndarray) -> np.ndarray:
        predictor.get_input_handle(source).copy_from_cpu(images)
        predictor.run()
        return predictor.get_output_handle(target).copy_to_cpu()

    return logits


def run_onnx(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images to logits: the ONNX file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # paddle2onnx leaves constants in that nothing uses
    session = onnxruntime.InferenceSession(
        str(folder / f"{STEM}.onnx"), options, providers=["CPUExecutionProvider"]
    )
    (source,) = session.get_inputs()
    return lambda images: session.run(None, {source.name: images})[0]


# {format: (its files, {who runs them: function of a folder})}. oneDNN is what paddle.inference
# uses on a CPU unless it is told not to.
FORMATS = {
    "paddle": (
        [f"{STEM}.json", f"{STEM}.pdiparams"],
        {
            "Paddle": lambda folder: run_paddle(folder, onednn=False),
            "Paddle with oneDNN": lambda folder: run_paddle(folder, onednn=True),
        },
    ),
    "onnx": ([f"{STEM}.onnx"], {"ONNX Runtime": run_onnx}),
}


def require_packages(formats: Sequence[str]) -> None:
    """Raises CannotRun if a package is missing."""
    if "onnx" not in formats:
        return
    for package in ("paddle2onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise CannotRun(
                f"missing package: {package}. Run: pip install -r requirements.txt, or leave ONNX "
                "out by --format paddle"
            )


def check_images(folder: Path, preset: paddle_mv3.ClassificationPresetEval) -> np.ndarray:
    """(n, 3, crop, crop) float32, n from 2 to 16, evenly spread over the images of a folder.

    Raises:
        CannotRun: fewer than two images, or an archive that cannot be unpacked.
        OSError: an image that cannot be decoded.
    """
    if folder is None:
        unpack_once(ROOT / "lite_data.tar", ROOT / "lite_data")
        folder = ROOT / "lite_data" / "val"
    files = tools.image_files([folder])
    if len(files) < 2:
        raise CannotRun(f"{shown(folder)} holds one image: a check needs two or more")
    chosen = np.linspace(0, len(files) - 1, min(IMAGES, len(files))).round().astype(int)
    return np.stack([load_input(files[i], preset) for i in chosen])


def spread_of(reference: np.ndarray) -> float:
    """The most by which two images differ in a logit. Raises: CheckFailed, if it is too small."""
    spread = float((reference.max(axis=0) - reference.min(axis=0)).max())
    if spread < SPREAD:
        raise tools.CheckFailed(
            f"the logits of {len(reference)} images differ by {spread:.1g} at most, too little to "
            f"judge what is exported ({SPREAD:g} is needed): are the weights trained, and the "
            "images different? Nothing was written"
        )
    return spread


def bound_for(model: paddle.nn.Layer, images: np.ndarray, reference: np.ndarray) -> float:
    """The largest relative difference that is rounding. Raises: CheckFailed, if it is too large."""
    model.to(dtype="float64")
    exact = tools.logits_of(model, images.astype(np.float64))
    model.to(dtype="float32")  # the same bits as before
    bound = max(LEAST, IMPRECISE * float(np.abs(reference - exact).max() / spread_of(reference)))
    if bound > MOST:
        raise tools.CheckFailed(
            f"rounding to float32 moves the model's own logits by {bound / IMPRECISE:.1g} of their "
            "spread, too much to judge what is exported. Nothing was written"
        )
    return bound


def compare(
    reference: np.ndarray, logits: np.ndarray, bound: float
) -> tuple[float, int, str | None]:
    """How far `logits` are from `reference`, both (n, classes).

    Returns:
        (the largest difference over the spread of the reference, the number of images with the
        same top-1, what is wrong or None). An image's top-1 may be another where its two largest
        logits are no further apart than the largest difference.
    """
    if logits.shape != reference.shape:
        return np.inf, 0, f"their shape is {logits.shape}, not {reference.shape}"
    difference = np.abs(logits - reference).max()
    relative = float(difference / spread_of(reference))
    first, second = np.sort(reference, axis=1)[:, :-3:-1].T
    same = logits.argmax(axis=1) == reference.argmax(axis=1)
    wrong = None
    if not relative <= bound:  # NaN too
        wrong = f"by {relative:.2g} of their spread, and {bound:.2g} is the most for rounding"
    elif (~same & (first - second > difference)).any():
        wrong = f"{(~same).sum()} of {len(same)} images have another top-1"
    return relative, int(same.sum()), wrong


def check(
    folder: Path, formats: Sequence[str], images: np.ndarray, reference: np.ndarray, bound: float
) -> list[list[Any]]:
    """Runs each file with batches of one image and of all. Returns the rows of a table.

    Raises:
        CheckFailed: a file cannot be run, or gives other logits; says by how much.
    """
    rows = []
    for name in formats:
        files, runners = FORMATS[name]
        size = sum((folder / file).stat().st_size for file in files)
        about = [", ".join(files), f"{size / 1e6:.1f}"]
        for runner, start in runners.items():
            differences, agreeing = [], []
            for batch_size in (1, len(images)):
                try:
                    output = outputs(start(folder), images, batch_size)
                except Exception as error:  # of whatever type a runtime has
                    raise tools.CheckFailed(
                        f"{runner} cannot run {about[0]}: {reason_of(error)}. Nothing was written"
                    ) from error
                difference, same, wrong = compare(reference, output, bound)
                if wrong:
                    raise tools.CheckFailed(
                        f"{about[0]}, run by {runner} in batches of {batch_size}, gives other "
                        f"logits than the model: {wrong}. Nothing was written"
                    )
                differences.append(difference)
                agreeing.append(same)
            rows.append(
                [*about, runner, f"{max(differences):.1e}", f"{min(agreeing)} of {len(images)}"]
            )
            about = ["", ""]
    return rows


def outputs(
    logits: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch_size: int
) -> np.ndarray:
    """(n, classes) that the function `logits` gives for all images, in batches."""
    batches = range(0, len(images), batch_size)
    return np.concatenate([logits(images[i : i + batch_size]) for i in batches])


def main(args: argparse.Namespace) -> None:
    """Raises: CannotRun, OSError: bad input. CheckFailed."""
    formats = [name for name in FORMATS if name in args.format]
    require_packages(formats)
    paddle.set_device("cpu")
    where, target = shown(args.output_dir), args.output_dir.absolute()
    require_place(target, where)  # before any time is spent
    trained = tools.load_trained(args)
    images = check_images(args.images, trained.preset)
    reference = tools.logits_of(trained.model, images)
    spread = spread_of(reference)
    bound = bound_for(trained.model, images, reference)

    # Made elsewhere: a path that is not UTF-8 cannot be given to Paddle or ONNX Runtime.
    with tempfile.TemporaryDirectory() as temporary, writing(where):
        folder = Path(temporary)
        write_paddle(trained, folder)
        if "onnx" in formats:
            write_onnx(folder, args.opset)
        rows = check(folder, formats, images, reference, bound)
        place(folder, target, [file for name in formats for file in FORMATS[name][0]])
    headers = ["file", "MB", "run by", "largest difference", "same top-1"]
    print(tabulate(rows, headers, disable_numparse=True, colalign=("left", "right")))
    crop = trained.crop_size
    print(
        f"{trained.name}, images (N, 3, {crop}, {crop}) float32 -> logits (N, "
        f"{trained.num_classes}); differences over the spread of the logits, {spread:.3g}, in "
        f"batches of 1 and {len(images)}; bound {bound:.1e}"
    )
    print(f"-> {where}")


if __name__ == "__main__":
    tools.run(main, parser())
