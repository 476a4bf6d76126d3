"""Inputs for any model, made from a description: "4x3x64x64", "ids=int64[4,16]<1000"."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .files import CannotRun, load_array
from .structure import rebuild

__all__ = ["Input", "Inputs", "make_inputs", "parse"]

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
MOST_VALUES = 2**31  # 8 GB of float32
COPIES = 3  # of an input, in float64: that of each side and what it was made from
MOST_AXES = 32
MOST_DIGITS = 19
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
        padding: ids that fill up the ends of sequences of ids; those below `high` are used.
    """

    dtype: str
    shape: tuple
    high: int = 2
    padding: tuple[int, ...] = (0, 1)

    def make(self, rng: np.random.Generator) -> np.ndarray:
        """Floats are normal (mean 0, deviation 1); integers and booleans uniform.

        Integers (N, T) are taken for sequences of ids, as a batch of texts. So every second one
        ends in padding, a quarter of its length: by chance alone few ids out of thousands would be
        the one that a model has to mask.
        """
        if self.dtype.startswith("float"):
            return rng.standard_normal(self.shape).astype(self.dtype)
        if self.dtype == "bool":
            return rng.random(self.shape) < 0.5
        made = rng.integers(0, self.high, self.shape).astype(self.dtype)
        padding = [number for number in self.padding if number < self.high]
        if self.is_ids and padding:
            kept = made.shape[1] - made.shape[1] // 4
            padded = made[1::2] if len(made) > 1 else made
            for row, number in zip(padded, itertools.cycle(padding)):
                row[kept:] = number
        return made

    @property
    def is_ids(self) -> bool:
        """Whether it may be a batch of sequences of ids: (N, T) of whole numbers."""
        return self.dtype in ("int64", "int32") and len(self.shape) == 2

    @property
    def is_image(self) -> bool:
        """Whether it may be a batch of images: (N, C, H, W) or (N, H, W, C) of floats."""
        return self.dtype.startswith("float") and len(self.shape) == 4

    def other_sizes(self) -> list[tuple[int, ...]]:
        """Shapes of the same input at another size, to be tried in turn: [shape]

        Images odd sizes first, then even ones, then channels last; volumes and sequences alike.
        """
        if not self.dtype.startswith("float"):
            # Tokens and their masks: longer.
            return [(self.shape[0], self.shape[1] + 5)] if len(self.shape) == 2 else []
        if len(self.shape) == 3:
            n, c, length = self.shape
            return [(n, c, length + 7), (n, c + 5, length)]
        if len(self.shape) == 4:
            n, c, h, w = self.shape
            last = (n, c + 11, h + 7, w)
            return [(n, c, h + 11, w + 7), (n, c, h + 32, w), (n, c, 2 * h, 2 * w), last]
        if len(self.shape) == 5:
            n, c, d, h, w = self.shape
            return [(n, c, d + 3, h + 5, w + 1), (n, c, 2 * d, 2 * h, 2 * w)]
        return []


