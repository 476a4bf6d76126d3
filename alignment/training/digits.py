"""scikit-learn's handwritten digits as an image folder: small, real, and without a download."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ..files import CannotRun, reason_of, shown

__all__ = ["VALIDATION", "make_digits"]

SIZE = 32
VALIDATION = 360
SPLIT_SEED = 0


def make_digits(folder: Path) -> bool:
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


def _is_whole(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Whether `folder` holds the files of these names, and no others."""
    return files.keys() == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    }


def enlarged(scan: np.ndarray) -> Image.Image:
    """(64,) float64 of whole numbers from 0 to 16 -> a grey image, SIZE pixels a side."""
    image = Image.fromarray(np.round(scan.reshape(8, 8) * (255 / 16)).astype(np.uint8))
    return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
