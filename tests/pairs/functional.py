"""Functions between parameters, and no layer at all but the model itself."""

import paddle
import torch
import torch.nn.functional as TF
from paddle import nn
from paddle.nn import functional as F

from . import Broken

# KNOWN: F.layer_norm's epsilon and SELU's constants are float32, hard-sigmoid's slope is 0.1666667.

ACCEPT = ["hardsigmoid"]
INPUTS = "4x3x10x10"
CHECKS = ("forward", "backward", "training", "initialisation")
MAY_NOT_COMPARE = ["dropout"]


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = torch.nn.Parameter(0.1 * torch.randn(8, 3, 3, 3))
        self.kernel_bias = torch.nn.Parameter(torch.zeros(8))
        self.gain = torch.nn.Parameter(torch.ones(8))
        self.shift = torch.nn.Parameter(torch.zeros(8))
        self.gate = torch.nn.Parameter(0.1 * torch.randn(8, 8))
        self.out = torch.nn.Parameter(0.1 * torch.randn(6, 8))

    def forward(self, x):
        x = TF.selu(TF.conv2d(x, self.kernel, self.kernel_bias, stride=2, padding=1))
        x = TF.layer_norm(x.mean(dim=(2, 3)), (8,), self.gain, self.shift, eps=1e-6)
        x = x * TF.hardsigmoid(TF.linear(x, self.gate))
        x = TF.dropout(x, 0.2, training=self.training)
        return TF.linear(x, self.out)


class Port(nn.Layer):
    def __init__(self):
        super().__init__()
        normal = nn.initializer.Normal(std=0.1)
        zeros, ones = nn.initializer.Constant(0.0), nn.initializer.Constant(1.0)
        self.kernel = self.create_parameter([8, 3, 3, 3], default_initializer=normal)
        self.kernel_bias = self.create_parameter([8], default_initializer=zeros)
        self.gain = self.create_parameter([8], default_initializer=ones)
        self.shift = self.create_parameter([8], default_initializer=zeros)
        self.gate = self.create_parameter([8, 8], default_initializer=normal)
        self.out = self.create_parameter([6, 8], default_initializer=normal)

    def convolve(self, x):
        return F.selu(F.conv2d(x, self.kernel, self.kernel_bias, stride=2, padding=1))

    def normalise(self, x):
        return F.layer_norm(x, 8, self.gain, self.shift, epsilon=1e-6)

    def gated(self, x):
        return x * F.hardsigmoid(x @ self.gate.T)

    def drop(self, x):
        return F.dropout(x, 0.2, training=self.training)

    def forward(self, x):
        x = self.normalise(self.convolve(x).mean(axis=[2, 3]))
        return F.linear(self.drop(self.gated(x)), self.out.T)


class Elu(Port):
    def convolve(self, x):
        return F.elu(F.conv2d(x, self.kernel, self.kernel_bias, stride=2, padding=1))


class DefaultEpsilon(Port):
    def normalise(self, x):
        return F.layer_norm(x, 8, self.gain, self.shift)


class GateNotTransposed(Port):
    def gated(self, x):
        return x * F.hardsigmoid(x @ self.gate)


class KerasHardSigmoid(Port):
    def gated(self, x):
        return x * F.hardsigmoid(x @ self.gate.T, slope=0.2)


class AlwaysDrops(Port):
    def drop(self, x):
        return F.dropout(x, 0.2)


class Downscales(Port):
    def drop(self, x):
        return F.dropout(x, 0.2, training=self.training, mode="downscale_in_infer")


class BiasForgotten(Port):
    def convolve(self, x):
        return F.selu(F.conv2d(x, self.kernel, stride=2, padding=1))


class TensorForParameter(Port):
    def __init__(self):
        super().__init__()
        del self.gain
        self.gain = paddle.ones([8])


OUTPUT = ["forward", "output"]

BROKEN = [
    Broken("ELU", Elu, OUTPUT, "output"),
    Broken("epsilon left at the default", DefaultEpsilon, OUTPUT, "output"),
    Broken("weight not transposed", GateNotTransposed, OUTPUT, "output"),
    Broken("another hard-sigmoid", KerasHardSigmoid, OUTPUT, "output"),
    Broken("dropout in eval mode too", AlwaysDrops, OUTPUT, "output"),
    Broken("dropout scales in eval mode", Downscales, OUTPUT, "output"),
    Broken("bias never used", BiasForgotten, [*OUTPUT, "kernel_bias"], "kernel_bias"),
    Broken("a tensor for a parameter", TensorForParameter, "gain", "only in the reference"),
]
