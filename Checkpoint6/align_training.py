"""Training alignment: both trainers, step by step, on a laptop and without ImageNet.

    python align_training.py                # two minutes on two cores
    python align_training.py --steps 10 --processes 1
    python align_training.py @recipes/mobilenet_v3_small_600.txt --data-path /data/imagenet -b 8

Checkpoint6/train.py and torch_ref/train.py, each with its own loop, train on the same images in the
same order, with the same draws of augmentation and mixing, the same dropout masks, from the same
weights. Compared are:

1. in float64, every step of both from one state: images, labels, learning rate, loss, each
   gradient, update, optimizer state, running statistic, the moving average, what the loops report
   and evaluate. One step overflows on purpose, as in mixed precision; once the port is stopped and
   goes on from its checkpoint.
2. in float32, each on its own: the curves, and how far rounding lets them differ.
3. two processes against one, and against two of PyTorch.

The flags are train.py's; without any, a recipe that has all of torchvision's parts, on lite_data.
Exit status: 0 aligned, 1 not aligned, with the first step and quantity that differ, 2 it
could not run.
"""

from __future__ import annotations

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import cli, environment  # isort: skip  (first: Ctrl-C is quiet)

import argparse

environment.require("tqdm", "visualdl", "matplotlib")

import pair  # noqa: E402
from alignment.arguments import Parser  # noqa: E402
from alignment.threads import one_torch_thread  # noqa: E402
from alignment.training.align import add_flags, align  # noqa: E402
from Checkpoint6.align_ranks import SCRIPT  # noqa: E402
from Checkpoint6.arguments import TRY_OUT, parser, settle, shorter  # noqa: E402

# Here: the trainers' modules take Paddle's signal handlers away, and with them those of `main`.
PAIR = pair.training()
WARMUP_EPOCHS = 2  # or as many as --epochs leaves room for


def flags() -> Parser:
    """train.py's, with other defaults, and those of the comparison."""
    found = parser(__doc__)
    add_flags(found)
    found.set_defaults(data_path=TRY_OUT["data_path"], lr_warmup_epochs=None)
    return found


@environment.ended_by_signals()
@one_torch_thread()
def main(args: argparse.Namespace) -> bool:
    """Returns whether all agrees. Raises: CannotRun, OSError."""
    del args.torch_device  # cli's; train.py has none
    if args.lr_warmup_epochs is None:
        args.lr_warmup_epochs = shorter(WARMUP_EPOCHS, args.epochs)
    return align(PAIR, settle(args), SCRIPT)


if __name__ == "__main__":
    cli.run(main, flags())
