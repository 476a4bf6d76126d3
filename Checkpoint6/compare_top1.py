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

from __future__ import annotations

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import environment  # isort: skip  (first: Ctrl-C is quiet)

import argparse
from pathlib import Path

environment.require("numpy", "PIL", "paddle", "reprod_log")

from alignment.arguments import file_path, number, rate  # noqa: E402
from alignment.training.accuracy import PORT, REFERENCE, compare_records  # noqa: E402
from Checkpoint6 import tools  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {PORT: "Checkpoint6/train.py", REFERENCE: "torch_ref/train.py"}

per_cent = number(float, above=1, high=100, wanted="an accuracy in per cent, above 1, up to 100")


def parser() -> argparse.ArgumentParser:
    flags = tools.parser(__doc__)
    add = flags.add_argument
    add("--published", type=per_cent, metavar="TOP1",
        help="compare with this accuracy, in per cent, not with the record")  # fmt: skip
    add(
        "--tolerance",
        type=rate,
        default=0.15,
        help="how far the port may be below the reference, in percentage points",
    )
    add("--result-dir", type=file_path, default=ROOT / "result", help="folder of the records")
    return flags


def main(args: argparse.Namespace) -> int:
    """Returns the exit status. Raises: CannotRun."""
    aligned = compare_records(args.result_dir, args.tolerance, args.published, SCRIPTS)
    return 0 if aligned else 1


if __name__ == "__main__":
    tools.run(main, parser())
