"""torchvision's image transforms for PIL images, in PIL and NumPy only.

No Paddle in here: a Paddle operation inside a `paddle.io.DataLoader` worker process hangs.
What is random is drawn from an explicit `numpy.random.Generator`, apart from being applied.
"""

import math

import numpy as np
from PIL import Image

__all__ = ["ClassificationPresetEval", "ClassificationPresetTrain"]

# Of ImageNet, on [0, 1], in the order R, G, B; torchvision's presets use the same.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def resize(image, size, interpolation=Image.Resampling.BILINEAR):
    """The shorter side becomes `size` pixels, the longer is cut to whole pixels.

    torchvision.transforms.Resize(size)
    """
    width, height = image.size
    if width <= height:
        new_size = (size, int(size * height / width))
    else:
        new_size = (int(size * width / height), size)
    return image if image.size == new_size else image.resize(new_size, interpolation)


def center_crop(image, size):
    """The (size, size) pixels in the middle; black is added where the image is smaller.

    torchvision.transforms.CenterCrop(size)
    """
    if min(image.size) < size:
        width, height = (max(side, size) for side in image.size)
        padded = Image.new(image.mode, (width, height))
        padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = padded
    # Python's round(), half to even, is what torchvision rounds with.
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def normalization_table(mean=MEAN, std=STD):
    """(3, 256) float32: what byte b of channel c becomes, (b / 255 - mean[c]) / std[c].

    ToTensor then Normalize, in float32 and in torchvision's order of operations, so bit for bit
    equal; one look-up costs less than the three passes over the image.
    """
    scaled = np.arange(256, dtype=np.float32) / np.float32(255)
    mean, std = (np.asarray(x, dtype=np.float32)[:, None] for x in (mean, std))
    return (scaled[None] - mean) / std


def to_normalized_array(image, table):
    """RGB image -> (3, height, width) float32."""
    pixels = np.asarray(image)
    return np.stack([table[channel].take(pixels[..., channel]) for channel in range(3)])


class ClassificationPresetEval:
    """RGB image -> (3, crop_size, crop_size) float32: resize, centre crop, normalise.

    torchvision.transforms._presets.ImageClassification
    """

    def __init__(self, crop_size=224, resize_size=256, interpolation=Image.Resampling.BILINEAR):
        table = normalization_table()
        self.settings = {
            "resize_size": resize_size,
            "crop_size": crop_size,
            "interpolation": interpolation.name.lower(),
        }
        self.stages = [
            ("resize", lambda image: resize(image, resize_size, interpolation)),
            ("center_crop", lambda image: center_crop(image, crop_size)),
            ("normalize", lambda image: to_normalized_array(image, table)),
        ]

    def __call__(self, image, rng=None):
        for _, stage in self.stages:
            image = stage(image)
        return image


def draw_resized_crop(width, height, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """Where to crop: (left, top, right, bottom), in pixels.

    Area uniform in `scale` times the image's, aspect ratio log-uniform in `ratio`; after ten
    draws that do not fit, the largest centred crop with an allowed ratio.
    torchvision.transforms.RandomResizedCrop.get_params (Szegedy et al., 2014, section 6)
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(0, height - h + 1))
            left = int(rng.integers(0, width - w + 1))
            return left, top, left + w, top + h

    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resized_crop(image, box, size, interpolation=Image.Resampling.BILINEAR):
    """The crop `box` = (left, top, right, bottom), scaled to (size, size).

    torchvision.transforms.functional.resized_crop
    """
    return image.crop(box).resize((size, size), interpolation)


class ClassificationPresetTrain:
    """RGB image -> (3, crop_size, crop_size) float32: random crop, random flip, normalise.

    torchvision's references/classification/presets.py, without its optional parts.
    """

    def __init__(self, crop_size=224, interpolation=Image.Resampling.BILINEAR, hflip_prob=0.5):
        self.crop_size = crop_size
        self.interpolation = interpolation
        self.hflip_prob = hflip_prob
        self.table = normalization_table()

    def draw(self, width, height, rng):
        """(crop box, whether to flip) for an image of this size."""
        return draw_resized_crop(width, height, rng), bool(rng.random() < self.hflip_prob)

    def apply(self, image, box, flip):
        image = resized_crop(image, box, self.crop_size, self.interpolation)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_normalized_array(image, self.table)

    def __call__(self, image, rng):
        return self.apply(image, *self.draw(*image.size, rng))
