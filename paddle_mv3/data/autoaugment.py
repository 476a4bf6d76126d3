"""torchvision.transforms.autoaugment for PIL images, in PIL and NumPy only, bit for bit.

Each policy draws what it will do from an explicit `numpy.random.Generator` (`draw`), and does what
was drawn (`apply`). An operation is a pair (name, magnitude), the magnitude with its sign.
"""

import functools
import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

__all__ = ["AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide", "apply_op"]

NEAREST, BILINEAR = Image.Resampling.NEAREST, Image.Resampling.BILINEAR
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
ENHANCE = {
    "Brightness": ImageEnhance.Brightness,
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Sharpness": ImageEnhance.Sharpness,
}


# --- operations on PIL images ----------------------------------------------------------------


def apply_op(image, name, magnitude, interpolation=NEAREST, fill=None):
    """One operation on an RGB or L image; torchvision.transforms.autoaugment._apply_op.

    Args:
        magnitude: tangent of the angle (Shear), pixels (Translate), degrees counter-clockwise
            (Rotate), bits that are kept (Posterize), the smallest value that is inverted
            (Solarize), the factor minus 1 (Brightness, Color, Contrast, Sharpness).
        interpolation: NEAREST, BILINEAR or BICUBIC of PIL.Image.Resampling.
        fill: of pixels from outside of the image: None (0), a number, or one for each channel.

    Raises:
        ValueError: an unknown operation, or a `fill` of another length.
    """
    if name == "Rotate":
        return image.rotate(magnitude, interpolation, fillcolor=_fill_color(image, fill))
    if name in GEOMETRIC:
        matrix = _inverse_matrix(name, magnitude, (0.0, 0.0))
        color = _fill_color(image, fill)
        affine = Image.Transform.AFFINE
        return image.transform(image.size, affine, matrix, interpolation, fillcolor=color)
    if name in ENHANCE:
        return ENHANCE[name](image).enhance(1.0 + magnitude)
    if name == "Posterize":
        return ImageOps.posterize(image, _bits(magnitude))
    if name == "Solarize":
        return ImageOps.solarize(image, magnitude)
    if name == "AutoContrast":
        return ImageOps.autocontrast(image)
    if name == "Equalize":
        return ImageOps.equalize(image)
    if name == "Invert":
        return ImageOps.invert(image)
    if name == "Identity":
        return image
    raise ValueError(
        f"unknown operation {name!r}: it is one of {', '.join(GEOMETRIC)}, {', '.join(ENHANCE)}, "
        "Posterize, Solarize, AutoContrast, Equalize, Invert, Identity"
    )


