"""Top-k accuracy, as in torchvision's references/classification/utils.py, over ranks too."""

import math

import numpy as np
import paddle

__all__ = [
    "EvalBatchSampler",
    "accuracy",
    "averages",
    "batch_sums",
    "evaluate",
    "place",
    "topk_correct",
]


def topk_correct(output, target, topk=(1,)):
    """For each k, how many rows of `output` have their label among the k largest.

    Args:
        output: logits, (N, num_classes).
        target: labels, (N,) int64, or shares of the classes, (N, num_classes): the largest counts.
        topk: several k, each at most num_classes.

    Returns:
        (len(topk),) int64, on the device of `output`: nothing waits for it.
    """
    if target.ndim == 2:
        target = target.argmax(axis=1)
    _, predicted = paddle.topk(output, max(topk), axis=1)
    correct = predicted == target.reshape([-1, 1])
    return paddle.stack([correct[:, :k].sum() for k in topk])


def accuracy(output, target, topk=(1,)):
    """Top-k accuracies in per cent, [float]. Arguments: `topk_correct`."""
    return [100 * hits / len(target) for hits in topk_correct(output, target, topk).tolist()]


def evaluate(model, batches, topk=(1, 5), criterion=None, sharded=False):
    """Top-k accuracies of `model` in per cent over all of `batches`, [float].

    Each image counts once, whatever the size of its batch. The model is put in eval mode.

    Args:
        model: a Layer; images -> logits (N, num_classes).
        batches: of (images, labels (N,) int64); None is one without images.
        criterion: (logits, labels) -> mean loss; its mean over all images is then the last item.
        sharded: `batches` are this rank's, by `EvalBatchSampler`; the result is that of all ranks,
            to the last bit what one process gets.

    Raises:
        OSError: there is no image in all of `batches`.
    """
    sums = batch_sums(model, batches, topk, criterion)
    if sharded:
        count = paddle.to_tensor(len(sums))
        paddle.distributed.all_reduce(count)
        rank, world_size = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        table = paddle.to_tensor(place(sums, int(count), rank, world_size))
        paddle.distributed.all_reduce(table)
        sums = table.numpy()
    return averages(sums, topk)


class EvalBatchSampler(paddle.io.BatchSampler):
    """Every `world_size`-th batch of images 0, 1, ..., from batch `rank` on.

    Batches are dealt out whole. So each holds the same images for every number of ranks, and its
    logits are the same to the last bit; no image is repeated to fill up, as
    torch.utils.data.DistributedSampler does. A rank may get one batch less than another.

    Args:
        length: number of images.
    """

    def __init__(self, length, batch_size, rank=0, world_size=1):
        self.length, self.batch_size = length, batch_size
        self.rank, self.world_size = rank, world_size

    def __iter__(self):
        for start in self._starts():
            yield list(range(start, min(start + self.batch_size, self.length)))

    def __len__(self):
        return len(self._starts())

    def _starts(self):
        return range(self.rank * self.batch_size, self.length, self.world_size * self.batch_size)


@paddle.no_grad()
def batch_sums(model, batches, topk=(1, 5), criterion=None):
    """(batches, 1 + len(topk) + 1) float64: images, hits for each k, loss; summed over a batch.

    Without `criterion` the last column is left out. The model is put in eval mode.
    """
    model.eval()
    sums, width = [], 1 + len(topk) + (criterion is not None)
    for batch in batches:
        if batch is None:
            sums.append([0] * width)
            continue
        images, target = batch
        output = model(images)
        row = [len(target), *topk_correct(output, target, topk).tolist()]
        if criterion is not None:
            row.append(float(criterion(output, target)) * len(target))
        sums.append(row)
    return np.array(sums, dtype=np.float64).reshape(len(sums), width)


def place(sums, count, rank, world_size):
    """A rank's `batch_sums` among `count` batches, 0 for the others': ranks add up to all of them.

    Sums with 0 are exact, so nothing depends on the order in which ranks are added.
    """
    table = np.zeros((count, sums.shape[1]))
    table[rank::world_size] = sums
    return table


def averages(sums, topk=(1, 5)):
    """[accuracy in per cent for each k, mean loss if there is one] of all batches' `batch_sums`.

    Raises:
        OSError: of no image at all.
    """
    images, *totals = (math.fsum(column) for column in sums.T)
    if not images:
        raise OSError("not one image to evaluate could be read")
    factors = [100] * len(topk) + [1]
    return [factor * total / images for factor, total in zip(factors, totals)]
