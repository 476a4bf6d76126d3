"""The images below a folder, listed as torchvision does, kept small, remembered in a file."""

import hashlib
import os
import stat
import tempfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from operator import index as as_index

import numpy as np

__all__ = ["Samples", "find_classes", "find_samples", "walk"]

# torchvision.datasets.folder.IMG_EXTENSIONS
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

# A folder that changes twice between two ticks of the file system's clock has the same time after
# both. The coarsest of these clocks ticks every 2 s.
TICK = 2_000_000_000  # ns


# Folders that a walk may meet again by links that lead back. One link `loop -> .` makes 40, as the
# system follows no more links than that in one path; two make 2 ** 40.
RETURNS = 20_000


class Samples(Sequence):
    """[(path, class index)], read only, equal to a list of the same tuples.

    A list of ImageNet's tuples takes 250 MB, and every worker copies them all: to read a Python
    object is to write its count of references. Here are two arrays.

    Args:
        root: folder that the paths start with.
        names: uint8, the paths below `root`, each with a zero byte at its end.
        targets: int64, the class indices.
    """

    def __init__(self, root, names, targets):
        self.prefix = os.path.join(root, "")
        self.names = names
        self.targets = targets
        self.ends = np.flatnonzero(names == 0)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, key):
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        number = range(len(self))[as_index(key)]
        start = self.ends[number - 1] + 1 if number else 0
        name = os.fsdecode(self.names[start : self.ends[number]].tobytes())
        return self.prefix + name, int(self.targets[number])

    def __eq__(self, other):
        if not isinstance(other, (list, Samples)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None


def find_classes(root):
    """Names of the folders in `root`, sorted by code point. torchvision's `find_classes`.

    Raises:
        FileNotFoundError: `root` does not exist or has no folders.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(f"no such image folder: {root}")
    with os.scandir(root) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir())
    if not classes:
        raise FileNotFoundError(f"{root} has no class folders: images are read from {root}/<class>")
    return classes


def find_samples(root, classes, cache=None):
    """Samples in torchvision's `make_dataset` order.

    Args:
        cache: folder where a file remembers what was found, or None. The file counts as long as no
            folder below `root` has got or lost an entry, and is made anew otherwise. There is none
            where it cannot be written, nor of folders that have changed in the last 2 s.

    Raises:
        FileNotFoundError: a class without an image.
        PermissionError: one that cannot be read.
        OSError: links that lead back without end; names one.
    """
    if cache is None:
        return _search(root, classes)[0]
    # The number is to change with what the file holds.
    key = hashlib.sha256(b"1\0" + os.fsencode(os.path.abspath(root))).hexdigest()
    path = os.path.join(cache, f"images-{key[:32]}.npz")
    samples = _remembered(path, root, classes)
    if samples is None:
        start = time.time_ns()
        samples, folders = _search(root, classes)
        with suppress(OSError):
            times = _times(root, folders)
            if times.max() < start - TICK:
                os.makedirs(cache, exist_ok=True)
                _write(
                    path,
                    classes=_joined(classes),
                    folders=_joined(folders),
                    times=times,
                    names=samples.names,
                    targets=samples.targets,
                )
    return samples


def _search(root, classes):
    """Samples, and all folders that were looked into, relative to `root`."""
    prefix = os.path.join(root, "")
    folders, names, counts = [""], [], []
    for name in classes:
        count = 0
        for folder, _, files in sorted(walk(prefix + name)):
            folders.append(folder[len(prefix) :])
            found = [
                os.path.join(folders[-1], file)
                for file in sorted(files)
                if file.lower().endswith(EXTENSIONS)
            ]
            if found:
                names.append(_joined(found))
                count += len(found)
        if not count:
            os.scandir(prefix + name).close()  # as the walk passes over what it cannot read
            raise FileNotFoundError(
                f"no images in class folder {prefix + name}: "
                f"put some there ({' '.join(EXTENSIONS)}) or remove the folder"
            )
        counts.append(count)
    targets = np.repeat(np.arange(len(classes)), counts)
    return Samples(root, np.concatenate(names), targets), folders


def walk(top):
    """`os.walk(top, followlinks=True)`, which torchvision lists with, where that comes to an end.

    A link to a folder that it lies in, `loop -> .`, is followed as torchvision follows it: what is
    below is listed again for each of the 40 times that the system lets it. Of several such links
    neither would see the end.

    Raises:
        OSError: links lead back to more than RETURNS folders; names the first.
    """
    inside = {}  # folder: the identities of those that it lies in and its own; whether met again
    first, returns = None, 0
    for folder, folders, files in os.walk(top, followlinks=True):
        above, again = inside.get(os.path.dirname(folder), ((), False))
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        again = again or identity in above
        if again:
            first, returns = first or folder, returns + 1
        if returns > RETURNS:
            raise OSError(
                f"{_link_of(first)} is a link to a folder that it lies in: followed again and "
                f"again, it has led to {RETURNS} folders and to no end. Remove it"
            )
        inside[folder] = (*above, identity), again
        yield folder, folders, files


def _link_of(folder):
    """The last link in a path."""
    while not os.path.islink(folder):
        folder = os.path.dirname(folder)
    return folder


def _joined(names):
    """uint8: the names, each with a zero byte at its end, which no name has in it."""
    return np.frombuffer(os.fsencode("\0".join([*names, ""])), dtype=np.uint8)


def _split(joined):
    return os.fsdecode(joined.tobytes()).split("\0")[:-1]


def _times(root, folders):
    """int64: when each folder last got or lost an entry, in ns."""
    prefix = os.path.join(root, "")
    return np.array([os.stat(prefix + folder).st_mtime_ns for folder in folders])


def _remembered(path, root, classes):
    """Samples from a file that `find_samples` wrote; None if it does not hold any more."""
    # The ways in which damage shows are many, and one answer is right for all.
    with suppress(Exception):
        file = _arrays(path)
        found = Samples(root, file["names"], file["targets"])
        times = _times(root, _split(file["folders"]))
        if (
            _split(file["classes"]) == classes
            and np.array_equal(times, file["times"])
            and len(found.ends) == len(found.targets)
            and found.ends[-1] == len(found.names) - 1
            and found.targets.dtype == np.int64
            and 0 <= found.targets.min() <= found.targets.max() < len(classes)
        ):
            return found
    return None


def _arrays(path):
    """{name: array}, each of one dimension, from a file that `_write` wrote.

    Raises:
        Exception: it is none or damaged; whatever it declares, no more memory is taken than it has
            bytes.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe waits for a writer
        raise ValueError("no file")
    found = {}
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if compressed or sum(entry.file_size for entry in entries) > os.path.getsize(path):
            raise ValueError("larger than the file")
        for entry in entries:
            with archive.open(entry) as file:
                np.lib.format.read_magic(file)
                (count,), _, dtype = np.lib.format.read_array_header_1_0(file)
                data = file.read()  # to the end, where the check sum is looked at
            if dtype.kind not in "iu" or count * dtype.itemsize != len(data):
                raise ValueError("another array than it declares")
            found[entry.filename.removesuffix(".npy")] = np.frombuffer(data, dtype)
    return found


def _write(path, **arrays):
    """An .npz file, whole or not at all, whoever else is writing it."""
    number, temporary = tempfile.mkstemp(suffix=".npz", dir=os.path.dirname(path))
    try:
        with open(number, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