def _fill_color(image, fill):
    """One whole number for each channel, as PIL wants it."""
    channels = len(image.getbands())
    values = list(fill) if isinstance(fill, (list, tuple)) else [fill or 0]
    if len(values) not in (1, channels):
        raise ValueError(f"fill {fill} has {len(values)} values: give 1 or {channels}")
    values = tuple(int(value) for value in values) * (channels // len(values))
    return values if channels > 1 else values[0]


def _bits(magnitude):
    if not 0 <= int(magnitude) <= 8:
        raise ValueError(f"Posterize keeps 0 to 8 bits, not {int(magnitude)}")
    return int(magnitude)


def _inverse_matrix(name, magnitude, corner):
    """(a, b, c, d, e, f): the output's (x, y) shows the input's (ax + by + c, dx + ey + f).

    Shears leave the top left corner, which lies at `corner`, where it is. The terms are added in
    torchvision's order (functional._get_inverse_affine_matrix), so that the last bit is the same.
    """
    x, y = corner
    if name == "Rotate":
        # Counter-clockwise in an image, whose y axis points down.
        angle = math.radians(-magnitude)
        cos, sin = math.cos(angle), math.sin(angle)
        return cos, sin, 0.0, -sin, cos, 0.0
    # By way of degrees, as torchvision goes.
    angle = math.radians(math.degrees(math.atan(magnitude)))
    if name == "ShearX":
        slope = math.tan(angle)
        return 1.0, slope, -x + slope * -y + x, 0.0, 1.0, 0.0
    if name == "ShearY":
        slope = math.sin(angle) / math.cos(angle)
        return 1.0, 0.0, 0.0, slope, 1.0, slope * -x - y + y
    shift = -float(int(magnitude))
    return (1.0, 0.0, shift, 0.0, 1.0, 0.0) if name == "TranslateX" else (1, 0, 0, 0, 1, shift)


# --- the same operations as torchvision does them on uint8 tensors ---------------------------


class TensorOps:
    """`apply_op` on (height, width, 1 or 3) uint8 arrays, as torchvision treats uint8 tensors.

    AugMix turns PIL images into tensors, and for these torchvision's operations are others than
    for PIL images: they sample with grid_sample, blend in float32 and cut the fraction off, and
    equalize and stretch contrasts by other formulas.

    Args:
        interpolation: NEAREST or BILINEAR; torchvision has no other for tensors.
        fill: as for `apply_op`.
        fused: (grid, sampling): whether PyTorch computes a * b + c there with one rounding. It
            depends on the CPU: sampling is fused on x86 from AVX2 on; the grid, a matrix product
            of MKL, on Intel with AVX-512 for all but small images, not on AMD.
    """

    def __init__(self, interpolation=NEAREST, fill=None, fused=(False, True)):
        if interpolation not in (NEAREST, BILINEAR):
            raise ValueError(
                f"interpolation {Image.Resampling(interpolation).name}: operations on tensors, "
                "which AugMix uses, know NEAREST and BILINEAR only"
            )
        self.interpolation = interpolation
        self.fill = fill
        self.fused_grid, self.fused_sampling = fused

    def apply(self, pixels, name, magnitude):
        if name in GEOMETRIC:
            return self._affine(pixels, name, magnitude)
        return TENSOR_OPS[name](pixels, magnitude)

    def _affine(self, pixels, name, magnitude):
        """torch's grid_sample, padding with zeros, of an affine grid; rounded half to even."""
        height, width, channels = pixels.shape
        corner = (-width * 0.5, -height * 0.5)  # the origin is the centre
        theta = np.array(_inverse_matrix(name, magnitude, corner), np.float32).reshape(2, 3)
        x = (np.arange(width) - (width - 1) / 2).astype(np.float32)[None, :]
        y = (np.arange(height) - (height - 1) / 2).astype(np.float32)[:, None]
        # PyTorch multiplies small matrices itself: fewer than 400 products of 3 rows by 2 columns.
        fused_grid = self.fused_grid and 3 * 2 * width * height >= 400
        where = []
        for row, size in zip(theta, (width, height)):
            a, b, c = row / np.float32(0.5 * size)
            grid = multiply_add(y, b, x * a, fused_grid) + c
            half = np.float32(size / 2)
            where.append(multiply_add(grid + 1, half, np.float32(-0.5), self.fused_sampling))

        # A frame of zeros stands for all that lies outside; with a fill, one more channel says
        # how much of a pixel comes from inside.
        inside = 1 if self.fill is not None else 0
        framed = np.zeros((height + 2, width + 2, channels + inside), np.float32)
        framed[1:-1, 1:-1, :channels] = pixels
        framed[1:-1, 1:-1, channels:] = 1
        flat = framed.reshape(-1, channels + inside)

        def at(x, y):
            column = np.clip(x, -1, width).astype(np.intp) + 1
            row = np.clip(y, -1, height).astype(np.intp) + 1
            return flat.take(row * (width + 2) + column, axis=0)

        sample = self._nearest if self.interpolation == NEAREST else self._bilinear
        out = sample(at, *where)
        if inside:
            out = self._fill_in(out[..., :channels], out[..., channels:])
        return np.rint(out).astype(np.uint8)

    def _nearest(self, at, x, y):
        return at(np.rint(x), np.rint(y))

    def _bilinear(self, at, x, y):
        left, top = np.floor(x), np.floor(y)
        right_share, bottom_share = (x - left)[..., None], (y - top)[..., None]
        left_share, top_share = 1 - right_share, 1 - bottom_share
        out = at(left, top) * (top_share * left_share)
        for value, weight in (
            (at(left + 1, top), top_share * right_share),
            (at(left, top + 1), bottom_share * left_share),
            (at(left + 1, top + 1), bottom_share * right_share),
        ):
            out = multiply_add(value, weight, out, self.fused_sampling)
        return out

    def _fill_in(self, out, inside):
        fill = np.float32(self.fill)
        if self.interpolation == NEAREST:
            return np.where(inside < 0.5, fill, out)
        return out * inside + (1 - inside) * fill


def multiply_add(a, b, c, fused):
    """a * b + c in float32, rounded once (`fused`) or twice.

    float64 holds the product of two float32 numbers exactly.
    """
    if fused:
        return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)
    return a * b + c


