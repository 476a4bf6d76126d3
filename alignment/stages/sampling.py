"""Whether two samplers give each process the same images, from one and the same shuffled order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch

from ..findings import Compared, Finding

LENGTHS = (256, 257, 600, 1023)
FEW = (1, 2, 7, 23)  # images, some of them fewer than processes
WORLD_SIZES = (1, 2, 3, 8)
EPOCHS = (0, 1, 2)
SEEDED = "is the generator seeded with seed and epoch?"
SEVERAL = 20  # of so many images no two orders are the same by chance


def compare_sampling(
    port_sampler_factory: Callable[..., Any],
    reference_sampler_factory: Callable[..., Any],
    lengths: Sequence[int] = LENGTHS,
    variants: Sequence[Mapping[str, Any]] = ({},),
) -> Compared:
    """Compares two samplers that shuffle, over data set lengths, world sizes, ranks and epochs.

    The frameworks shuffle differently, so `torch.randperm` gives the reference the port's order.

    Args:
        port_sampler_factory, reference_sampler_factory: called as f(dataset, rank, world_size,
            **variant); give a sampler with `set_epoch`, `__len__` and `__iter__`. The port's also
            has `permutation()`, the order of the whole data set in this epoch; it may give, in
            place of indices, tuples that begin with one and say all that an image's augmentation
            depends on.
        lengths: of the data sets.
        variants: [arguments of both]; of those after the first, with the first length and a few
            images alone.

    Returns:
        Compared
    """
    comparison = _Comparison(port_sampler_factory, reference_sampler_factory)
    line = comparison.run(variants, lengths)
    name = comparison.name
    if line:
        hint = f"{name}, how it shuffles, pads and distributes to ranks"
        where = f"{name}, {comparison.where}"
        return _differs(f"the sampler {name}", "sampling", where, line, hint)
    summary = (
        f"{name}: each rank gets the reference's images ({comparison.compared} combinations of "
        "rank and epoch)"
    )
    return Compared(f"the sampler {name}", summary)


class _Comparison:
    def __init__(self, port: Callable[..., Any], reference: Callable[..., Any]) -> None:
        self.factories = port, reference
        self.name, self.where, self.compared = getattr(port, "__name__", "sampler"), "", 0
        self.orders = {}  # {(length, epoch, seed): order}, of those that are shuffled

    def run(self, variants: Sequence[Mapping[str, Any]], lengths: Sequence[int]) -> str | None:
        """A line that says what is wrong with the first that differs, or None."""
        for variant in variants:
            told = "".join(f", {name} {value}" for name, value in variant.items())
            for length in (*lengths, *FEW):
                for world_size in WORLD_SIZES:
                    self.where = f"{length} images, {world_size} processes{told}"
                    line = self._compare(length, world_size, variant)
                    if line:
                        return line
            lengths = lengths[:1]
        return None

    def _compare(self, length: int, world_size: int, variant: Mapping[str, Any]) -> str | None:
        made: list[Any] = []
        for factory in self.factories:
            ranks = range(world_size)
            try:
                made.append([factory(range(length), r, world_size, **variant) for r in ranks])
            except ValueError as error:
                made.append(error)
        port, reference = made
        if isinstance(port, ValueError) or isinstance(reference, ValueError):
            # Nothing to give, or to refuse to give nothing, comes to the same.
            nothing = isinstance(reference, ValueError) or not any(map(len, reference))
            if isinstance(port, ValueError) and nothing:
                return None
            sides = (str(x) if isinstance(x, ValueError) else "no error" for x in made)
            return f"when it is made (port | reference): {' | '.join(sides)}"
        self.name = type(port[0]).__name__
        seen = set()  # draws of the epochs before
        where = self.where
        for epoch in EPOCHS:
            self.where = f"{where}, epoch {epoch}"
            for sampler in (*port, *reference):
                sampler.set_epoch(epoch)
            key = length, epoch, variant.get("seed", 0)
            order = np.asarray(port[0].permutation())
            line = _compare_orders(port, order)
            if variant.get("shuffle", True):
                line = line or self._same_order(key, order)
            line = line or _compare_draws(port, reference, order, seen)
            if line:
                return line
            self.compared += world_size
        return None

    def _same_order(self, key: tuple[int, int, int], order: np.ndarray) -> str | None:
        """A line that says that an order comes again where it should not, or does not; or None."""
        length, epoch, seed = key
        before = self.orders.setdefault(key, order)
        if not np.array_equal(before, order):
            return "the order changes with the number of processes"
        for (length_before, epoch_before, seed_before), before in self.orders.items():
            if length_before != length or length < SEVERAL or not np.array_equal(before, order):
                continue
            if epoch_before != epoch and seed_before == seed:
                return f"the order is an earlier epoch's: {SEEDED}"
            if seed_before != seed:
                return f"the order is that of another seed: {SEEDED}"
        return None


def _differs(what: str, check: str, where: str, line: str, hint: str) -> Compared:
    finding = Finding(check, where, line, hint=hint, title="First difference")
    return Compared(what, "", [finding])


def compare_items(
    dataset: Any, draw: Callable[[int, int, int], Any], images: int = 8, other_seed: Any = None
) -> Compared:
    """Whether a data set changes an image at random by its seed, index, epoch and repetition alone.

    Args:
        dataset: its item of a key is (array, label).
        draw: called with (index, epoch, repetition), gives a key.
        other_seed: the same data set with another seed, or None.

    Returns:
        As `compare_sampling`.
    """
    name = type(dataset).__name__

    def items(epoch: int, repetition: int, dataset: Any = dataset) -> list[np.ndarray]:
        keys = [draw(index, epoch, repetition) for index in range(min(images, len(dataset)))]
        return [np.asarray(dataset[key][0]) for key in keys]

    first = items(3, 1)
    line = None
    if not _same(first, items(3, 1)):
        line = (
            "images differ although seed, index, epoch and repetition are the same: something else "
            "is in the generator's seed"
        )
    # A single image may be the same by chance: of one pixel, all crops are.
    others = [("epoch", items(4, 1)), ("repetition", items(3, 2))]
    if other_seed is not None:
        others.append(("seed", items(3, 1, other_seed)))
    for what, other in others:
        if _same(first, other):
            line = f"images are the same with another {what}: it is not in the generator's seed"
    what = "the augmentation of an image"
    if line:
        return _differs(what, "sampling", name, line, f"{name}, an item's generator")
    summary = (
        f"{name}: the augmentation of an image depends only on seed, index, epoch and repetition"
    )
    return Compared(what, summary)


def _same(arrays: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return all(map(np.array_equal, arrays, others))


def _compare_orders(port: Sequence[Any], order: np.ndarray) -> str | None:
    """A line that says what is wrong with the order of an epoch, or None."""
    length = len(order)
    if not np.array_equal(np.sort(order), np.arange(length)):
        missing = length - len(np.unique(order))
        return f"its order leaves out {missing} images, or is of another length"
    for rank, sampler in enumerate(port):
        if not np.array_equal(sampler.permutation(), order):
            return f"rank {rank} has another order than rank 0: is the seed the same on all?"
    return None


def _compare_draws(
    port: Sequence[Any], reference: Sequence[Any], order: np.ndarray, seen: set
) -> str | None:
    """A line that says what is wrong with one epoch of all ranks, or None.

    Args:
        order: (length,) int64, the port's of this epoch, which the reference is given.
        seen: the draws {tuple} of the epochs before; this epoch's are added.
    """
    draws = []
    for rank, samplers in enumerate(zip(port, reference)):
        mine = list(samplers[0])
        with mock.patch("torch.randperm", lambda *args, **kwargs: torch.from_numpy(order)):
            theirs = list(samplers[1])
        indices = [draw[0] if isinstance(draw, tuple) else int(draw) for draw in mine]
        lengths = (len(mine), len(samplers[0])), (len(theirs), len(samplers[1]))
        if lengths[0] != lengths[1]:
            text = " | ".join(f"{count} samples, len() {length}" for count, length in lengths)
            return f"rank {rank} gets (port | reference) {text}: padding, drop_last or sharding"
        for position, (a, b) in enumerate(zip(indices, theirs)):
            if a != b:
                return (
                    f"rank {rank} gets at position {position} (port | reference) image {a} | {b} "
                    "of the same order: sharding, padding or repetition"
                )
        draws += mine

    if draws and isinstance(draws[0], tuple):
        # What fills up the last step is drawn as its image was before.
        if len(set(draws)) != min(len(draws), len(order)):
            return "the copies of an image would be augmented alike: is repetition in its items?"
        if not seen.isdisjoint(draws):
            return "images would be augmented as in an earlier epoch: is the epoch in its items?"
        seen.update(draws)
    return None
