"""Make an image folder of scikit-learn's handwritten digits.

    python digits.py --output digits

1,797 real 8x8 scans, which come with scikit-learn (Alpaydin and Kaynak, 1998, Optical Recognition
of Handwritten Digits, UCI, CC BY 4.0); no download. Enlarged to 32x32:

    digits/train/DIGIT/NNNN.png          1,437
    digits/val/DIGIT/NNNN.png            360

NNNN is the place of the scan in scikit-learn's data set. Every digit has the same share of both
parts. The split is fixed: it is the same at every call.
"""

from __future__ import annotations

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import environment  # isort: skip  (first: Ctrl-C is quiet)

import argparse

environment.require("numpy", "PIL", "paddle", "sklearn")

from alignment.arguments import file_path  # noqa: E402
from alignment.files import shown  # noqa: E402
from alignment.training.digits import make_digits  # noqa: E402
from Checkpoint6 import tools  # noqa: E402


def parser() -> argparse.ArgumentParser:
    flags = tools.parser(__doc__)
    flags.add_argument(
        "--output",
        type=file_path,
        required=True,
        metavar="FOLDER",
        help="the image folder",
    )
    return flags


def main(args: argparse.Namespace) -> None:
    """Raises: CannotRun."""
    made = make_digits(args.output)
    print(f"{shown(args.output)}: {'made' if made else 'is there already'}")


if __name__ == "__main__":
    tools.run(main, parser())
