"""An image folder, `root/<class>/…/<image>`, with torchvision's class order and file rules."""

import os

import paddle
from PIL import Image

from .sampler import IMAGE, as_draw, generator

__all__ = ["ImageFolder"]

# torchvision.datasets.folder.IMG_EXTENSIONS
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def find_classes(root):
    """Names of the folders in `root`, sorted by code point. torchvision's `find_classes`.

    Raises:
        FileNotFoundError: `root` does not exist or has no folders.
    """
    if not os.path.isdir(root):
        raise FileNotFoundError(f"no such image folder: {root}")
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not classes:
        raise FileNotFoundError(f"{root} has no class folders: images are read from {root}/<class>")
    return classes


def find_samples(root, classes):
    """[(path, class index)] in torchvision's `make_dataset` order.

    Raises:
        FileNotFoundError: a class without an image.
    """
    samples = []
    for index, name in enumerate(classes):
        before = len(samples)
        for folder, _, files in sorted(os.walk(os.path.join(root, name), followlinks=True)):
            for file in sorted(files):
                if file.lower().endswith(EXTENSIONS):
                    samples.append((os.path.join(folder, file), index))
        if len(samples) == before:
            raise FileNotFoundError(
                f"no images in class folder {os.path.join(root, name)}: "
                f"put some there ({' '.join(EXTENSIONS)}) or remove the folder"
            )
    return samples


def load_image(path):
    """RGB image of any mode or format that PIL reads; EXIF orientation is left as torchvision
    leaves it: not applied.

    Raises:
        OSError: the file is missing, cut short, or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            # convert() copies an image that is RGB already.
            return image if image.mode == "RGB" else image.convert("RGB")
    except FileNotFoundError:
        raise
    # PIL reports a damaged file with any of these, most without its name.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"cannot decode image {path}: {error}") from error


class ImageFolder(paddle.io.Dataset):
    """Item i is (transform(image, rng), class index); torchvision.datasets.ImageFolder.

    An item is asked for by its `Draw`, or by its index: that is epoch 0, repetition 0.

    Args:
        root: folder of class folders.
        transform: called with an RGB image and a numpy Generator. None leaves the image as it is.
        seed: with the item's Draw, all that the Generator depends on; 0 or more.

    Raises:
        FileNotFoundError: no such folder, no classes, or a class without images.
        ValueError: a negative seed.
        OSError: from an item whose file cannot be decoded; names the file.
    """

    def __init__(self, root, transform=None, seed=0):
        if seed < 0:
            raise ValueError(f"seed is {seed}: give 0 or more")
        self.root = str(root)
        self.loader = lambda path: load_image(path)
        self.transform = transform
        self.seed = seed
        self.classes = find_classes(self.root)
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.samples = find_samples(self.root, self.classes)
        self.targets = [target for _, target in self.samples]

    def __getitem__(self, key):
        draw = as_draw(key)
        path, target = self.samples[draw.index]
        image = self.loader(path)
        if self.transform is not None:
            image = self.transform(image, generator(self.seed, draw, IMAGE))
        return image, target

    def __len__(self):
        return len(self.samples)
