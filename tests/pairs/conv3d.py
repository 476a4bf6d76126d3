"""A network on volumes: 3-D convolutions, norms and pooling, PReLU and leaky ReLU."""

import torch
from paddle import nn

from . import Broken

# KNOWN: batch norm's epsilon is float32, and the running variance moves by the biased variance;
# average pooling's gradient divides by a float32. GroupNorm and LeakyReLU hold theirs as float64.

ACCEPT = ["biased_variance"]
INPUTS = "3x1x8x12x10"
CHECKS = ("forward", "backward", "training", "initialisation")


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv3d(1, 8, 3, padding=1, padding_mode="replicate")
        self.norm1 = torch.nn.BatchNorm3d(8)
        self.act1 = torch.nn.PReLU(8)
        self.pool1 = torch.nn.MaxPool3d(2)
        self.conv2 = torch.nn.Conv3d(8, 16, (1, 3, 3), groups=2, padding=(0, 1, 1))
        self.norm2 = torch.nn.GroupNorm(4, 16)
        self.act2 = torch.nn.LeakyReLU(0.2)
        self.pool2 = torch.nn.AvgPool3d(3, stride=2, padding=1)
        self.grow = torch.nn.ConvTranspose3d(16, 8, 2, stride=2)
        self.pool3 = torch.nn.AdaptiveAvgPool3d(1)
        self.fc = torch.nn.Linear(8, 5)
        for module in self.modules():
            if isinstance(module, (torch.nn.Conv3d, torch.nn.ConvTranspose3d, torch.nn.Linear)):
                torch.nn.init.normal_(module.weight, std=0.1)
                torch.nn.init.zeros_(module.bias)

    def forward(self, x):
        x = self.pool1(self.act1(self.norm1(self.conv1(x))))
        x = self.pool2(self.act2(self.norm2(self.conv2(x))))
        return self.fc(self.pool3(self.grow(x)).flatten(1))


class Port(nn.Layer):
    def __init__(self, epsilon=1e-5, num_groups=4, groups=2, padding_mode="replicate"):
        super().__init__()
        self.conv1 = nn.Conv3D(1, 8, 3, padding=1, padding_mode=padding_mode)
        self.norm1 = nn.BatchNorm3D(8, epsilon=epsilon)
        self.act1 = nn.PReLU(8)
        self.pool1 = nn.MaxPool3D(2)
        self.conv2 = nn.Conv3D(8, 16, (1, 3, 3), groups=groups, padding=(0, 1, 1))
        self.norm2 = nn.GroupNorm(num_groups, 16)
        self.act2 = nn.LeakyReLU(0.2)
        self.pool2 = nn.AvgPool3D(3, stride=2, padding=1, exclusive=False)
        self.grow = nn.Conv3DTranspose(16, 8, 2, stride=2)
        self.pool3 = nn.AdaptiveAvgPool3D(1)
        self.fc = nn.Linear(8, 5)
        for layer in self.sublayers():
            if isinstance(layer, (nn.Conv3D, nn.Conv3DTranspose, nn.Linear)):
                nn.initializer.Normal(std=0.1)(layer.weight)
                nn.initializer.Constant(0.0)(layer.bias)

    def forward(self, x):
        x = self.pool1(self.act1(self.norm1(self.conv1(x))))
        x = self.pool2(self.act2(self.norm2(self.conv2(x))))
        return self.fc(self.pool3(self.grow(x)).flatten(1))


class ActivationFirst(Port):
    def forward(self, x):
        x = self.pool1(self.norm1(self.act1(self.conv1(x))))
        x = self.pool2(self.act2(self.norm2(self.conv2(x))))
        return self.fc(self.pool3(self.grow(x)).flatten(1))


def zero_padding():
    return Port(padding_mode="zeros")


def fewer_groups():
    return Port(num_groups=2)


def ungrouped():
    return Port(groups=1)


def larger_epsilon():
    return Port(epsilon=1e-3)


def default_slope():
    port = Port()
    port.act2 = nn.LeakyReLU()
    return port


def one_slope():
    port = Port()
    port.act1 = nn.PReLU()
    return port


def default_prelu():
    port = Port()
    port.act1 = nn.PReLU(8, init=0.1)
    return port


def padding_not_counted():
    port = Port()
    port.pool2 = nn.AvgPool3D(3, stride=2, padding=1)
    return port


def ceil_mode():
    port = Port()
    port.pool1 = nn.MaxPool3D(2, ceil_mode=True)
    return port


BROKEN = [
    Broken("padding with zeros", zero_padding, "conv1", "padding_mode zeros | replicate"),
    Broken("groups of the group norm", fewer_groups, "norm2", "groups 2 | 4"),
    Broken("groups of the convolution", ungrouped, "conv2", "[16, 8, 1, 3, 3] | "),
    Broken("epsilon", larger_epsilon, "norm1", "epsilon 0.001 | 1e-05"),
    Broken("slope left at the default", default_slope, "act2", "negative_slope 0.01 | 0.2"),
    Broken("one slope for all channels", one_slope, "act1", "act1"),
    Broken("another first slope", default_prelu, "initialisation", ["act1", "0.1 | 0.25"]),
    Broken("padding not counted", padding_not_counted, "pool2", "pool2"),
    Broken("ceil_mode", ceil_mode, "pool1", "ceil_mode True | False"),
    Broken("activation before the norm", ActivationFirst, ["act1", "norm1"], "act1"),
]
