"""One of the processes that align_training.py compares; the launchers of both frameworks start it.

python -m paddle.distributed.launch --nproc_per_node 2 Checkpoint6/align_ranks.py TASK.json
torchrun --nproc_per_node 2 Checkpoint6/align_ranks.py TASK.json
"""

from __future__ import annotations

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import cli  # noqa: F401  # isort: skip  (first: Ctrl-C is quiet)

from pathlib import Path

import pair
from alignment.training import ranks

SCRIPT = Path(__file__)  # what the launchers start


def main() -> None:
    ranks.main(pair.training(), sys.argv[1])


if __name__ == "__main__":
    main()