def parse(text: str, what: str = "input") -> tuple[str | None, Input | np.ndarray]:
    """(name or None, Input or array) of a description.

    Args:
        what: it is, for errors.
        text: "[NAME=]SHAPE", "[NAME=]DTYPE[SHAPE]", "[NAME=]DTYPE[SHAPE]<HIGH" or
            "[NAME=]FILE.npy"; numbers of a shape are separated by x or by commas.

    Raises:
        CannotRun: it is none of these, or has no value or too many.
    """
    name, found, rest = None, re.match(r"([A-Za-z_]\w*)=(.+)$", text.strip()), text.strip()
    if found:
        name, rest = found.groups()
    if rest.endswith(".npy"):
        return name, _usable(load_array(Path(rest)), f"{what} {text!r:.80}")
    axes = r"\d+(?:\s*[,x]\s*\d+)*"
    found = re.fullmatch(rf"(?:(\w+)\[\s*({axes})?\s*,?\s*\]|({axes}))(?:<(\d+))?", rest, re.ASCII)
    if not found:
        raise CannotRun(f"{what} {text!r:.80}: {WANTED}")
    dtype, shape, plain, high = found.groups()
    shape = (plain if dtype is None else shape) or ""
    dtype = dtype or "float32"
    if dtype not in DTYPES:
        raise CannotRun(f"{what} {text!r:.80}: no dtype {dtype}. Give one of {', '.join(DTYPES)}")
    sizes = re.split("[,x]", shape) if shape.strip() else []
    if any(len(size.strip()) > MOST_DIGITS for size in sizes):
        raise CannotRun(f"{what} {text!r:.80}: a size of it is too large")
    shape = tuple(int(size) for size in sizes)
    if 0 in shape:
        raise CannotRun(f"{what} {text!r:.80}: there is nothing in it. Give sizes above 0")
    if len(shape) > MOST_AXES:
        raise CannotRun(f"{what} {text!r:.80}: more than {MOST_AXES} axes")
    most = min(MOST_VALUES, _memory() // (8 * COPIES))
    if math.prod(shape) > most:
        raise CannotRun(
            f"{what} {text!r:.80}: {math.prod(shape):,} values are more than fit into memory, "
            f"{most:,}. Give a smaller shape"
        )
    is_integer = "int" in dtype
    if high is not None and not is_integer:
        raise CannotRun(f"{what} {text!r:.80}: <{high} is for integers, and this is {dtype}")
    high = int(high or 2) if len(high or "") <= MOST_DIGITS else 0
    if is_integer and not 1 <= high <= np.iinfo(dtype).max + 1:
        raise CannotRun(
            f"{what} {text!r:.80}: values are 0 or more, and below the number after <. Give a "
            f"number from 1 to {np.iinfo(dtype).max + 1}, as {dtype} holds no more"
        )
    return name, Input(dtype, shape, high)


def _memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _usable(array: np.ndarray, what: str) -> np.ndarray:
    """The array, if a comparison of what comes out of it can tell anything."""
    if not array.size:
        raise CannotRun(f"{what}: its shape is {list(array.shape)}, so there is nothing in it")
    if array.dtype.kind in "fc" and np.isnan(array).any():
        raise CannotRun(f"{what}: there are NaNs in it")
    return array


@dataclass(frozen=True)
class Inputs:
    """Arguments of a model's forward: positional and by keyword, nests of Input or array."""

    positional: tuple
    named: dict

    @classmethod
    def of(cls, described: Any, what: str = "input") -> Inputs:
        """From what `check` takes.

        Args:
            described: a text as for `parse`, an array, a list or tuple of these (positional), or a
                dictionary (by keyword). In each, lists, tuples and dictionaries may be nested. A
                text "name=..." in a list is by keyword.
            what: it is, for errors.
        """
        if isinstance(described, cls):
            return described
        if isinstance(described, Mapping):
            wrong = next((name for name in described if not isinstance(name, str)), None)
            if wrong is not None:
                raise CannotRun(f"inputs by keyword: {wrong!r:.40} is not a name")
            return cls((), {name: _described(value) for name, value in described.items()})
        if not isinstance(described, (list, tuple)):
            described = [described]
        positional, named = [], {}
        for value in described:
            name = None
            if isinstance(value, str):
                name, value = parse(value, what)
            if name is None:
                positional.append(_described(value, what))
            elif name in named:
                raise CannotRun(f"the input {name} is given twice")
            else:
                named[name] = value
        if not positional and not named:
            raise CannotRun(f"there is no input: {WANTED}")
        return cls(tuple(positional), named)

    def padded_with(self, ids: Sequence[int]) -> Inputs:
        """The same, whose sequences of ids are filled up with these, in turn."""

        def padded(leaf: Any) -> Any:
            return replace(leaf, padding=tuple(ids)) if isinstance(leaf, Input) else leaf

        return self.map(padded)

    def make(self, rng: np.random.Generator) -> Inputs:
        """The same with arrays."""

        def array(leaf: Any) -> np.ndarray:
            return leaf.make(rng) if isinstance(leaf, Input) else leaf

        return self.map(array)

    def leaves(self) -> list[Any]:
        """[Input or array]"""
        found = []
        rebuild([self.positional, self.named], found.append)
        return found

    def resized(self, number: int) -> Inputs | None:
        """The same at another size, of those that `Input.other_sizes` gives; None if none is left.

        First each with one sample more in a batch, where all inputs have as many; then each with as
        many as before; at last one sample more alone.
        """
        leaves = self.leaves()
        described = [leaf for leaf in leaves if isinstance(leaf, Input)]
        count = max((len(leaf.other_sizes()) for leaf in described), default=0)
        # Lengths, one for each sample, belong to the length of the sequences.
        if any("int" in str(leaf.dtype) and len(leaf.shape) == 1 for leaf in leaves):
            count = 0
        batches = {leaf.shape[:1] for leaf in leaves}
        grows = len(described) == len(leaves) and len(batches) == 1 and () not in batches
        variants: list[tuple[int | None, int]] = [(size, 1) for size in range(count) if grows]
        variants += [(size, 0) for size in range(count)] + ([(None, 1)] if grows else [])
        if number >= len(variants):
            return None
        size, more = variants[number]

        def other(leaf: Any) -> Any:
            if not isinstance(leaf, Input):
                return leaf
            sizes = leaf.other_sizes()
            shape = leaf.shape if size is None or size >= len(sizes) else sizes[size]
            return replace(leaf, shape=(shape[0] + more, *shape[1:]) if more else shape)

        return self.map(other)

    def map(self, function: Callable[[Any], Any]) -> Inputs:
        """The same with `function(leaf)` for each array or Input."""
        return Inputs(rebuild(self.positional, function), rebuild(self.named, function))


def _described(value: Any, what: str = "input") -> Any:
    def leaf(each: Any) -> Any:
        if isinstance(each, Input):
            return each
        array = np.asarray(each)
        if array.dtype == object:
            raise CannotRun(f"{what} of type {type(each).__name__}: {WANTED}")
        return _usable(array, what)

    def text(each: Any) -> Any:
        if isinstance(each, Mapping):
            return {name: text(child) for name, child in each.items()}
        if isinstance(each, (list, tuple)):
            return type(each)(text(child) for child in each)
        return parse(each)[1] if isinstance(each, str) else each

    return rebuild(text(value), leaf)


def make_inputs(described: Any, seed: int = 0) -> Inputs:
    """Inputs of arrays, from what `Inputs.of` takes; the same with the same seed."""
    return Inputs.of(described).make(np.random.default_rng(seed))
