"""torchvision's image transforms for PIL images, in PIL and NumPy only.

No Paddle in here: a Paddle operation inside a `paddle.io.DataLoader` worker process hangs.
What is random is drawn from an explicit `numpy.random.Generator`, apart from being applied.
"""

import math

import numpy as np
from PIL import Image

from .autoaugment import AugMix, AutoAugment, RandAugment, RandomTransform, TrivialAugmentWide
from .memory import empty

__all__ = [
    "ClassificationPresetEval",
    "ClassificationPresetTrain",
    "RandomErasing",
    "normalize_batch",
]

# Of ImageNet, on [0, 1], in the order R, G, B; torchvision's presets use the same.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def resize(image, size, interpolation=Image.Resampling.BILINEAR):
    """The shorter side becomes `size` pixels, the longer is cut to whole pixels.

    torchvision.transforms.Resize(size)

    Raises:
        DecompressionBombError: more pixels than PIL reads from a file. The image has few, but is
            so narrow that a shorter side of `size` makes it gigabytes.
    """
    width, height = image.size
    if width <= height:
        new_size = (size, int(size * height / width))
    else:
        new_size = (int(size * width / height), size)
    if image.size == new_size:
        return image
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and math.prod(new_size) > 2 * limit:
        raise Image.DecompressionBombError(
            f"it is {width} x {height} pixels, so scaled to a shorter side of {size} it would be "
            f"{new_size[0]} x {new_size[1]}, too large for memory"
        )
    return image.resize(new_size, interpolation)


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
    """(3, 3) float32: for each channel what a byte is divided by, what is then subtracted from it,
    and what it is then divided by.

    ToTensor then Normalize, in float32 and in torchvision's order of operations, so bit for bit
    equal.
    """
    return np.stack([np.full(3, 255), mean, std], axis=1).astype(np.float32)


def to_normalized_array(image, table):
    """RGB image -> (3, height, width) float32.

    A channel at a time: it stays in the processor's cache for all of its operations.
    """
    array = np.empty((3, image.height, image.width), dtype=np.float32)
    planes = (
        np.frombuffer(image.tobytes("raw", channel), dtype=np.uint8).reshape(array.shape[1:])
        for channel in "RGB"
    )
    normalize_planes(planes, table, array)
    return array


def normalize_planes(planes, table, out):
    """Three (height, width) uint8 -> `out`, (3, height, width) float32."""
    for pixels, plane, (scale, mean, std) in zip(planes, out, table):
        np.divide(pixels, scale, out=plane)
        plane -= mean
        plane /= std


