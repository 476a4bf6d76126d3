"""torchvision's image folder, which here names a file that cannot be read."""

from PIL import Image
from torchvision import datasets
from torchvision.datasets.folder import default_loader

__all__ = ["ImageFolder"]


def load_image(path):
    """torchvision's loader: an RGB image.

    Raises:
        OSError: the file is missing, cut short or no image; names it.
    """
    try:
        return default_loader(path)
    except FileNotFoundError:
        raise
    # PIL reports a damaged file with any of these, most without its name.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"cannot decode image {path}: {error}") from error


class ImageFolder(datasets.ImageFolder):
    """torchvision.datasets.ImageFolder, with `load_image`."""

    def __init__(self, root, transform=None, **more):
        super().__init__(root, transform, **{"loader": load_image, **more})