def _blend(pixels, other, factor):
    """factor * pixels + (1 - factor) * other, in float32; clipped, and the fraction cut off."""
    mixed = np.float32(factor) * pixels.astype(np.float32)
    mixed += np.float32(1.0 - factor) * np.asarray(other, np.float32)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def _grey(pixels):
    """(height, width, 1) uint8."""
    if pixels.shape[2] == 1:
        return pixels
    red, green, blue = np.moveaxis(pixels.astype(np.float32), 2, 0)
    grey = np.float32(0.2989) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    return grey.astype(np.uint8)[..., None]


def _contrast(pixels, magnitude):
    # The sum is exact in float32, in whatever order PyTorch adds, up to 256 x 256 pixels. Of
    # larger images its mean can be off by rounding.
    grey = _grey(pixels)
    mean = np.float32(grey.sum(dtype=np.int64)) / np.float32(grey.size)
    return _blend(pixels, mean, 1.0 + magnitude)


def _sharpness(pixels, magnitude):
    """Blends with the mean of 3 x 3 pixels, the middle one counted five times; not at the rim."""
    height, width, _ = pixels.shape
    if height <= 2 or width <= 2:
        return pixels
    wide = pixels.astype(np.float32)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    blurred = pixels.copy()
    # Whole numbers over 13 are never half way between two, so any order of adding rounds alike.
    blurred[1:-1, 1:-1] = np.rint(total / 13)
    return _blend(pixels, blurred, 1.0 + magnitude)


def _posterize(pixels, magnitude):
    return pixels & np.uint8(256 - 2 ** (8 - _bits(magnitude)))


def _solarize(pixels, magnitude):
    return np.where(pixels >= np.float32(magnitude), 255 - pixels, pixels)


def _autocontrast(pixels, magnitude):
    low = pixels.min(axis=(0, 1)).astype(np.float32)
    high = pixels.max(axis=(0, 1)).astype(np.float32)
    flat = low == high
    # PyTorch divides a number by a tensor this way, with two roundings.
    scale = np.float32(1) / np.where(flat, 1, high - low) * np.float32(255)
    scale = np.where(flat, 1, scale)
    stretched = (pixels - np.where(flat, 0, low)) * scale
    return np.clip(stretched, 0, 255).astype(np.uint8)


