"""Inputs for any model, made from a description: "4x3x64x64", "ids=int64[4,16]<1000"."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .files import CannotRun, load_array
from .structure import rebuild

__all__ = ["Input", "Inputs", "make_inputs", "parse"]

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
MOST_VALUES = 2**31  # 8 GB of float32
WANTED = (
    "wanted SHAPE or DTYPE[SHAPE], as 4x3x64x64, int64[4,16]<1000, bool[4,16], or the path of a "
    ".npy file"
)


@dataclass(frozen=True)
class Input:
    """What one input is to be made of.

    Attributes:
        dtype: of DTYPES.
        shape: of positive whole numbers.
        high: integers are in [0, high).
    """

    dtype: str
    shape: tuple
    high: int = 2

    def make(self, rng):
        """Floats are normal (mean 0, deviation 1); integers and booleans uniform."""
        if self.dtype.startswith("float"):
            return rng.standard_normal(self.shape).astype(self.dtype)
        if self.dtype == "bool":
            return rng.random(self.shape) < 0.5
        return rng.integers(0, self.high, self.shape).astype(self.dtype)

    @property
    def is_image(self):
        """Whether it may be a batch of images: (N, C, H, W) of floats, of 8 pixels or more."""
        is_float = self.dtype.startswith("float")
        return is_float and len(self.shape) == 4 and min(self.shape[2:]) >= 8


def parse(text):
    """(name or None, Input or array) of a description.

    Args:
        text: "[NAME=]SHAPE", "[NAME=]DTYPE[SHAPE]", "[NAME=]DTYPE[SHAPE]<HIGH" or
            "[NAME=]FILE.npy"; numbers of a shape are separated by x or by commas.

    Raises:
        CannotRun: it is none of these, or has no value or too many.
    """
    name, found, rest = None, re.match(r"([A-Za-z_]\w*)=(.+)$", text.strip()), text.strip()
    if found:
        name, rest = found.groups()
    if rest.endswith(".npy"):
        return name, load_array(Path(rest))
    found = re.fullmatch(r"(?:(\w+)\[([\d,x ]*)\]|(\d[\dx,]*))(?:<(\d+))?", rest)
    if not found:
        raise CannotRun(f"input {text!r:.80}: {WANTED}")
    dtype, shape, plain, high = found.groups()
    dtype, shape = dtype or "float32", plain if shape is None else shape
    if dtype not in DTYPES:
        raise CannotRun(f"input {text!r:.80}: no dtype {dtype}. Give one of {', '.join(DTYPES)}")
    try:
        shape = tuple(int(size) for size in re.split("[,x]", shape.replace(" ", "")) if size)
    except ValueError:
        raise CannotRun(f"input {text!r:.80}: {WANTED}") from None
    if any(size == 0 for size in shape) or np.prod([float(s) for s in shape]) > MOST_VALUES:
        raise CannotRun(
            f"input {text!r:.80}: a shape of {list(shape)} has no values, or more than fit into "
            "memory. Give sizes above 0"
        )
    is_integer = "int" in dtype
    if high is not None and not is_integer:
        raise CannotRun(f"input {text!r:.80}: <{high} is for integers, and this is {dtype}")
    high = int(high or 2)
    if is_integer and not 1 <= high - 1 <= np.iinfo(dtype).max:
        raise CannotRun(f"input {text!r:.80}: <{high} is out of the range of {dtype}")
    return name, Input(dtype, shape, high)


@dataclass(frozen=True)
class Inputs:
    """Arguments of a model's forward: positional and by keyword, nests of Input or array."""

    positional: tuple
    named: dict

    @classmethod
    def of(cls, described):
        """From what `check` takes.

        Args:
            described: a text as for `parse`, an array, a list or tuple of these (positional), or a
                dictionary (by keyword). In each, lists, tuples and dictionaries may be nested. A
                text "name=..." in a list is by keyword.
        """
        if isinstance(described, cls):
            return described
        if isinstance(described, Mapping):
            return cls((), {name: _described(value) for name, value in described.items()})
        if not isinstance(described, (list, tuple)):
            described = [described]
        positional, named = [], {}
        for value in described:
            name = None
            if isinstance(value, str):
                name, value = parse(value)
            if name is None:
                positional.append(_described(value))
            elif name in named:
                raise CannotRun(f"the input {name} is given twice")
            else:
                named[name] = value
        if not positional and not named:
            raise CannotRun(f"there is no input: {WANTED}")
        return cls(tuple(positional), named)

    def make(self, rng):
        """The same with arrays."""

        def array(leaf):
            return leaf.make(rng) if isinstance(leaf, Input) else leaf

        return Inputs(rebuild(self.positional, array), rebuild(self.named, array))

    def resized(self, change):
        """The same with images of another size; None if no input is an image.

        Args:
            change: function ((height, width)) -> (height, width).
        """
        resized = []

        def other(leaf):
            if not isinstance(leaf, Input) or not leaf.is_image:
                return leaf
            resized.append(leaf)
            return replace(leaf, shape=(*leaf.shape[:2], *change(leaf.shape[2:])))

        inputs = Inputs(rebuild(self.positional, other), rebuild(self.named, other))
        return inputs if resized else None

    def map(self, function):
        """The same with `function(array)` for each array."""
        return Inputs(rebuild(self.positional, function), rebuild(self.named, function))


def _described(value):
    def leaf(each):
        if isinstance(each, Input):
            return each
        array = np.asarray(each)
        if array.dtype == object:
            raise CannotRun(f"an input is a {type(each).__name__}: {WANTED}")
        return array

    def text(each):
        if isinstance(each, Mapping):
            return {name: text(child) for name, child in each.items()}
        if isinstance(each, (list, tuple)):
            return type(each)(text(child) for child in each)
        return parse(each)[1] if isinstance(each, str) else each

    return rebuild(text(value), leaf)


def make_inputs(described, seed=0):
    """Inputs of arrays, from what `Inputs.of` takes; the same with the same seed."""
    return Inputs.of(described).make(np.random.default_rng(seed))
