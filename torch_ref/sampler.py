"""The sampler of repeated augmentation, which torchvision's wheel does not hold."""

import math

import torch

__all__ = ["RASampler"]


class RASampler(torch.utils.data.Sampler):
    """Indices of one of `num_replicas` processes, each image `repetitions` times.

    As torchvision's references/classification/sampler.py gives them: the shuffled order with each
    index repeated in place, filled up from its beginning to a multiple of `num_replicas`; of that
    every num_replicas-th from `rank` on; of these as many as make whole groups of 256 images over
    all processes.
    """

    def __init__(self, dataset, num_replicas, rank, shuffle=True, seed=0, repetitions=3):
        self.length = len(dataset)
        self.num_replicas = num_replicas
        self.rank = rank
        self.shuffle = shuffle
        self.seed = seed
        self.repetitions = repetitions
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        order = torch.arange(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.length, generator=generator)
        repeated = order.repeat_interleave(self.repetitions).tolist()
        of_each = math.ceil(len(repeated) / self.num_replicas)
        filled = repeated + repeated[: of_each * self.num_replicas - len(repeated)]
        return iter(filled[self.rank :: self.num_replicas][: len(self)])

    def __len__(self):
        return math.floor(self.length // 256 * 256 / self.num_replicas)