def normalize_batch(images):
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32, for images that presets left as bytes.

    Where the preset erases, the images are (N,) `bytes_to_erase`, and are erased as well.
    """
    pixels, erased = take_apart(images)
    table = normalization_table()
    batch = empty((len(pixels), 3, *pixels.shape[1:3]))
    for image, planes in zip(pixels, batch):
        normalize_planes(np.moveaxis(image, 2, 0), table, planes)
    if erased is not None:
        erasing = RandomErasing()
        for planes, box, value in zip(batch, erased["box"].tolist(), erased["value"]):
            erasing.apply(planes, (*box, value[:, None, None]))
    return batch


def bytes_to_erase(size):
    """dtype of a (size, size) image that is left as bytes, and of what is to be erased from it
    once it is normalised: (top, left, height, width), of no height if nothing is, and the value
    for each channel.
    """
    erased = np.dtype([("box", np.int32, 4), ("value", np.float32, 3)])
    return np.dtype([("pixels", np.uint8, (size, size, 3)), ("erased", erased)])


def take_apart(images):
    """Images left as bytes -> (N, H, W, 3) uint8, and (N,) of "box" and "value", or None."""
    return (images["pixels"], images["erased"]) if images.dtype.names else (images, None)


class ClassificationPresetEval:
    """RGB image -> (3, crop_size, crop_size) float32: resize, centre crop, normalise.

    torchvision.transforms._presets.ImageClassification

    Args:
        normalize: False leaves bytes, (crop_size, crop_size, 3) uint8, for `normalize_batch`: a
            worker then has a quarter as much to send.
    """

    thread_safe = True  # called, it changes nothing of its own

    def __init__(
        self,
        crop_size=224,
        resize_size=256,
        interpolation=Image.Resampling.BILINEAR,
        normalize=True,
    ):
        table = normalization_table()
        self.settings = {
            "resize_size": resize_size,
            "crop_size": crop_size,
            "interpolation": interpolation.name.lower(),
        }
        self.stages = [
            ("resize", lambda image: resize(image, resize_size, interpolation)),
            ("center_crop", lambda image: center_crop(image, crop_size)),
            ("normalize", lambda image: to_normalized_array(image, table))
            if normalize
            else ("to_array", np.asarray),
        ]

    def __call__(self, image, rng=None):
        for _, stage in self.stages:
            image = stage(image)
        return image


CROP_SCALE, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of torchvision's RandomResizedCrop


def draw_resized_crop(width, height, rng, scale=CROP_SCALE, ratio=CROP_RATIO):
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


class RandomErasing:
    """Erases a random rectangle of a normalised image.

    torchvision.transforms.RandomErasing (Zhong et al., 2017)

    Args:
        p: how often.
        scale, ratio: ranges of the rectangle's share of the image's area, and of height / width.
        value: what is put there: a number, one for each of three channels, or "random" (normal).

    Raises:
        ValueError: `p`, `scale` or `value` is none of these.
    """

    def __init__(self, p=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3), value=0):
        if not 0 <= p <= 1:
            raise ValueError(f"random erasing: p is {p}: give a probability, 0 to 1")
        if not 0 <= scale[0] <= scale[1] <= 1:
            raise ValueError(f"random erasing: scale is {scale}: give (low, high) within 0 and 1")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"random erasing: ratio is {ratio}: give (low, high) above 0")
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if value != "random" and (len(numbers) not in (1, 3) or isinstance(value, str)):
            raise ValueError(f"random erasing: value is {value!r}: give a number, 3, or 'random'")
        self.p = p
        self.scale = scale
        self.ratio = ratio
        self.value = value

    def draw(self, width, height, rng):
        """None, or (top, left, height, width, value), the value a float32 array (1 or 3, 1, 1) or
        (3, height, width). Area uniform, ratio log-uniform; given up after ten draws that do not
        fit.
        """
        if rng.random() >= self.p:
            return None
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(*map(math.log, self.ratio)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                if self.value == "random":
                    value = rng.standard_normal((3, h, w), dtype=np.float32)
                else:
                    value = np.atleast_1d(np.float32(self.value))[:, None, None]
                top = int(rng.integers(0, height - h + 1))
                left = int(rng.integers(0, width - w + 1))
                return top, left, h, w, value
        return None

    def apply(self, array, drawn):
        """(3, height, width) float32 -> the same, erased in place."""
        if drawn is not None:
            top, left, height, width, value = drawn
            array[:, top : top + height, left : left + width] = value
        return array


def horizontal_flip(image):
    """torchvision.transforms.functional.hflip"""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


class ClassificationPresetTrain(RandomTransform):
    """RGB image -> (3, crop_size, crop_size) float32: random crop, random flip, a policy of
    automatic augmentation, normalise, random erasing.

    torchvision's references/classification/presets.py, for PIL images.

    Args:
        interpolation: of the crop and of the policy.
        auto_augment_policy: None, "imagenet" (AutoAugment), "ra" (RandAugment), "ta_wide"
            (TrivialAugmentWide) or "augmix" (AugMix).
        ra_magnitude: of RandAugment, 0 to 30.
        augmix_severity: of AugMix, 1 to 10.
        random_erase_prob: how often a rectangle is erased.
        fused: how PyTorch's CPU kernels round, for AugMix; see `autoaugment.TensorOps`.
        normalize: as for ClassificationPresetEval. With random erasing, which comes after it, what
            is left is (), `bytes_to_erase(crop_size)`.

    Raises:
        ValueError: an unknown policy, or an argument out of range.
    """

    thread_safe = True

    def __init__(
        self,
        crop_size=224,
        interpolation=Image.Resampling.BILINEAR,
        hflip_prob=0.5,
        auto_augment_policy=None,
        ra_magnitude=9,
        augmix_severity=3,
        random_erase_prob=0.0,
        fused=(False, True),
        normalize=True,
    ):
        policies = {
            None: lambda: None,
            "imagenet": lambda: AutoAugment(interpolation=interpolation),
            "ra": lambda: RandAugment(magnitude=ra_magnitude, interpolation=interpolation),
            "ta_wide": lambda: TrivialAugmentWide(interpolation=interpolation),
            "augmix": lambda: AugMix(augmix_severity, interpolation=interpolation, fused=fused),
        }
        if auto_augment_policy not in policies:
            raise ValueError(
                f"auto_augment_policy is {auto_augment_policy!r}: give None or one of "
                + ", ".join(filter(None, policies))
            )
        if not 0 <= hflip_prob <= 1:
            raise ValueError(f"hflip_prob is {hflip_prob}: give a probability, 0 to 1")
        self.normalize = normalize
        self.crop_size = crop_size
        self.interpolation = interpolation
        self.hflip_prob = hflip_prob
        self.augment = policies[auto_augment_policy]()
        self.table = normalization_table()
        self.erase = RandomErasing(p=random_erase_prob)
        self.settings = {
            "crop_size": crop_size,
            "scale of the crop": CROP_SCALE,
            "ratio of the crop": CROP_RATIO,
            "interpolation": interpolation.name.lower(),
            "hflip_prob": hflip_prob,
            "random_erase_prob": random_erase_prob,
            **_policy_settings(self.augment, crop_size),
        }

    def draw(self, width, height, rng):
        """All that is drawn for an image of this size.

        Returns:
            {"crop": (left, top, right, bottom), "flip": bool, "augment": what the policy draws
            or None, "erase": what RandomErasing draws}
        """
        size = self.crop_size
        return {
            "crop": draw_resized_crop(width, height, rng),
            "flip": bool(rng.random() < self.hflip_prob),
            "augment": self.augment and self.augment.draw(size, size, rng),
            "erase": self.erase.draw(size, size, rng),
        }

    def steps(self, image, drawn):
        """Yields (label, image or array) after each stage and each operation of the policy; the
        last is the result. An array may change in the stages that follow.
        """
        image = resized_crop(image, drawn["crop"], self.crop_size, self.interpolation)
        yield "crop", image
        if drawn["flip"]:
            image = horizontal_flip(image)
        yield "flip", image
        if self.augment:
            for label, image in self.augment.steps(image, drawn["augment"]):  # noqa: B020
                yield label, image
        if not self.normalize:
            yield "to_array", np.asarray(image)
            if self.erase.p:
                yield "with_erased", self.with_erased(image, drawn["erase"])
            return
        array = to_normalized_array(image, self.table)
        yield "normalize", array
        yield "erase", self.erase.apply(array, drawn["erase"])

    def with_erased(self, image, drawn):
        """(), `bytes_to_erase`, of an image and of what RandomErasing draws; None: nothing."""
        item = np.zeros((), bytes_to_erase(self.crop_size))
        item["pixels"] = np.asarray(image)
        if drawn is not None:
            *box, value = drawn
            item["erased"]["box"], item["erased"]["value"] = box, value.ravel()
        return item


def _policy_settings(policy, size):
    """{name: value} of a policy: its arguments, and its magnitudes for images of `size`."""
    if policy is None:
        return {"policy": None}
    names = ("num_ops", "magnitude", "num_magnitude_bins", "severity", "mixture_width")
    names = (*names, "chain_depth", "alpha", "all_ops", "fill")
    settings = {name: getattr(policy, name) for name in names if hasattr(policy, name)}
    settings["interpolation of the policy"] = policy.interpolation.name.lower()
    for number, (first, second) in enumerate(getattr(policy, "policies", ())):
        settings[f"sub-policy {number}"] = (*first, *second)
    for name, (values, signed) in policy.augmentation_space(size, size).items():
        if values is not None:
            text = f"{values[0]:.4g} to {values[-1]:.4g} in {len(values)} values"
            settings[f"magnitudes of {name}"] = text + ", either sign" * signed
    return {"policy": type(policy).__name__, **settings}
