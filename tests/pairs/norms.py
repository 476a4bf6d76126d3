"""Norms of every kind, Paddle's old BatchNorm among them, and dropout of whole channels."""

import torch
from paddle import nn

from . import Broken

# KNOWN: epsilon is float32 in all but GroupNorm; the running variance moves by the biased variance;
# alpha dropout's constants are float32.

ACCEPT = ["biased_variance"]
INPUTS = "4x6x16"
MAY_NOT_COMPARE = ["dropout", "drop1", "size"]


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv1d(6, 8, 3, padding=1)
        self.batch1d = torch.nn.BatchNorm1d(8, momentum=0.2)
        self.conv2 = torch.nn.Conv1d(8, 8, 1)
        self.instance1d = torch.nn.InstanceNorm1d(8, affine=True)
        self.drop1 = torch.nn.AlphaDropout(0.1)
        self.layer = torch.nn.LayerNorm([8, 16])
        self.conv3 = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.batch = torch.nn.BatchNorm2d(8)
        self.relu = torch.nn.ReLU()
        self.drop2 = torch.nn.Dropout2d(0.2)
        self.conv4 = torch.nn.Conv2d(8, 12, 1)
        self.group = torch.nn.GroupNorm(3, 12, eps=1e-4)
        self.conv5 = torch.nn.Conv2d(12, 4, 1)
        self.instance2d = torch.nn.InstanceNorm2d(4)

    def forward(self, x):
        x = torch.relu(self.batch1d(self.conv1(x)))
        x = self.layer(self.drop1(self.instance1d(self.conv2(x))))
        x = self.conv3(x.reshape(len(x), 8, 4, 4))
        x = self.drop2(self.relu(self.batch(x)))
        x = self.group(self.conv4(x))
        return self.instance2d(self.conv5(x))


class Port(nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1D(6, 8, 3, padding=1)
        self.batch1d = nn.BatchNorm1D(8, momentum=0.8)
        self.conv2 = nn.Conv1D(8, 8, 1)
        self.instance1d = nn.InstanceNorm1D(8)
        self.drop1 = nn.AlphaDropout(0.1)
        self.layer = nn.LayerNorm([8, 16])
        self.conv3 = nn.Conv2D(8, 8, 3, padding=1)
        self.batch = nn.BatchNorm(8)
        self.relu = nn.ReLU()
        self.drop2 = nn.Dropout2D(0.2)
        self.conv4 = nn.Conv2D(8, 12, 1)
        self.group = nn.GroupNorm(3, 12, epsilon=1e-4)
        self.conv5 = nn.Conv2D(12, 4, 1)
        self.instance2d = nn.InstanceNorm2D(4, weight_attr=False, bias_attr=False)

    def forward(self, x):
        x = nn.functional.relu(self.batch1d(self.conv1(x)))
        x = self.layer(self.drop1(self.instance1d(self.conv2(x))))
        x = self.conv3(x.reshape([len(x), 8, 4, 4]))
        x = self.drop2(self.relu(self.batch(x)))
        x = self.group(self.conv4(x))
        return self.instance2d(self.conv5(x))


def with_layer(name, layer):
    port = Port()
    setattr(port, name, layer)
    return port


def affine_instance():
    return with_layer("instance2d", nn.InstanceNorm2D(4))


def plain_instance():
    return with_layer("instance1d", nn.InstanceNorm1D(8, weight_attr=False, bias_attr=False))


def old_momentum():
    return with_layer("batch", nn.BatchNorm(8, momentum=0.1))


def momentum_1d():
    return with_layer("batch1d", nn.BatchNorm1D(8, momentum=0.2))


def frozen_statistics():
    return with_layer("batch", nn.BatchNorm(8, use_global_stats=True))


def activation_twice():
    """nn.BatchNorm can apply an activation by itself."""
    return with_layer("batch", nn.BatchNorm(8, act="sigmoid"))


def plain_dropout():
    return with_layer("drop2", nn.Dropout(0.2))


def dropout_for_alpha():
    return with_layer("drop1", nn.Dropout(0.1))


def last_axis_only():
    return with_layer("layer", nn.LayerNorm(16))


def default_group_epsilon():
    return with_layer("group", nn.GroupNorm(3, 12))


def batch_for_group():
    return with_layer("group", nn.BatchNorm2D(12))


BROKEN = [
    Broken("instance norm with weights", affine_instance, "instance2d", "only in the port"),
    Broken("instance norm without weights", plain_instance, "instance1d", "only in the reference"),
    Broken("PyTorch's momentum", old_momentum, "batch", "momentum 0.1 | 0.9"),
    Broken("PyTorch's momentum, 1-D", momentum_1d, "batch1d", "momentum 0.2 | 0.8"),
    Broken("statistics frozen", frozen_statistics, "batch", "batch"),
    Broken("an activation inside of the norm", activation_twice, "batch", "batch"),
    Broken("dropout of single values", plain_dropout, "drop2", "Dropout | Dropout2d"),
    Broken("dropout for alpha dropout", dropout_for_alpha, "drop1", "Dropout | AlphaDropout"),
    Broken("layer norm over the last axis", last_axis_only, "layer", "16 | (8, 16)"),
    Broken("group norm's epsilon", default_group_epsilon, "group", "epsilon 1e-05 | 0.0001"),
    Broken("batch norm for group norm", batch_for_group, "group", "BatchNorm2D | GroupNorm"),
]
