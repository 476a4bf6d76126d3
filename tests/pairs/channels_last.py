"""A Paddle port that computes channels-last inside; the images come as in the reference."""

import torch
from paddle import nn
from paddle.nn import functional as F

from . import Broken

# KNOWN: batch norm's epsilon is float32, and the running variance moves by the biased variance;
# average pooling's gradient divides by a float32.

ACCEPT = ["biased_variance"]
INPUTS = "2x3x20x16"
MAY_NOT_COMPARE = ["size"]  # fc fits one size of images only


def rules():
    from alignment import Rule

    return [Rule.layout("NHWC")]


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8, eps=1e-3)
        self.conv2 = torch.nn.Conv2d(8, 8, (3, 5), padding=(1, 2), groups=8)
        self.pool = torch.nn.MaxPool2d(3, stride=2, padding=1)
        self.attention = torch.nn.Conv2d(8, 8, 1)
        self.fc = torch.nn.Linear(8 * 5 * 4, 6)

    def forward(self, x):
        x = self.pool(torch.relu(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        x = x * torch.softmax(self.attention(x), dim=1)
        return self.fc(x.flatten(1))


class Port(nn.Layer):
    def __init__(self, epsilon=1e-3, padding=(1, 2)):
        super().__init__()
        nhwc = {"data_format": "NHWC"}
        self.conv1 = nn.Conv2D(3, 8, 3, stride=2, padding=1, bias_attr=False, **nhwc)
        self.bn1 = nn.BatchNorm2D(8, epsilon=epsilon, **nhwc)
        self.conv2 = nn.Conv2D(8, 8, (3, 5), padding=padding, groups=8, **nhwc)
        self.pool = nn.MaxPool2D(3, stride=2, padding=1, **nhwc)
        self.attention = nn.Conv2D(8, 8, 1, **nhwc)
        self.fc = nn.Linear(8 * 5 * 4, 6)

    def channels_last(self, x):
        return x.transpose([0, 2, 3, 1])

    def weigh(self, x):
        return x * F.softmax(self.attention(x), axis=-1)

    def flatten(self, x):
        return x.transpose([0, 3, 1, 2]).flatten(1)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(self.channels_last(x))))
        x = self.pool(F.relu(self.conv2(x)))
        return self.fc(self.flatten(self.weigh(x)))


class FlattenedChannelsLast(Port):
    def flatten(self, x):
        return x.flatten(1)


class SoftmaxOverHeight(Port):
    def weigh(self, x):
        return x * F.softmax(self.attention(x), axis=1)


class Reshaped(Port):
    """Names another layout where it has to make it."""

    def channels_last(self, x):
        n, c, h, w = x.shape
        return x.reshape([n, h, w, c])


class ImageOnItsSide(Port):
    def channels_last(self, x):
        return x.transpose([0, 3, 2, 1])

    def flatten(self, x):
        return x.transpose([0, 3, 2, 1]).flatten(1)


def default_epsilon():
    return Port(epsilon=1e-5)


def padding_swapped():
    return Port(padding=(2, 1))


BROKEN = [
    Broken("flattened channels last", FlattenedChannelsLast, "fc", ["attention", "fc"]),
    Broken("softmax over the height", SoftmaxOverHeight, "fc", ["attention", "fc"]),
    Broken("reshaped, not transposed", Reshaped, "conv1", "conv1"),
    Broken("height and width swapped", ImageOnItsSide, "conv1", "conv1"),
    Broken("epsilon", default_epsilon, "bn1", "epsilon 1e-05 | 0.001"),
    Broken("padding", padding_swapped, ["conv2", "forward"], "padding (2, 1) | (1, 2)"),
]
