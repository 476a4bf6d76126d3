"""Bugs that 04_test_loss.py finds: the loss, label smoothing, mixed labels."""

from functools import partial

import paddle
from paddle import nn
from paddle.nn import functional as F

import paddle_mv3

from . import API, bug, topic

MAPPING = (
    "https://www.paddlepaddle.org.cn/documentation/docs/zh/guides/model_convert/"
    "pytorch_api_mapping_cn.html"
)


topic("loss")


@bug(
    "04",
    "sum for mean",
    ["reduction sum | mean", "the mistake is in the loss"],
    "loss times the size of the batch",
    "reduction",
    "reduction='mean'",
    API + "nn/CrossEntropyLoss_en.html",
)
def _(patch):
    patch(nn, "CrossEntropyLoss", partial(nn.CrossEntropyLoss, reduction="sum"))


@bug(
    "04",
    "softmax before a loss that applies it",
    ["the mistake is in the loss"],
    "loss near log(classes), hardly learns",
    "cross entropy takes logits in both frameworks",
    "no softmax in front",
    MAPPING,
)
def _(patch):
    loss = nn.CrossEntropyLoss
    patch(nn, "CrossEntropyLoss", lambda: lambda x, y: loss()(F.softmax(x), y))


@bug(
    "04",
    "softmax left out of the loss",
    ["the mistake is in the loss"],
    "loss NaN or negative",
    "use_softmax=False, for outputs that are probabilities already",
    "use_softmax=True",
    API + "nn/CrossEntropyLoss_en.html",
)
def _(patch):
    loss = nn.CrossEntropyLoss
    patch(nn, "CrossEntropyLoss", lambda: lambda x, y: loss(use_softmax=False)(F.sigmoid(x), y))


@bug(
    "04",
    "label smoothing that the reference has not",
    ["label_smoothing 0.1 | 0", "the mistake is in the loss"],
    "loss higher",
    "the training loss was used for validation",
    "label_smoothing=0.0",
)
def _(patch):
    patch(nn, "CrossEntropyLoss", partial(nn.CrossEntropyLoss, label_smoothing=0.1))


@bug(
    "04",
    "class 0 ignored",
    ["ignore_index 0 | -100", "the mistake is in the loss"],
    "loss off where a label is 0",
    "an ignore_index for padding, from a text model",
    "ignore_index=-100",
)
def _(patch):
    patch(nn, "CrossEntropyLoss", partial(nn.CrossEntropyLoss, ignore_index=0))


@bug(
    "04",
    "class weights that the reference has not",
    ["the mistake is in the loss"],
    "loss off",
    "weights for an unbalanced data set",
    "weight=None",
)
def _(patch):
    def weighted():
        def loss(x, y):
            weight = paddle.linspace(0.5, 1.5, x.shape[1]).astype(x.dtype)
            return F.cross_entropy(x, y, weight=weight)

        return loss

    patch(nn, "CrossEntropyLoss", weighted)


@bug(
    "04",
    "softmax over the batch",
    ["the mistake is in the loss"],
    "loss far too low",
    "axis=0",
    "axis=-1",
    API + "nn/functional/cross_entropy_en.html",
)
def _(patch):
    def over_batch():
        def loss(x, y):
            picked = F.log_softmax(x, axis=0)[paddle.arange(len(y)), y]
            return -picked.mean()

        return loss

    patch(nn, "CrossEntropyLoss", over_batch)


topic("recipe")


@bug(
    "04",
    "label smoothing over the other classes only",
    ["loss_label_smoothing", "the mistake is in the loss"],
    "loss a little off; nothing else shows",
    "the paper's smoothing gives a share to the right class as well",
    "smoothing / classes for all of them",
    "https://arxiv.org/abs/1512.00567",
)
def _(patch):
    class Loss(nn.Layer):
        def __init__(self, label_smoothing):
            super().__init__()
            self.smoothing = label_smoothing

        def forward(self, x, y):
            others = self.smoothing / (x.shape[1] - 1)
            if y.ndim == 1:
                y = F.one_hot(y, x.shape[1]).astype(x.dtype)
            y = y * (1 - self.smoothing - others) + others
            return -(y * F.log_softmax(x)).sum(1).mean()

    patch(paddle_mv3, "CrossEntropyLoss", Loss)


@bug(
    "04",
    "soft labels turned back into classes",
    ["loss_soft_labels", "the mistake is in the loss"],
    "mixup without effect on the labels",
    "argmax to please a loss that takes classes only",
    "soft_label=True, or a loss that takes probabilities",
    API + "nn/CrossEntropyLoss_en.html",
)
def _(patch):
    loss = paddle_mv3.CrossEntropyLoss

    def build(label_smoothing):
        smoothed = loss(label_smoothing)
        return lambda x, y: smoothed(x, y.argmax(1) if y.ndim == 2 else y)

    patch(paddle_mv3, "CrossEntropyLoss", build)


@bug(
    "04",
    "logarithm of a softmax",
    ["case that differs: logits of the order 10,000"],
    "infinite loss once the network is sure of itself",
    "log(softmax(x)) in place of log_softmax: the exponential underflows",
    "x - logsumexp(x)",
    API + "nn/functional/log_softmax_en.html",
)
def _(patch):
    def forward(self, x, y):
        log_p = paddle.log(F.softmax(x, axis=-1))
        if y.ndim == 1:
            y = F.one_hot(y, x.shape[1]).astype(x.dtype)
        y = y * (1 - self.label_smoothing) + self.label_smoothing / x.shape[1]
        return -(log_p * y).sum(-1).mean()

    patch(paddle_mv3.CrossEntropyLoss, "forward", forward)


@bug(
    "04",
    "label smoothing that does not reach mixed labels",
    ["loss_soft_labels", "the mistake is in the loss"],
    "the loss with mixup is lower than the reference's",
    "Paddle smooths class indices, and takes soft labels as they are",
    "smooth both",
    API + "nn/CrossEntropyLoss_en.html",
)
def _(patch):
    forward = paddle_mv3.CrossEntropyLoss.forward

    def hard_only(self, x, y):
        if y.ndim == 2:
            return -(y * F.log_softmax(x)).sum(1).mean()
        return forward(self, x, y)

    patch(paddle_mv3.CrossEntropyLoss, "forward", hard_only)
