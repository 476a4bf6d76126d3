"""Whether two samplers give each process the same images, from one and the same shuffled order."""

from unittest import mock

import numpy as np
import torch

from ..findings import Compared, Finding

LENGTHS = (256, 257, 600, 1023)
WORLD_SIZES = (1, 2, 3, 8)
EPOCHS = (0, 1, 2)


def compare_sampling(port_sampler_factory, reference_sampler_factory, lengths=LENGTHS):
    """Compares two samplers that shuffle, over data set lengths, world sizes, ranks and epochs.

    The frameworks shuffle differently, so `torch.randperm` gives the reference the port's order.

    Args:
        port_sampler_factory, reference_sampler_factory: called as f(dataset, rank, world_size);
            give a sampler with `set_epoch`, `__len__` and `__iter__`. The port's also has
            `permutation()`, the order of the whole data set in this epoch; it may give, in place
            of indices, tuples that begin with one and say all that an image's augmentation
            depends on.
        lengths: of the data sets.

    Returns:
        Compared
    """
    compared = 0
    for length in lengths:
        for world_size in WORLD_SIZES:
            port, reference = (
                [factory(range(length), rank, world_size) for rank in range(world_size)]
                for factory in (port_sampler_factory, reference_sampler_factory)
            )
            seen = set()  # draws of the epochs before
            orders = []
            for epoch in EPOCHS:
                where = f"{length} images, {world_size} processes, epoch {epoch}"
                for sampler in (*port, *reference):
                    sampler.set_epoch(epoch)
                line = _compare_epoch(port, reference, orders, seen)
                if line:
                    name = type(port[0]).__name__
                    hint = f"{name}, how it shuffles, fills up and deals out to ranks"
                    return _differs(
                        f"the sampler {name}", "sampling", f"{name}, {where}", line, hint
                    )
                compared += world_size
    name = type(port[0]).__name__
    summary = f"{name}: each rank's images are the reference's ({compared} epochs of a rank)"
    return Compared(f"the sampler {name}", summary)


def _differs(what, check, where, line, hint):
    finding = Finding(check, where, line, hint=hint, title="First difference")
    return Compared(what, "", [finding])


def compare_items(dataset, draw, images=8):
    """Whether a data set changes an image at random by its index, epoch and repetition alone.

    Args:
        dataset: its item of a key is (array, label).
        draw: called with (index, epoch, repetition), gives a key.

    Returns:
        As `compare_sampling`.
    """
    name = type(dataset).__name__

    def items(epoch, repetition):
        keys = [draw(index, epoch, repetition) for index in range(min(images, len(dataset)))]
        return [np.asarray(dataset[key][0]) for key in keys]

    first = items(3, 1)
    line = None
    if not _same(first, items(3, 1)):
        line = "images are others with the same draws: something else is in the generator's seed"
    # A single image may be the same by chance: of one pixel, all crops are.
    for what, other in (("epoch", items(4, 1)), ("repetition", items(3, 2))):
        if _same(first, other):
            line = f"images are the same with another {what}: it is not in the generator's seed"
    what = "what a data set makes of an image"
    if line:
        return _differs(what, "sampling", name, line, f"{name}, an item's generator")
    summary = f"{name}: an image is augmented by its index, epoch and repetition alone"
    return Compared(what, summary)


def _same(arrays, others):
    return all(map(np.array_equal, arrays, others))


def _compare_epoch(port, reference, orders, seen):
    """A line that says what is wrong with one epoch of all ranks, or None.

    Args:
        orders, seen: the orders [(length,) int64] and the draws {tuple} of the epochs before; this
            epoch's are added.
    """
    order = np.asarray(port[0].permutation())
    length = len(order)
    if not np.array_equal(np.sort(order), np.arange(length)):
        missing = length - len(np.unique(order))
        return f"its order leaves out {missing} images, or is of another length"
    for rank, sampler in enumerate(port):
        if not np.array_equal(sampler.permutation(), order):
            return f"rank {rank} has another order than rank 0: is the seed the same on all?"
    if any(np.array_equal(order, before) for before in orders):
        return "the order is an earlier epoch's: is it drawn from seed and epoch?"
    orders.append(order)

    draws = []
    for rank, samplers in enumerate(zip(port, reference)):
        mine = list(samplers[0])
        with mock.patch("torch.randperm", lambda *args, **kwargs: torch.from_numpy(order)):
            theirs = list(samplers[1])
        indices = [draw[0] if isinstance(draw, tuple) else int(draw) for draw in mine]
        lengths = (len(mine), len(samplers[0])), (len(theirs), len(samplers[1]))
        if lengths[0] != lengths[1]:
            text = " | ".join(f"{drawn} draws, len() {length}" for drawn, length in lengths)
            return f"rank {rank} has (port | reference) {text}: padding, drop_last or sharding"
        for position, (a, b) in enumerate(zip(indices, theirs)):
            if a != b:
                return (
                    f"rank {rank}, draw {position}, is (port | reference) image {a} | {b} "
                    "of the same order: sharding, padding or repetition"
                )
        draws += mine

    if isinstance(draws[0], tuple):
        # What fills up the last step is drawn as its image was before.
        if len(set(draws)) != min(len(draws), length):
            return "draws of the same image are the same: they would be augmented alike"
        if not seen.isdisjoint(draws):
            return "draws are an earlier epoch's: images would be augmented as they were then"
        seen.update(draws)
    return None
