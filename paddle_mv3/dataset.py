"""An image folder, `root/<class>/…/<image>`, with torchvision's class order and file rules."""

import os

import numpy as np
import paddle
from PIL import Image

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
            return image.convert("RGB")
    except FileNotFoundError:
        raise
    # PIL reports a damaged file with any of these, most without its name.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"cannot decode image {path}: {error}") from error


class ImageFolder(paddle.io.Dataset):
    """Item i is (transform(image, rng), class index); torchvision.datasets.ImageFolder.

    Args:
        root: folder of class folders.
        transform: called with an RGB image and a numpy Generator. None leaves the image as it is.
        seed: with `epoch` and the item's index, all that the Generator depends on, so what is
            drawn for an image is the same whatever the number of workers.

    Raises:
        FileNotFoundError: no such folder, no classes, or a class without images.
        OSError: from an item whose file cannot be decoded; names the file.
    """

    def __init__(self, root, transform=None, seed=0):
        self.root = str(root)
        self.loader = lambda path: load_image(path)
        self.transform = transform
        self.seed = seed
        self.epoch = 0
        self.classes = find_classes(self.root)
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.samples = find_samples(self.root, self.classes)
        self.targets = [target for _, target in self.samples]

    def __getitem__(self, index):
        path, target = self.samples[index]
        image = self.loader(path)
        if self.transform is not None:
            image = self.transform(image, np.random.default_rng((self.seed, self.epoch, index)))
        return image, target

    def __len__(self):
        return len(self.samples)
