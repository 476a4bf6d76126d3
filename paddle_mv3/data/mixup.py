"""mixup and CutMix on a batch, in NumPy, bit for bit torchvision.transforms.v2's.

Each image is mixed with the one before it in the batch (the first with the last), so the batch
has to be shuffled. Labels come out soft: shares of the classes.
"""

import math

import numpy as np

__all__ = ["CutMix", "MixUp", "RandomChoice", "get_mixup_cutmix"]


class _Mix:
    """Args: `alpha` of the Beta distribution, above 0; `num_classes`.

    Raises:
        ValueError: `alpha` or `num_classes` is not above 0; when called, images that are not
            (N, C, H, W) float32, or labels that are not (N,) int64 in [0, num_classes).
    """

    def __init__(self, alpha, num_classes):
        if not alpha > 0:
            raise ValueError(f"alpha is {alpha}: give a number above 0")
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}: give 1 or more")
        self.alpha = alpha
        self.num_classes = num_classes

    def soft_labels(self, labels, lam):
        """(N,) int64 -> (N, num_classes) float32: `lam` of the own class, the rest of the one
        before."""
        own = np.zeros((len(labels), self.num_classes), np.float32)
        own[np.arange(len(labels)), labels] = 1
        return _mix(own, lam)

    def check(self, images, labels):
        if images.ndim != 4 or images.dtype != np.float32:
            raise ValueError(f"images are {images.dtype} {images.shape}: give float32 (N, C, H, W)")
        if labels.shape != images.shape[:1] or labels.dtype != np.int64:
            raise ValueError(
                f"labels are {labels.dtype} {labels.shape}: give int64 ({len(images)},), "
                "one for each image"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise ValueError(f"label {wrong} is not in [0, {self.num_classes}), num_classes")

    def __call__(self, images, labels, rng):
        return self.apply(images, labels, self.draw(images.shape, rng))


def _mix(batch, lam):
    """`lam` of each entry and the rest of the one before, in float32."""
    return np.roll(batch, 1, axis=0) * np.float32(1.0 - lam) + batch * np.float32(lam)


class MixUp(_Mix):
    """torchvision.transforms.v2.MixUp (Zhang et al., 2017)"""

    def draw(self, batch_shape, rng):
        """{"lam": the share of the own image}"""
        return {"lam": float(rng.beta(self.alpha, self.alpha))}

    def apply(self, images, labels, drawn):
        """(N, C, H, W) float32, (N,) int64 -> mixed images, (N, num_classes) float32"""
        self.check(images, labels)
        return _mix(images, drawn["lam"]), self.soft_labels(labels, drawn["lam"])


class CutMix(_Mix):
    """torchvision.transforms.v2.CutMix (Yun et al., 2019)"""

    def draw(self, batch_shape, rng):
        """{"box": (x1, y1, x2, y2) that is taken from the image before, "lam_adjusted": the share
        of the own image, after the box was clipped at the rim}"""
        height, width = batch_shape[-2:]
        lam = rng.beta(self.alpha, self.alpha)
        x, y = int(rng.integers(width)), int(rng.integers(height))
        half = 0.5 * math.sqrt(1.0 - lam)
        half_width, half_height = int(half * width), int(half * height)
        x1, x2 = max(x - half_width, 0), min(x + half_width, width)
        y1, y2 = max(y - half_height, 0), min(y + half_height, height)
        share = 1.0 - (x2 - x1) * (y2 - y1) / (width * height)
        return {"box": (x1, y1, x2, y2), "lam_adjusted": share}

    def apply(self, images, labels, drawn):
        """(N, C, H, W) float32, (N,) int64 -> mixed images, (N, num_classes) float32"""
        self.check(images, labels)
        x1, y1, x2, y2 = drawn["box"]
        mixed = images.copy()
        mixed[..., y1:y2, x1:x2] = np.roll(images[..., y1:y2, x1:x2], 1, axis=0)
        return mixed, self.soft_labels(labels, drawn["lam_adjusted"])


class RandomChoice:
    """One of several at random, all equally often; torchvision.transforms.v2.RandomChoice."""

    def __init__(self, transforms):
        self.transforms = transforms

    def draw(self, batch_shape, rng):
        """{"choice": which of them, and what it drew}"""
        choice = int(rng.integers(len(self.transforms)))
        return {"choice": choice, **self.transforms[choice].draw(batch_shape, rng)}

    def apply(self, images, labels, drawn):
        return self.transforms[drawn["choice"]].apply(images, labels, drawn)

    def __call__(self, images, labels, rng):
        return self.apply(images, labels, self.draw(images.shape, rng))


def get_mixup_cutmix(mixup_alpha, cutmix_alpha, num_classes):
    """What torchvision's references/classification/train.py mixes batches with: of mixup and
    CutMix those whose alpha is not 0, at random; None if both are.

    Raises:
        ValueError: an alpha below 0.
    """
    transforms = [
        kind(alpha, num_classes)
        for kind, alpha in ((MixUp, mixup_alpha), (CutMix, cutmix_alpha))
        if alpha != 0
    ]
    return RandomChoice(transforms) if transforms else None
