"""paddle.io.DataLoader that reports the image it cannot read, and copies images less often."""

import traceback
from collections import deque

import numpy as np
import paddle
from paddle.base import core

from .sampler import BATCH, as_draw, generator

__all__ = ["DataLoader"]


class DataLoader(paddle.io.DataLoader):
    """paddle.io.DataLoader whose iterator raises what the data set raised.

    In Paddle 3.3.1 an exception in a data set makes the next batch wait forever (no workers: the
    thread that reads has died) or ends in "Blocking queue is killed" (workers). Here it travels to
    the main process as the first field of the batch, and is raised there.

    Args:
        dataset: with a length; its items are tuples of arrays and numbers. A batch is the list of
            their fields, stacked.
        args, kwargs: as for paddle.io.DataLoader, except collate_fn. With persistent_workers an
            epoch has to be read to its end: Paddle 3.3.1 cannot begin another before.
        batch_transform: called in the worker, so without Paddle, with the fields of a batch as
            arrays and a numpy Generator; returns the fields to use in their place.
        seed: with the Draw of the batch's first item, all that this Generator depends on.
        finish: called in the main process with the first field of a batch as an array; returns the
            array to use in its place. For what makes a batch larger, as `normalize_batch` does:
            most of the time of a worker beside decoding goes into sending.

    Raises (from the iterator):
        OSError: an OSError in the data set, such as an image that cannot be decoded.
        RuntimeError: any other exception in the data set or in `batch_transform`, with its
            traceback as the message.
    Raises:
        ValueError: no batch size, a negative seed.
    """

    def __init__(self, dataset, *args, batch_transform=None, seed=0, finish=None, **kwargs):
        if seed < 0:
            raise ValueError(f"seed is {seed}: give 0 or more")
        super().__init__(dataset, *args, collate_fn=_only, **kwargs)
        if self.batch_sampler is None:
            raise ValueError("batch_size is None: give the number of items in a batch")
        # Paddle asks a data set for item after item and then stacks them.
        self.dataset = _Batches(dataset, batch_transform, seed, self.prefetch_factor)
        self.batch_sampler = _OneItem(self.batch_sampler)
        self.finish = finish

    def __iter__(self):
        for failure, *batch in super().__iter__():
            if not batch:
                kind, _, message = failure.numpy().tobytes().decode().partition(":")
                raise OSError(message) if kind == "OSError" else RuntimeError(message)
            if self.finish is not None:
                batch[0] = paddle.to_tensor(self.finish(batch[0].numpy()))
            yield batch


class _OneItem:
    """The batches of a batch sampler, each as the only item of a batch."""

    def __init__(self, batch_sampler):
        self.batch_sampler = batch_sampler

    def __iter__(self):
        return ([draws] for draws in self.batch_sampler)

    def __len__(self):
        return len(self.batch_sampler)


def _only(items):
    (item,) = items
    return item


class _Batches(paddle.io.Dataset):
    """A data set whose items are the other's batches, each behind a field for its failure."""

    def __init__(self, dataset, transform, seed, prefetch_factor):
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        # Paddle's worker goes on while a thread of it sends a batch, from memory that nothing else
        # keeps. It is sent when the main process has asked for `prefetch_factor` batches more.
        self.unsent = deque(maxlen=prefetch_factor + 1)

    def __getitem__(self, draws):
        try:
            fields = self.stack(draws)
            if self.transform is not None:
                rng = generator(self.seed, as_draw(draws[0]), BATCH)
                fields = self.transform(*fields, rng)
            fields = [np.zeros(1, dtype=np.uint8), *fields]
        except OSError as error:
            fields = [_text(f"OSError:{error}")]
        except Exception:
            fields = [_text(f"RuntimeError:{traceback.format_exc()}")]
        # Of an array Paddle would make a tensor by a copy, and then copy that to the main process.
        tensors = [
            core.eager.Tensor(value=field, place=core.CPUPlace(), zero_copy=True)
            for field in fields
        ]
        self.unsent.append(tensors)
        return tensors

    def stack(self, draws):
        """The fields of the items, stacked.

        Each item is copied to its place before the next is made. Where all are kept until the last
        is there, as many pages of memory come and go with every batch: 0.2 ms an image.

        Raises:
            ValueError: items of different shapes or dtypes.
        """
        fields = None
        for i, draw in enumerate(draws):
            item = [np.asarray(value) for value in self.dataset[draw]]
            if fields is None:
                fields = [np.empty((len(draws), *x.shape), x.dtype) for x in item]
            wanted = [(field.shape[1:], field.dtype) for field in fields]
            if [(x.shape, x.dtype) for x in item] != wanted:
                raise ValueError(
                    f"item {draw} holds {_shapes(item)}, the batch's first "
                    f"{_shapes(field[0] for field in fields)}: all must be of one shape and dtype"
                )
            for field, x in zip(fields, item):
                field[i] = x
        return fields


def _shapes(arrays):
    return ", ".join(f"{x.dtype} {x.shape}" for x in arrays)


def _text(message):
    return np.frombuffer(message.encode(), dtype=np.uint8)
