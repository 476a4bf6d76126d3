"""Bugs that 03_test_metric.py finds: accuracies, and what they are counted over."""

import numpy as np
import paddle
from paddle import nn

import paddle_mv3
from paddle_mv3.training import metric

from . import API, bug, topic

topic("metric")


@bug(
    "03",
    "top-4 for top-5",
    ["acc_top5", "the metric itself (k)"],
    "top-5 a little low",
    "a slice that is one short",
    "correct[:, :k]",
)
def _(patch):
    correct = metric.topk_correct
    patch(metric, "topk_correct", lambda o, t, topk: correct(o, t, [min(k, 4) for k in topk]))


@bug(
    "03",
    "fraction for per cent",
    ["acc_top1", "a fraction, not per cent"],
    "a hundredth of the published figure",
    "paddle.metric.accuracy returns a fraction",
    "times 100",
    API + "metric/accuracy_en.html",
)
def _(patch):
    evaluate = metric.evaluate
    patch(paddle_mv3, "evaluate", lambda *a, **k: [x / 100 for x in evaluate(*a, **k)])


@bug(
    "03",
    "mean of the batches' means",
    ["acc_top1", "putting batches together"],
    "accuracy off by some hundredths",
    "the last batch is smaller and counts as much as a full one",
    "weight by the batch's size",
)
def _(patch):
    evaluate = metric.evaluate

    def mean_of_means(network, batches, *args):
        each = [evaluate(network, [batch], *args) for batch in batches]
        return [float(np.mean(column)) for column in zip(*each)]

    patch(paddle_mv3, "evaluate", mean_of_means)


@bug(
    "03",
    "last batch left out of the metric",
    ["acc_top1", "putting batches together"],
    "accuracy off by some hundredths",
    "a loop that ends one early",
    "all batches",
)
def _(patch):
    evaluate = metric.evaluate
    patch(paddle_mv3, "evaluate", lambda net, b, *args: evaluate(net, b[:-1] or b, *args))


@bug(
    "03",
    "divided by the nominal size of the batch",
    ["acc_top1", "one batch already"],
    "accuracy too low",
    "batch_size in place of len(target)",
    "len(target)",
)
def _(patch):
    evaluate = metric.evaluate

    def by_nominal_size(network, batches, *args):
        images = sum(len(y) for _, y in batches)
        return [x * images / (32 * len(batches)) for x in evaluate(network, batches, *args)]

    patch(paddle_mv3, "evaluate", by_nominal_size)


@bug(
    "03",
    "losses of batches weighted alike",
    ["loss: mean difference", "putting batches together"],
    "validation loss off where the last batch is small; accuracies are right",
    "mean of the batches' mean losses",
    "weight by the batch's size",
)
def _(patch):
    evaluate = metric.evaluate

    def unweighted(network, batches, topk, criterion):
        values = evaluate(network, batches, topk, criterion)
        losses = [evaluate(network, [batch], topk, criterion)[-1] for batch in batches]
        return [*values[:-1], float(np.mean(losses))]

    patch(paddle_mv3, "evaluate", unweighted)


@bug(
    "03",
    "evaluated in train mode",
    ["acc_top1", "not in eval mode"],
    "accuracy too low, and another one at every run",
    "model.eval() left out: dropout and batch norm act as in training",
    "model.eval()",
    API + "nn/Layer_en.html",
)
def _(patch):
    patch(nn.Dropout, "eval", lambda self: None)


topic("recipe")


@bug(
    "03",
    "images repeated so that all ranks have as many",
    ["ranks_acc_top1", "distributed to the ranks"],
    "accuracy depends on the number of GPUs",
    "paddle.io.DistributedBatchSampler fills up with the first images, as PyTorch's does",
    "EvalBatchSampler",
    API + "io/DistributedBatchSampler_en.html",
)
def _(patch):
    class Padded(paddle_mv3.EvalBatchSampler):
        def __iter__(self):
            batches = list(super().__iter__())
            yield from [batch + batch[: self.batch_size - len(batch)] for batch in batches]

    patch(paddle_mv3, "EvalBatchSampler", Padded)


@bug(
    "03",
    "mean of the ranks' accuracies",
    ["ranks_acc_top1", "ranks are added up"],
    "accuracy depends on the number of GPUs",
    "ranks have different numbers of images",
    "add up hits and images, then divide",
)
def _(patch):
    def place(sums, count, rank, world_size):
        table = metric.place(sums, count, rank, world_size)
        return table / max(1, len(sums))

    patch(paddle_mv3, "place", place)


topic("metric")


@bug(
    "03",
    "NaN counted as a hit",
    ["case that differs: NaN among the logits: top-1"],
    "a network that has diverged has the accuracy of its first class",
    "NaN turned into 0 before the largest logit is looked for",
    "logits as they are: topk takes NaN for the largest",
)
def _(patch):
    correct = metric.topk_correct

    def without_nan(output, target, topk=(1,)):
        return correct(paddle.nan_to_num(output, nan=0.0, posinf=1e9, neginf=-1e9), target, topk)

    patch(metric, "topk_correct", without_nan)


@bug(
    "03",
    "k cut down to the number of classes",
    ["case that differs: fewer classes than k: outcome no error | RuntimeError"],
    "a top-5 of 100 % with three classes, where the reference refuses",
    "min(k, classes), to please topk",
    "ask for a k that there is",
)
def _(patch):
    correct = metric.topk_correct

    def clamped(output, target, topk=(1,)):
        return correct(output, target, [min(k, output.shape[1]) for k in topk])

    patch(metric, "topk_correct", clamped)


@bug(
    "03",
    "ties counted as hits",
    ["case that differs: ties in the logits: top-1"],
    "a dead network, all of whose logits are equal, has an accuracy of 100 %",
    "the label's logit was compared with the k-th largest",
    "the label's place in the order",
)
def _(patch):
    def at_least(output, target, topk=(1,)):
        if target.ndim == 2:
            target = target.argmax(axis=1)
        largest, _ = paddle.topk(output, max(topk), axis=1)
        own = paddle.take_along_axis(output, target.reshape([-1, 1]), 1)
        return paddle.stack([(own >= largest[:, k - 1 : k]).sum() for k in topk])

    patch(metric, "topk_correct", at_least)