def _equalize(pixels, magnitude):
    out = pixels.copy()
    for channel in range(pixels.shape[2]):
        counts = np.bincount(pixels[..., channel].ravel(), minlength=256)
        step = counts[counts > 0][:-1].sum() // 255
        if step:
            below = np.cumsum(counts) - counts
            table = np.minimum((below + step // 2) // step, 255)
            table[0] = 0
            out[..., channel] = table.astype(np.uint8)[pixels[..., channel]]
    return out


TENSOR_OPS = {
    "Brightness": lambda pixels, magnitude: _blend(pixels, 0, 1.0 + magnitude),
    "Color": lambda pixels, magnitude: (
        pixels if pixels.shape[2] == 1 else _blend(pixels, _grey(pixels), 1.0 + magnitude)
    ),
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
}


# --- policies --------------------------------------------------------------------------------


def _linspace(start, stop, count):
    """(count,) float32; torch.linspace on a CPU with fused multiply-add: from both ends."""
    start, stop = np.float32(start), np.float32(stop)
    step = (stop - start) / np.float32(count - 1)
    index = np.arange(count)
    up = multiply_add(index, step, start, fused=True)
    down = multiply_add(count - 1 - index, -step, stop, fused=True)
    return np.where(index < count // 2, up, down)


@functools.lru_cache(maxsize=64)
def _magnitudes(count, shear, translate, rotate, enhance, bits, drop):
    """{operation: (its `count` magnitudes, weakest first, or None; whether they have a sign)}.

    Args:
        shear, rotate, enhance: the largest of each kind; translate: those of x and y.
        bits, drop: Posterize keeps `bits` bits at first and `drop` fewer at last.
    """
    signed = {
        "ShearX": shear,
        "ShearY": shear,
        "TranslateX": translate[0],
        "TranslateY": translate[1],
        "Rotate": rotate,
        **dict.fromkeys(ENHANCE, enhance),
    }
    dropped = np.rint(np.arange(count, dtype=np.float32) / np.float32((count - 1) / drop))
    return {
        **{name: (_linspace(0.0, largest, count), True) for name, largest in signed.items()},
        "Posterize": (bits - dropped, False),
        "Solarize": (_linspace(255.0, 0.0, count), False),
        "AutoContrast": (None, False),
        "Equalize": (None, False),
    }


def _draw_op(space, rng, draw_index):
    """(name, magnitude) of a random operation; `draw_index()` says which of its magnitudes."""
    name = list(space)[rng.integers(len(space))]
    magnitudes, signed = space[name]
    magnitude = 0.0 if magnitudes is None else float(magnitudes[draw_index()])
    if signed and rng.integers(2):
        magnitude = -magnitude
    return name, magnitude


def _check_bins(count):
    if count < 2:
        raise ValueError(f"num_magnitude_bins is {count}: give 2 or more")


class RandomTransform:
    """`draw(width, height, rng)`, and apart from it `steps(image, drawn)`, which applies it."""

    def apply(self, image, drawn):
        for _, image in self.steps(image, drawn):  # noqa: B007, B020
            pass
        return image

    def __call__(self, image, rng):
        return self.apply(image, self.draw(*image.size, rng))


class _Policy(RandomTransform):
    """A policy whose draw is a list of operations: [(name, magnitude), …]."""

    def __init__(self, interpolation, fill):
        self.interpolation = interpolation
        self.fill = fill

    def steps(self, image, drawn):
        """Yields (label, image) after each operation."""
        for name, magnitude in drawn:
            image = apply_op(image, name, magnitude, self.interpolation, self.fill)
            yield f"{name} {magnitude:.4g}", image


# (operation, its probability, the index of its magnitude) twice: Cubuk et al., 2018, table 9,
# https://arxiv.org/abs/1805.09501; 0.0 and repeated rows are theirs.
IMAGENET = [
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
    (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, None), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, None)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, None)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, None), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, None)),
    (("Equalize", 0.0, None), ("Equalize", 0.8, None)),
    (("Invert", 0.6, None), ("Equalize", 1.0, None)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, None)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, None)),
    (("Color", 0.4, 0), ("Equalize", 0.6, None)),
    (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
    (("Invert", 0.6, None), ("Equalize", 1.0, None)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
]


class AutoAugment(_Policy):
    """Two operations of a random row of the policy learned on ImageNet, each by its probability.

    torchvision.transforms.AutoAugment (Cubuk et al., 2018)

    Raises:
        ValueError: another policy than "imagenet".
    """

    def __init__(self, policy="imagenet", interpolation=NEAREST, fill=None):
        super().__init__(interpolation, fill)
        if policy != "imagenet":
            raise ValueError(f"policy {policy!r}: only 'imagenet' is here")
        self.policies = IMAGENET

    def augmentation_space(self, width, height):
        """{operation: (magnitudes or None, signed)}"""
        translate = (150 / 331 * width, 150 / 331 * height)
        space = _magnitudes(10, 0.3, translate, 30.0, 0.9, bits=8, drop=4)
        return {**space, "Invert": (None, False)}

    def draw(self, width, height, rng):
        """[(name, magnitude), …], none to two."""
        space = self.augmentation_space(width, height)
        drawn = []
        for name, probability, index in self.policies[rng.integers(len(self.policies))]:
            happens, negative = rng.random() < probability, rng.integers(2)
            if happens:
                magnitudes, signed = space[name]
                magnitude = 0.0 if index is None else float(magnitudes[index])
                drawn.append((name, -magnitude if signed and negative else magnitude))
        return drawn


class RandAugment(_Policy):
    """`num_ops` random operations, all at the same magnitude of `num_magnitude_bins`.

    torchvision.transforms.RandAugment (Cubuk et al., 2019)

    Raises:
        ValueError: `magnitude` is no index of a magnitude.
    """

    def __init__(
        self, num_ops=2, magnitude=9, num_magnitude_bins=31, interpolation=NEAREST, fill=None
    ):
        super().__init__(interpolation, fill)
        _check_bins(num_magnitude_bins)
        if not 0 <= magnitude < num_magnitude_bins:
            raise ValueError(f"magnitude is {magnitude}: give 0 to {num_magnitude_bins - 1}")
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.num_magnitude_bins = num_magnitude_bins

    def augmentation_space(self, width, height):
        """{operation: (magnitudes or None, signed)}"""
        translate = (150 / 331 * width, 150 / 331 * height)
        space = _magnitudes(self.num_magnitude_bins, 0.3, translate, 30.0, 0.9, bits=8, drop=4)
        return {"Identity": (None, False), **space}

    def draw(self, width, height, rng):
        """[(name, magnitude), …] of length `num_ops`."""
        space = self.augmentation_space(width, height)
        return [_draw_op(space, rng, lambda: self.magnitude) for _ in range(self.num_ops)]


class TrivialAugmentWide(_Policy):
    """One random operation at a random magnitude.

    torchvision.transforms.TrivialAugmentWide (Müller and Hutter, 2021)
    """

    def __init__(self, num_magnitude_bins=31, interpolation=NEAREST, fill=None):
        super().__init__(interpolation, fill)
        _check_bins(num_magnitude_bins)
        self.num_magnitude_bins = num_magnitude_bins

    def augmentation_space(self, width, height):
        """{operation: (magnitudes or None, signed)}"""
        space = _magnitudes(
            self.num_magnitude_bins, 0.99, (32.0, 32.0), 135.0, 0.99, bits=8, drop=6
        )
        return {"Identity": (None, False), **space}

    def draw(self, width, height, rng):
        """[(name, magnitude)]"""
        space = self.augmentation_space(width, height)
        return [_draw_op(space, rng, lambda: rng.integers(self.num_magnitude_bins))]


class AugMix(RandomTransform):
    """The image blended with `mixture_width` copies, each through a chain of operations.

    torchvision.transforms.AugMix (Hendrycks et al., 2019), which applies its tensor operations
    to PIL images too.

    Args:
        severity: 1 to 10: how many of the magnitudes are drawn from.
        chain_depth: length of the chains; below 1: drawn from 1 to 3 for each.
        alpha: of the Dirichlet distributions that the weights are drawn from.
        all_ops: also brightness, colour, contrast and sharpness.
        fused: see `TensorOps`.

    Raises:
        ValueError: `severity` or `interpolation` out of range; in `apply`, a mode that is not
            RGB or L.
    """

    PARAMETER_MAX = 10

    def __init__(
        self,
        severity=3,
        mixture_width=3,
        chain_depth=-1,
        alpha=1.0,
        all_ops=True,
        interpolation=BILINEAR,
        fill=None,
        fused=(False, True),
    ):
        if not 1 <= severity <= self.PARAMETER_MAX:
            raise ValueError(f"severity is {severity}: give 1 to {self.PARAMETER_MAX}")
        self.severity = severity
        self.mixture_width = mixture_width
        self.chain_depth = chain_depth
        self.alpha = alpha
        self.all_ops = all_ops
        self.interpolation = interpolation
        self.fill = fill
        self.ops = TensorOps(interpolation, fill, fused)

    def augmentation_space(self, width, height):
        """{operation: (magnitudes or None, signed)}"""
        translate = (width / 3, height / 3)
        space = _magnitudes(self.PARAMETER_MAX, 0.3, translate, 30.0, 0.9, bits=4, drop=4)
        return {name: op for name, op in space.items() if self.all_ops or name not in ENHANCE}

    def draw(self, width, height, rng):
        """{"blend": (share of the image, of the copies), "weights": of each copy, "chains":
        [[(name, magnitude), …], …]}; blend and weights add up to 1.
        """
        space = self.augmentation_space(width, height)
        blend = rng.dirichlet([self.alpha] * 2)
        weights = rng.dirichlet([self.alpha] * self.mixture_width)
        chains = []
        for _ in range(self.mixture_width):
            depth = self.chain_depth if self.chain_depth > 0 else rng.integers(1, 4)
            chains.append(
                [_draw_op(space, rng, lambda: rng.integers(self.severity)) for _ in range(depth)]
            )
        return {"blend": blend.tolist(), "weights": weights.tolist(), "chains": chains}

    def steps(self, image, drawn):
        """Yields (label, image or array) after each operation and after the blend."""
        if image.mode not in ("RGB", "L"):
            raise ValueError(f"an image of mode {image.mode}: convert it to RGB or L")
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        blend, weights = (np.array(drawn[name], np.float32) for name in ("blend", "weights"))
        mixed = blend[0] * pixels.astype(np.float32)
        for number, (weight, chain) in enumerate(zip(weights * blend[1], drawn["chains"]), 1):
            copy = pixels
            for name, magnitude in chain:
                copy = self.ops.apply(copy, name, magnitude)
                yield f"chain {number}, {name} {magnitude:.4g}", copy
            mixed += weight * copy.astype(np.float32)
        mixed = mixed.astype(np.uint8)
        yield "blend", Image.fromarray(mixed if image.mode == "RGB" else mixed[..., 0])
