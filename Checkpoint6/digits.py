"""Make an image folder of scikit-learn's handwritten digits.

    python digits.py --output digits

1,797 real 8x8 scans, which come with scikit-learn (Alpaydin and Kaynak, 1998, Optical Recognition
of Handwritten Digits, UCI, CC BY 4.0); no download. Enlarged to 32x32:

    digits/train/DIGIT/NNNN.png          1,437
    digits/val/DIGIT/NNNN.png            360

NNNN is the place of the scan in scikit-learn's data set. Every digit has the same share of both
parts. The split is fixed: it is the same at every call.
"""

import sys
from os.path import dirname, realpath

sys.path.insert(0, dirname(dirname(realpath(__file__))))

from alignment import environment  # isort: skip  (first: Ctrl-C is quiet)

import shutil
import tempfile
from pathlib import Path

environment.require("numpy", "PIL", "paddle", "sklearn")

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402

from alignment.arguments import file_path  # noqa: E402
from alignment.files import CannotRun, reason_of, shown  # noqa: E402
from Checkpoint6 import tools  # noqa: E402

SIZE = 32
VALIDATION = 360
SPLIT_SEED = 0


def make_digits(folder):
    """Writes the image folder, whole or not at all. One that is whole is left as it is.

    Returns:
        whether it was written.

    Raises:
        CannotRun: it cannot be written, or `folder` holds something else.
    """
    folder = Path(folder)
    scans, digits = load_digits(return_X_y=True)
    files = {}
    parts = train_test_split(
        np.arange(len(digits)), test_size=VALIDATION, stratify=digits, random_state=SPLIT_SEED
    )
    for part, indices in zip(("train", "val"), parts):
        for i in indices.tolist():
            files[f"{part}/{digits[i]}/{i:04}.png"] = scans[i]
    if folder.is_dir():
        if _is_whole(folder, files):
            return False
        raise CannotRun(
            f"{shown(folder)} exists and is not these {len(files):,} images: "
            "delete it, or choose another folder"
        )
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        temporary.chmod(0o755)
        for name, scan in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            enlarged(scan).save(path)
        temporary.rename(folder)
    except OSError as error:
        # Two programs started at once: the other one was first.
        if _is_whole(folder, files):
            return False
        raise CannotRun(
            f"cannot write {shown(folder)}: {reason_of(error)}. Make room or make it writable, "
            "or choose another folder"
        ) from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    return True


def _is_whole(folder, files):
    """Whether `folder` holds the files of these names, and no others."""
    return files.keys() == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    }


def enlarged(scan):
    """(64,) float64 of whole numbers from 0 to 16 -> a grey image, SIZE pixels a side."""
    image = Image.fromarray(np.round(scan.reshape(8, 8) * (255 / 16)).astype(np.uint8))
    return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def parser():
    flags = tools.parser(__doc__)
    flags.add_argument("--output", type=file_path, required=True, metavar="FOLDER")
    return flags


def main(args):
    """Raises: CannotRun."""
    made = make_digits(args.output)
    print(f"{shown(args.output)}: {'made' if made else 'is there already'}")


if __name__ == "__main__":
    tools.run(main, parser())
