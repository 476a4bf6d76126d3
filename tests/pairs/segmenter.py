"""A segmenter that resizes by layers: corners aligned, bicubic, by a factor of 1.5."""

import torch
from paddle import nn

from . import Broken

# KNOWN: Paddle computes where a pixel of a resized image lies in float32: up to 5e-6 of its value
# here. That is exact where the ratio is a power of two, as in unet.py.

INPUTS = "2x3x24x20"


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 5, stride=3, dilation=2, padding=4)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.larger1 = torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv3 = torch.nn.Conv2d(8, 4, 1)
        self.larger2 = torch.nn.Upsample(scale_factor=1.5, mode="bicubic")

    def forward(self, x):
        x = torch.nn.functional.silu(self.conv2(torch.nn.functional.mish(self.conv1(x))))
        return self.larger2(self.conv3(self.larger1(x)))


class Port(nn.Layer):
    def __init__(self, align_corners=True, mode="bicubic", factor=1.5, dilation=2):
        super().__init__()
        self.conv1 = nn.Conv2D(3, 8, 5, stride=3, dilation=dilation, padding=2 * dilation)
        self.conv2 = nn.Conv2D(8, 8, 3, padding=1)
        self.larger1 = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners)
        self.conv3 = nn.Conv2D(8, 4, 1)
        self.larger2 = nn.Upsample(scale_factor=factor, mode=mode)

    def forward(self, x):
        x = nn.functional.silu(self.conv2(nn.functional.mish(self.conv1(x))))
        return self.larger2(self.conv3(self.larger1(x)))


class ActivationForgotten(Port):
    def forward(self, x):
        x = nn.functional.silu(self.conv2(self.conv1(x)))
        return self.larger2(self.conv3(self.larger1(x)))


def corners_not_aligned():
    return Port(align_corners=False)


def bilinear():
    return Port(mode="bilinear")


def twice():
    return Port(factor=2)


def not_dilated():
    return Port(dilation=1)


BROKEN = [
    Broken("corners not aligned", corners_not_aligned, "larger1", "align_corners False | True"),
    Broken("bilinear", bilinear, "larger2", "bilinear | bicubic"),
    Broken("another factor", twice, "larger2", ["larger2", "2 | 1.5"]),
    Broken("not dilated", not_dilated, "conv1", "dilation 1 | 2"),
    Broken("activation forgotten", ActivationForgotten, ["conv2", "conv1"], ["conv1", "conv2"]),
]
