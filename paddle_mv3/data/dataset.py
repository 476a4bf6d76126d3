"""An image folder, `root/<class>/…/<image>`, with torchvision's class order and file rules."""

import os
import stat

import paddle
from PIL import Image

from .listing import find_classes, find_samples
from .sampler import IMAGE, as_draw, generator

__all__ = ["ImageFolder", "load_image", "load_input"]


KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def load_image(path):
    """RGB image of any mode or format that PIL reads; EXIF orientation is left as torchvision
    leaves it: not applied.

    Raises:
        FileNotFoundError: no such file.
        OSError: the file is cut short, not an image, or no file at all: to open a pipe would wait
            for ever; its `path` names the file.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(f"it is {KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")
        with Image.open(path) as image:
            image.load()
            # convert() copies an image that is RGB already.
            return image if image.mode == "RGB" else image.convert("RGB")
    except FileNotFoundError:
        raise
    # PIL reports a damaged file with nearly anything, mostly without its name.
    except Exception as error:
        raise _undecodable(path, error) from error


def _undecodable(path, error):
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    failure = OSError(f"cannot decode image {path}: {reason}")
    failure.path = path
    return failure


def load_input(path, transform, *more, loader=load_image):
    """`transform(image, *more)` of the image in the file `path`.

    Raises:
        FileNotFoundError, OSError: as `load_image`; or scaled, the image would be too large.
    """
    image = loader(path)
    try:
        return transform(image, *more)
    except Image.DecompressionBombError as error:
        raise _undecodable(path, error) from error


class ImageFolder(paddle.io.Dataset):
    """Item i is (transform(image, rng), class index); torchvision.datasets.ImageFolder.

    An item is asked for by its `Draw`, or by its index: that is epoch 0, repetition 0.

    Args:
        root: folder of class folders.
        transform: called with an RGB image and a numpy Generator. None leaves the image as it is.
        seed: with the item's Draw, all that the Generator depends on; 0 or more.
        cache: folder to remember the listing in, of which that of ImageNet takes seconds; None:
            nowhere. See `find_samples`.

    Raises:
        FileNotFoundError: no such folder, no classes, or a class without images.
        ValueError: a negative seed.
        OSError: from an item whose file cannot be decoded; names the file.
    """

    def __init__(self, root, transform=None, seed=0, cache=None):
        if seed < 0:
            raise ValueError(f"seed is {seed}: give 0 or more")
        self.root = str(root)
        self.loader = lambda path: load_image(path)
        self.transform = transform
        self.seed = seed
        self.classes = find_classes(self.root)
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.samples = find_samples(self.root, self.classes, cache)

    @property
    def thread_safe(self):
        """Whether several threads may ask for items at the same time: if the transform bears it."""
        return self.transform is None or getattr(self.transform, "thread_safe", False)

    @property
    def targets(self):
        """The class index of each item, [int]."""
        return self.samples.targets.tolist()

    def __getitem__(self, key):
        draw = as_draw(key)
        path, target = self.samples[draw.index]
        if self.transform is None:
            return self.loader(path), target
        rng = generator(self.seed, draw, IMAGE)
        return load_input(path, self.transform, rng, loader=self.loader), target

    def __len__(self):
        return len(self.samples)
