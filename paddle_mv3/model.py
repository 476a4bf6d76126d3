"""MobileNetV3 in PaddlePaddle: the network of torchvision.models.mobilenetv3, name for name.

Howard et al., "Searching for MobileNetV3", 2019, https://arxiv.org/abs/1905.02244.
Module names are torchvision's, so each `state_dict` key has one counterpart; torch2paddle.py
spells out the three ways in which they differ.
"""

import math
from typing import NamedTuple

import paddle
from paddle import nn
from paddle.nn import functional as F

from .norm import BatchNorm2D

__all__ = ["HEAD", "MODELS", "MobileNetV3", "mobilenet_v3_large", "mobilenet_v3_small"]


class Hardsigmoid(nn.Layer):
    """relu6(x + 3) / 6, any shape. paddle.nn.Hardsigmoid multiplies by 0.1666667, not by 1/6."""

    def forward(self, x):
        return F.relu6(x + 3) / 6


def batch_norm(channels):
    """torchvision's eps=0.001, momentum=0.01. Paddle's momentum is the share that is *kept*."""
    return BatchNorm2D(channels, momentum=1 - 0.01, epsilon=0.001)


class ConvNormActivation(nn.Sequential):
    """Convolution ("same" padding, no bias), batch norm, activation unless it is None.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(
        self, in_channels, out_channels, kernel, stride=1, dilation=1, groups=1, activation=None
    ):
        layers = [
            nn.Conv2D(
                in_channels,
                out_channels,
                kernel,
                stride=stride,
                padding=(kernel - 1) // 2 * dilation,
                dilation=dilation,
                groups=groups,
                bias_attr=False,
            ),
            batch_norm(out_channels),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


class SqueezeExcitation(nn.Layer):
    """Scales each channel by a gate in [0, 1] that sees all channels (section 5.3).

    (N, channels, H, W) -> the same shape
    """

    def __init__(self, channels, squeeze_channels):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        self.fc1 = nn.Conv2D(channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2D(squeeze_channels, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = Hardsigmoid()

    def forward(self, x):
        gate = self.activation(self.fc1(self.avgpool(x)))
        return x * self.scale_activation(self.fc2(gate))


class Block(NamedTuple):
    """A row of tables 1 and 2 of the paper, before `width_mult`; the columns are torchvision's.

    `dilation` is 1, or C4: 2 in a `dilated` network, else 1.
    """

    in_channels: int
    kernel: int
    expanded: int
    out: int
    use_se: bool
    activation: type
    stride: int
    dilation: int | None


class InvertedResidual(nn.Layer):
    """Expand, depthwise, squeeze-and-excitation, project; plus the input where shapes allow.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)), where a
    dilated block has stride 1.
    """

    def __init__(self, block, width_mult, dilation=1):
        super().__init__()
        in_channels = make_divisible(block.in_channels * width_mult)
        expanded = make_divisible(block.expanded * width_mult)
        self.out_channels = make_divisible(block.out * width_mult)
        self.use_res_connect = block.stride == 1 and in_channels == self.out_channels

        layers = []
        if expanded != in_channels:
            layers.append(ConvNormActivation(in_channels, expanded, 1, activation=block.activation))
        layers.append(
            ConvNormActivation(
                expanded,
                expanded,
                block.kernel,
                stride=1 if dilation > 1 else block.stride,
                dilation=dilation,
                groups=expanded,
                activation=block.activation,
            )
        )
        if block.use_se:
            layers.append(SqueezeExcitation(expanded, make_divisible(expanded // 4)))
        layers.append(ConvNormActivation(expanded, self.out_channels, 1))
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        y = self.block(x)
        return y + x if self.use_res_connect else y


class MobileNetV3(nn.Layer):
    """Images (N, 3, H, W), float32, normalised -> logits (N, num_classes).

    Args:
        stem: output channels of the first convolution.
        blocks: the rows of the paper's table; the last three are the stage C4.
        head: channels of the hidden linear layer.
        num_classes, dropout, width_mult, reduced_tail, dilated: as in torchvision's
            `mobilenet_v3_small`; `reduced_tail` halves the channels of C4, `dilated` gives C4
            dilation 2 in place of its stride.
    """

    def __init__(
        self,
        stem,
        blocks,
        head,
        num_classes=1000,
        dropout=0.2,
        width_mult=1.0,
        reduced_tail=False,
        dilated=False,
    ):
        super().__init__()
        if reduced_tail:
            head //= 2
            blocks = halve_tail(blocks)

        channels = make_divisible(stem * width_mult)
        layers = [ConvNormActivation(3, channels, 3, stride=2, activation=nn.Hardswish)]
        for block in blocks:
            dilation = 2 if dilated and block.dilation is C4 else 1
            layers.append(InvertedResidual(block, width_mult, dilation))
        channels = layers[-1].out_channels
        layers.append(ConvNormActivation(channels, 6 * channels, 1, activation=nn.Hardswish))

        head = make_divisible(head * width_mult)
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, head),
            nn.Hardswish(),
            nn.Dropout(dropout),
            nn.Linear(head, num_classes),
        )
        self.reset_parameters()

    def reset_parameters(self):
        """torchvision's initialisation; batch norm starts at scale 1, shift 0 in both frameworks.

        Convolutions: Kaiming normal, fan-out, with PyTorch's fan-out of a grouped convolution
        (out_channels * k * k). Linear layers: N(0, 0.01). Biases: 0.
        """
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                fan_out = layer.weight.shape[0] * math.prod(layer.weight.shape[2:])
                nn.initializer.Normal(0.0, math.sqrt(2 / fan_out))(layer.weight)
            elif isinstance(layer, nn.Linear):
                nn.initializer.Normal(0.0, 0.01)(layer.weight)
            else:
                continue
            if layer.bias is not None:
                nn.initializer.Constant(0.0)(layer.bias)

    def forward(self, x):
        x = self.features(x)
        x = self.avgpool(x)
        x = paddle.flatten(x, 1)
        return self.classifier(x)


def make_divisible(channels, divisor=8):
    """The multiple of `divisor` nearest to `channels`, one step up if that loses over 10 %."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def halve_tail(blocks):
    """C4 with half its output channels, and half the expansion of its last two blocks."""
    first, second, third = (block._replace(out=block.out // 2) for block in blocks[-3:])
    second, third = (
        block._replace(in_channels=block.in_channels // 2, expanded=block.expanded // 2)
        for block in (second, third)
    )
    return [*blocks[:-3], first, second, third]


RE, HS = nn.ReLU, nn.Hardswish
C4 = None  # the dilation of the last stage, an argument of the network

# Table 1 of the paper: in, kernel, expanded, out, use_se, activation, stride, dilation
LARGE = [
    Block(16, 3, 16, 16, False, RE, 1, 1),
    Block(16, 3, 64, 24, False, RE, 2, 1),
    Block(24, 3, 72, 24, False, RE, 1, 1),
    Block(24, 5, 72, 40, True, RE, 2, 1),
    Block(40, 5, 120, 40, True, RE, 1, 1),
    Block(40, 5, 120, 40, True, RE, 1, 1),
    Block(40, 3, 240, 80, False, HS, 2, 1),
    Block(80, 3, 200, 80, False, HS, 1, 1),
    Block(80, 3, 184, 80, False, HS, 1, 1),
    Block(80, 3, 184, 80, False, HS, 1, 1),
    Block(80, 3, 480, 112, True, HS, 1, 1),
    Block(112, 3, 672, 112, True, HS, 1, 1),
    Block(112, 5, 672, 160, True, HS, 2, C4),
    Block(160, 5, 960, 160, True, HS, 1, C4),
    Block(160, 5, 960, 160, True, HS, 1, C4),
]

# Table 2
SMALL = [
    Block(16, 3, 16, 16, True, RE, 2, 1),
    Block(16, 3, 72, 24, False, RE, 2, 1),
    Block(24, 3, 88, 24, False, RE, 1, 1),
    Block(24, 5, 96, 40, True, HS, 2, 1),
    Block(40, 5, 240, 40, True, HS, 1, 1),
    Block(40, 5, 240, 40, True, HS, 1, 1),
    Block(40, 5, 120, 48, True, HS, 1, 1),
    Block(48, 5, 144, 48, True, HS, 1, 1),
    Block(48, 5, 288, 96, True, HS, 2, C4),
    Block(96, 5, 576, 96, True, HS, 1, C4),
    Block(96, 5, 576, 96, True, HS, 1, C4),
]


def mobilenet_v3_large(**kwargs):
    """5,483,032 parameters; torchvision.models.mobilenet_v3_large. Arguments: MobileNetV3."""
    return MobileNetV3(16, LARGE, 1280, **kwargs)


def mobilenet_v3_small(**kwargs):
    """2,542,856 parameters; torchvision.models.mobilenet_v3_small. Arguments: MobileNetV3."""
    return MobileNetV3(16, SMALL, 1024, **kwargs)


HEAD = "classifier.3"  # the layer whose width is the number of classes
MODELS = {
    "mobilenet_v3_small": mobilenet_v3_small,
    "mobilenet_v3_large": mobilenet_v3_large,
}
