"""The last top-1 of two trainings: whether the port's is below the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..diff import DiffHelper
from ..files import CannotRun, load_record, missing, shown
from ..step import StepReport
from ..trainers import described_training, differences, load_training

__all__ = [
    "PORT",
    "REFERENCE",
    "compare_records",
    "load_top1",
    "report",
    "require_same_training",
]

PORT, REFERENCE = "train_align_paddle.npy", "train_align_benchmark.npy"
IMAGENET = 1000  # classes


class Top1DiffHelper(DiffHelper):
    """Compares accuracies: a tolerance may be more than a hundredth of them.

    Args:
        failure: why they are not aligned whatever their difference is, or None.
    """

    scale_over_threshold = 0

    def __init__(self, failure: str | None = None) -> None:
        super().__init__()
        self.failure = failure

    def compare_info(self, *records: Any, **more: Any) -> None:
        super().compare_info(*records, **more)
        if self.failure:
            self.reasons.setdefault("top1", f"top1: {self.failure}")


def report(
    reference: Mapping[str, np.ndarray],
    port: Mapping[str, np.ndarray],
    tolerance: float,
    folder: Path,
    lines: Sequence[str] = (),
    failure: str | None = None,
    hint: str | None = None,
) -> bool:
    """Prints reprod_log's report and the verdict; writes both to `folder`/log.

    Args:
        reference, port: {"top1": (1,) array, in per cent}.
        tolerance: in percentage points.
        lines: what to say under the verdict.

    Returns:
        bool, whether they are aligned.
    """
    helper = Top1DiffHelper(failure)
    helper.compare_info(reference, port)
    step = StepReport(helper, folder / "log" / "train_align_diff.log", tolerance)
    step.say(*lines)
    return step.finish(hint)


def load_top1(path: Path, made_by: str) -> dict[str, np.ndarray]:
    """{"top1": (1,) float64 array}. Raises: CannotRun."""
    if missing(path):
        raise CannotRun(f"no {shown(path)}: {made_by} writes it at the end of its training")
    record = load_record(path)
    top1 = record.get("top1")
    value = -1.0
    if top1 is not None and top1.size == 1 and top1.dtype.kind in "fiu":
        value = float(top1.ravel()[0])
    if not 0 <= value <= 100:
        raise CannotRun(f"{shown(path)} holds no top-1 in per cent: create it again with {made_by}")
    return {"top1": np.array([value])}


def require_same_training(port: Path, reference: Path) -> dict[str, Any]:
    """What two accuracies are of, if it is the same but for the seeds; of their files.

    Raises:
        CannotRun: it is not, and in what; or it is not known.
    """
    try:
        trainings = [load_training(path) for path in (port, reference)]
    except CannotRun as error:
        raise CannotRun(f"{error}. Train again, or give --published") from error
    found = differences(*trainings)
    if found:
        more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
        raise CannotRun(
            f"{shown(port)} and {shown(reference)} are of two different trainings: "
            f"{'; '.join(found[:4])}{more}. Train both with the same data and recipe"
        )
    return trainings[0]


def require_telling(training: Mapping[str, Any], tolerance: float, published: float | None) -> None:
    """Raises CannotRun where the accuracies of such a training cannot be judged so finely."""
    images = training["val"]["images"]
    if published and training["classes"] != IMAGENET:
        raise CannotRun(
            f"a published accuracy is of ImageNet's {IMAGENET:,} classes, and the port's is "
            f"{described_training(training)}"
        )
    if 100 / images > tolerance:
        raise CannotRun(
            f"--tolerance {tolerance:g}: there are {images:,} images to evaluate, and one of them "
            f"is {100 / images:.3g} points. Give a larger --tolerance, or compare small trainings "
            "by align_learning.py, over several seeds"
        )


def compare_records(folder: Path, tolerance: float, published: float | None, scripts: Any) -> bool:
    """Compares the port's record in `folder` with the reference's, or with a published accuracy.

    Args:
        tolerance: in percentage points.
        published: accuracy in per cent that takes the place of the reference's, or None.
        scripts: {PORT: name, REFERENCE: name} of the trainers' scripts, for messages.

    Returns:
        whether they are aligned.

    Raises:
        CannotRun: a record is missing or damaged, or the two cannot be compared so finely.
    """
    files = folder / PORT, folder / REFERENCE
    port = load_top1(files[0], scripts[PORT])
    if published is None:
        reference = load_top1(files[1], scripts[REFERENCE])
        name = "reference"
        training = require_same_training(*files)
        require_telling(training, tolerance, published=False)
        trained = described_training(training)
    else:
        reference, name = {"top1": np.array([published])}, "published"
        try:
            training = load_training(files[0])
        except CannotRun as error:
            trained = str(error)
        else:
            require_telling(training, tolerance, published=True)
            trained = described_training(training)
    above = float(port["top1"][0] - reference["top1"][0])
    side = "above" if above >= 0 else "below"
    line = (
        f"top1 in per cent: port {port['top1'][0]:.3f}, {name} {reference['top1'][0]:.3f}: "
        f"{abs(above):.3f} points {side}, tolerance {tolerance:g}"
    )
    if above > tolerance:
        line += "; only an accuracy below the reference's counts against a port"
    return report(
        reference,
        port,
        max(tolerance, above),
        folder,
        [line, f"the port: {trained}"],
        hint="the same recipe and data on both sides, steps 02 to 05, other seeds",
    )
