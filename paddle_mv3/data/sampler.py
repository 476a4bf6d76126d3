"""Which images a process sees in an epoch, in which order, and what its draws depend on."""

import itertools
from typing import NamedTuple

import numpy as np
import paddle

__all__ = ["BatchSampler", "DistributedSampler", "Draw", "RASampler", "step_seed"]


class Draw(NamedTuple):
    """One use of an image: the key that a data set turns into an item."""

    index: int  # in the data set
    epoch: int = 0
    repetition: int = 0  # of the same image in the same epoch, for RASampler


def as_draw(key):
    """A Draw as it is; of an index, the first repetition in epoch 0."""
    return key if isinstance(key, Draw) else Draw(key)


# What a Generator is for. Without such a mark the order of an epoch and the draws for image 0 would
# come from the same stream: NumPy fills short seeds up with zeros.
ORDER, IMAGE, BATCH, STEP = range(1, 5)


def generator(seed, draw, purpose):
    """A Generator that depends on nothing else: no number of processes, no workers, no resume."""
    return np.random.default_rng((seed, *draw, purpose))


def step_seed(seed, epoch, iteration, rank=0):
    """For `paddle.seed` before a training step, so that its dropout depends on nothing else.

    In [0, 2 ** 31). Ranks have seeds of their own, as they have images of their own.
    """
    return int(generator(seed, Draw(iteration, epoch, rank), STEP).integers(2**31))


class DistributedSampler(paddle.io.Sampler):
    """The `Draw`s of one of `world_size` processes; torch.utils.data.DistributedSampler.

    Process r takes every world_size-th image of one order from the r-th on. So that all have
    equally many, the order is filled up from its beginning, or cut with `drop_last`.

    Args:
        dataset: anything with a length.
        rank, world_size: which process of how many.
        shuffle: another order in each epoch, the same on all ranks; False: the data set's own.
        drop_last: whether to cut rather than to fill up.
        seed: 0 or more, the same on all ranks.

    Raises:
        ValueError: an argument out of its range, or no image for each process.
    """

    def __init__(self, dataset, rank=0, world_size=1, shuffle=True, drop_last=False, seed=0):
        if world_size < 1:
            raise ValueError(f"world_size is {world_size}: give 1 or more")
        if not 0 <= rank < world_size:
            raise ValueError(
                f"rank is {rank}: give 0 to {world_size - 1} of {world_size} processes"
            )
        if seed < 0:
            raise ValueError(f"seed is {seed}: give 0 or more")
        self.length = len(dataset)
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.epoch = 0
        if len(self) == 0:
            raise ValueError(
                f"a data set of {self.length} images has none for each of {world_size} processes: "
                "use fewer processes or more images"
            )

    def set_epoch(self, epoch):
        self.epoch = epoch

    def permutation(self):
        """(length,) int64: the order of the data set's indices in this epoch, on all ranks."""
        if not self.shuffle:
            return np.arange(self.length)
        return generator(self.seed, Draw(0, self.epoch), ORDER).permutation(self.length)

    def __iter__(self):
        order = np.resize(self.permutation(), len(self) * self.world_size)
        for index in order[self.rank :: self.world_size].tolist():
            yield Draw(index, self.epoch)

    def __len__(self):
        """Draws of each rank."""
        whole, rest = divmod(self.length, self.world_size)
        return whole + (rest > 0 and not self.drop_last)


class RASampler(DistributedSampler):
    """Repeated augmentation (Hoffer et al., 2019); RASampler of torchvision's references.

    Each image is drawn `repetitions` times in a row, so in one step on different processes, and
    an epoch ends early: after as many draws as there are images, in whole groups of 256.

    Args:
        dataset, rank, world_size, shuffle, seed: as for DistributedSampler.
        repetitions: draws of each image.

    Raises:
        ValueError: as for DistributedSampler, and for fewer than 256 images.
    """

    def __init__(self, dataset, rank=0, world_size=1, shuffle=True, seed=0, repetitions=3):
        if repetitions < 1:
            raise ValueError(f"repetitions is {repetitions}: give 1 or more")
        if len(dataset) < 256:
            raise ValueError(
                f"a data set of {len(dataset)} images has none for repeated augmentation, "
                "which uses whole groups of 256: leave it out"
            )
        self.repetitions = repetitions
        super().__init__(dataset, rank, world_size, shuffle, seed=seed)

    def __iter__(self):
        order = self.permutation()
        for position in itertools.islice(
            range(self.rank, self.length * self.repetitions, self.world_size), len(self)
        ):
            place, repetition = divmod(position, self.repetitions)
            yield Draw(int(order[place]), self.epoch, repetition)

    def __len__(self):
        return self.length // 256 * 256 // self.world_size


class BatchSampler(paddle.io.BatchSampler):
    """Batches of a sampler's draws, from any batch of an epoch on.

    Args:
        sampler: DistributedSampler or RASampler.
        batch_size: draws of this process in a batch.
        drop_last: whether to leave out a last batch that is smaller.
    """

    def __init__(self, sampler, batch_size, drop_last=False):
        super().__init__(sampler=sampler, batch_size=batch_size, drop_last=drop_last)
        self.start = 0

    def set_epoch(self, epoch, start=0):
        """Goes to batch `start` of `epoch`: after a stop in the middle, the batches already used.

        Raises:
            ValueError: the epoch has fewer batches.
        """
        if not 0 <= start <= super().__len__():
            raise ValueError(f"start is {start}: an epoch has {super().__len__()} batches")
        self.sampler.set_epoch(epoch)
        self.start = start

    def __iter__(self):
        return itertools.islice(super().__iter__(), self.start, None)

    def __len__(self):
        """Batches that are left of the epoch."""
        return super().__len__() - self.start
