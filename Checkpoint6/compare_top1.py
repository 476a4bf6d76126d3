"""Compares the last top-1 of the port's training with the reference's: the last check point.

    python compare_top1.py                          # both trained: train.py, torch_ref/train.py
    python compare_top1.py --published 67.668       # with torchvision's published accuracy

Reads train_align_paddle.npy and train_align_benchmark.npy in --result-dir, and beside each of them
the .json that says what was trained on what: only what was trained alike is compared. Writes
log/train_align_diff.log there. A port is reproduced if its accuracy is not below the reference's:
one that is above by more than the tolerance passes, and it is said by how much.

Exit status: 0 aligned, 1 the port is below the reference by more than the tolerance, 2 it could
not run.
"""

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import environment  # isort: skip  (first: Ctrl-C is quiet)

from pathlib import Path

environment.require("numpy", "PIL", "paddle", "reprod_log")

import numpy as np  # noqa: E402

from alignment.arguments import file_path, number, rate  # noqa: E402
from alignment.diff import DiffHelper  # noqa: E402
from alignment.files import CannotRun, load_record, missing, shown  # noqa: E402
from alignment.trainers import described_training, differences, load_training  # noqa: E402
from Checkpoint6 import tools  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

PORT, REFERENCE = "train_align_paddle.npy", "train_align_benchmark.npy"
IMAGENET = 1000  # classes

per_cent = number(float, above=1, high=100, wanted="an accuracy in per cent, above 1, up to 100")


class Top1DiffHelper(DiffHelper):
    """Compares accuracies: a tolerance may be more than a hundredth of them.

    Args:
        failure: why they are not aligned whatever their difference is, or None.
    """

    scale_over_threshold = 0

    def __init__(self, failure=None):
        super().__init__()
        self.failure = failure

    def compare_info(self, *records, **more):
        super().compare_info(*records, **more)
        if self.failure:
            self.reasons.setdefault("top1", f"top1: {self.failure}")


def report(reference, port, tolerance, folder, lines=(), failure=None, hint=None):
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
    return helper.report(
        diff_threshold=tolerance,
        path=folder / "log" / "train_align_diff.log",
        findings=(True, list(lines)),
        hint=hint,
    )


def load_top1(path, made_by):
    """{"top1": (1,) float64 array}. Raises: CannotRun."""
    if missing(path):
        raise CannotRun(f"no {shown(path)}: {made_by} writes it at the end of its training")
    record = load_record(path)
    top1 = record.get("top1")
    is_number = top1 is not None and top1.size == 1 and top1.dtype.kind in "fiu"
    if not is_number or not 0 <= (value := float(top1.ravel()[0])) <= 100:
        raise CannotRun(
            f"{shown(path)} holds no top-1 in per cent: made anew by {made_by}, it does"
        )
    return {"top1": np.array([value])}


def require_same_training(port, reference):
    """What two accuracies are of, if it is the same but for the seeds; of their files.

    Raises:
        CannotRun: it is not, and in what; or it is not known.
    """
    try:
        trainings = [load_training(path) for path in (port, reference)]
    except CannotRun as error:
        raise CannotRun(f"{error}. Train anew, or give --published") from error
    found = differences(*trainings)
    if found:
        more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
        raise CannotRun(
            f"{shown(port)} and {shown(reference)} are of two different trainings: "
            f"{'; '.join(found[:4])}{more}. Train both with the same data and recipe"
        )
    return trainings[0]


def require_telling(training, tolerance, published):
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


def parser():
    flags = tools.parser(__doc__)
    add = flags.add_argument
    add("--published", type=per_cent, metavar="TOP1",
        help="compare with this accuracy, in per cent, not with the record")  # fmt: skip
    add("--tolerance", type=rate, default=0.15, help="percentage points")
    add("--result-dir", type=file_path, default=ROOT / "result", help="folder of the records")
    return flags


def main(args):
    """Returns the exit status. Raises: CannotRun."""
    files = args.result_dir / PORT, args.result_dir / REFERENCE
    port = load_top1(files[0], "Checkpoint6/train.py")
    if args.published is None:
        reference = load_top1(files[1], "torch_ref/train.py")
        name = "reference"
        training = require_same_training(*files)
        require_telling(training, args.tolerance, published=False)
        trained = described_training(training)
    else:
        reference, name = {"top1": np.array([args.published])}, "published"
        try:
            training = load_training(files[0])
        except CannotRun as error:
            trained = str(error)
        else:
            require_telling(training, args.tolerance, published=True)
            trained = described_training(training)
    above = float(port["top1"][0] - reference["top1"][0])
    side = "above" if above >= 0 else "below"
    line = (
        f"top1 in per cent: port {port['top1'][0]:.3f}, {name} {reference['top1'][0]:.3f}: "
        f"{abs(above):.3f} points {side}, tolerance {args.tolerance:g}"
    )
    if above > args.tolerance:
        line += "; only an accuracy below the reference's counts against a port"
    aligned = report(
        reference,
        port,
        max(args.tolerance, above),
        args.result_dir,
        [line, f"the port: {trained}"],
        hint="the same recipe and data on both sides, steps 02 to 05, other seeds",
    )
    return 0 if aligned else 1


if __name__ == "__main__":
    tools.run(main, parser())
