"""Training alignment that needs no ImageNet: both frameworks learn real handwritten digits.

    python align_learning.py                # 5 trainings in each framework, to over 95 %
    python align_learning.py --short        # two short ones: does the port learn as fast?

The images are scikit-learn's 1,797 scans of digits, see digits.py. For each seed
torchvision draws initial weights; train.py and torch_ref/train.py both begin with them and train by
one recipe, as processes of their own with their usual command lines. The order of the images, the
augmentation and dropout are each framework's own draws, so single results differ, and their
means are compared: by Welch's t-test, two-sided, at 1 %.

Writes into --result-dir train_align_paddle.npy and train_align_benchmark.npy (top1: the mean over
the seeds, in per cent), log/train_align_diff.log and log/train_align.png, the curves. A training
that is whole in --output-dir is not run again: after a stop, the same command goes on.

Exit status: 0 aligned, 1 not aligned, 2 it could not run.
"""

from __future__ import annotations

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import environment  # isort: skip  (first: Ctrl-C is quiet)

import argparse
from pathlib import Path

environment.require("numpy", "PIL", "torch", "torchvision", "paddle", "reprod_log", "tabulate")
environment.require("sklearn", "scipy", "matplotlib")

import paddle  # noqa: E402

paddle.disable_signal_handler()  # at once; see alignment/cli.py

import pair  # noqa: E402
from alignment.training.accuracy import PORT, REFERENCE  # noqa: E402
from alignment.training.learning import (  # noqa: E402
    Form,
    Framework,
    add_flags,
    compare_learning,
    form_of,
)
from Checkpoint6 import tools  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

FRAMEWORKS = (
    Framework("paddle", ROOT / "Checkpoint6" / "train.py", ".pdparams", PORT),
    Framework("torch", ROOT / "torch_ref" / "train.py", ".pth", REFERENCE),
)
MODEL = "mobilenet_v3_small"
SHARED = (
    f"--model {MODEL} {{}} --lr-scheduler cosineannealinglr --lr-warmup-epochs 1 "
    "--train-crop-size 48 --val-resize-size 48 --val-crop-size 48 --print-freq 1000"
)
# Small batches: evaluation uses batch norm's running statistics, which move by a hundredth in a
# step, so that many steps are needed. Chance is 10 %.
LONG = Form(
    model=MODEL,
    recipe=SHARED.format("--batch-size 16 --opt adamw --lr 0.001 --weight-decay 0.01"),
    epochs=36,
    seeds=5,
    output_dir=ROOT / "result" / "learning",
    enough=95.0,
)
SHORT = LONG._replace(
    recipe=SHARED.format("--batch-size 8 --opt sgd --lr 0.02"),
    epochs=5,
    seeds=1,
    output_dir=ROOT / "result" / "learning_short",
    spread=6.1,
    spread_runs=8,
)


def parser() -> argparse.ArgumentParser:
    flags = tools.parser(__doc__)
    add_flags(flags, LONG, SHORT, ROOT / "result")
    return flags


@environment.ended_by_signals()
def main(args: argparse.Namespace) -> int:
    """Returns the exit status. Raises: CannotRun."""
    form, network = form_of(args, LONG, SHORT), "MobileNetV3-Small"
    aligned = compare_learning(pair, FRAMEWORKS, form, args.jobs, args.result_dir, network)
    return 0 if aligned else 1


if __name__ == "__main__":
    tools.run(main, parser())
