"""torchvision's image folder, which here names a file that cannot be read."""

import os
import stat

from torchvision import datasets
from torchvision.datasets.folder import default_loader

__all__ = ["ImageFolder"]


def load_image(path):
    """torchvision's loader: an RGB image.

    Raises:
        OSError: the file is missing, cut short, no image, or no file at all: to open a pipe would
            wait for ever; names it.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("it is no regular file, but a pipe, a device or the like")
        return default_loader(path)
    except FileNotFoundError:
        raise
    # PIL reports a damaged file with nearly anything, mostly without its name.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise OSError(f"cannot decode image {path}: {reason}") from error


# Folders that a listing may meet again by links that lead back: see `walk` in the port's
# listing.py, which lists what torchvision lists and stops at the same number.
RETURNS = 20_000


def require_end(top):
    """That torchvision's listing of `top`, which follows links, comes to an end.

    Raises:
        OSError: links lead back to more than RETURNS folders; names the first.
    """
    above = {}  # folder: the identities of those that it lies in and its own
    returned = set()  # folders that were met again, and all below
    first = None
    for folder, _, _ in os.walk(top, followlinks=True):
        parent = os.path.dirname(folder)
        status = os.stat(folder)
        identity = status.st_dev, status.st_ino
        identities = above.get(parent, ())
        if parent in returned or identity in identities:
            first = first or folder
            returned.add(folder)
        if len(returned) > RETURNS:
            while not os.path.islink(first):
                first = os.path.dirname(first)
            raise OSError(
                f"{first} is a link to a folder that it lies in: followed again and again, it has "
                f"led to {RETURNS} folders and to no end. Remove it"
            )
        above[folder] = (*identities, identity)


class ImageFolder(datasets.ImageFolder):
    """torchvision.datasets.ImageFolder, with `load_image` and `require_end`."""

    def __init__(self, root, transform=None, **more):
        super().__init__(root, transform, **{"loader": load_image, **more})

    @staticmethod
    def make_dataset(directory, class_to_idx, *args, **kwargs):
        """[(path, class index)], torchvision's. Raises: OSError, links without end."""
        for name in class_to_idx:
            require_end(os.path.join(directory, name))
        return datasets.ImageFolder.make_dataset(directory, class_to_idx, *args, **kwargs)
