"""paddle.io.DataLoader that reports the image it cannot read."""

import traceback

import numpy as np
import paddle
from paddle.io.dataloader.collate import default_collate_fn

__all__ = ["DataLoader"]


class DataLoader(paddle.io.DataLoader):
    """paddle.io.DataLoader whose iterator raises what the data set raised.

    In Paddle 3.3.1 an exception in a data set makes the next batch wait forever (no workers: the
    thread that reads has died) or ends in "Blocking queue is killed" (workers). Here it travels to
    the main process as the first field of the batch, and is raised there.

    Args:
        dataset: its items are tuples; a batch is the list of their fields, stacked.
        args, kwargs: as for paddle.io.DataLoader.

    Raises (from the iterator):
        OSError: an OSError in the data set, such as an image that cannot be decoded.
        RuntimeError: any other exception in the data set, with its traceback as the message.
    """

    def __init__(self, dataset, *args, collate_fn=default_collate_fn, **kwargs):
        super().__init__(_Guarded(dataset), *args, collate_fn=_Collate(collate_fn), **kwargs)

    def __iter__(self):
        for failure, *batch in super().__iter__():
            if not batch:
                kind, _, message = failure.numpy().tobytes().decode().partition(":")
                raise OSError(message) if kind == "OSError" else RuntimeError(message)
            yield batch


class _Guarded(paddle.io.Dataset):
    """A data set whose items are an exception's text where the other's would raise it."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, index):
        try:
            return self.dataset[index]
        except OSError as error:
            return f"OSError:{error}"
        except Exception:
            return f"RuntimeError:{traceback.format_exc()}"

    def __len__(self):
        return len(self.dataset)


class _Collate:
    """The other collate function's fields behind one more, which holds the failure if any."""

    def __init__(self, collate_fn):
        self.collate_fn = collate_fn

    def __call__(self, samples):
        for sample in samples:
            if isinstance(sample, str):
                return [np.frombuffer(sample.encode(), dtype=np.uint8)]
        return [np.zeros(1, dtype=np.uint8), *self.collate_fn(samples)]
