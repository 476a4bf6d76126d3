"""A U-Net: two ways to grow an image, skips that are concatenated, batch norm."""

import paddle
import torch
import torch.nn.functional as TF
from paddle import nn
from paddle.nn import functional as F

from . import Broken

# KNOWN: batch norm's epsilon is float32, and the running variance moves by the biased variance.

ACCEPT = ["biased_variance"]
INPUTS = "2x3x32x32"


def reference_convs(inp, out):
    return torch.nn.Sequential(
        torch.nn.Conv2d(inp, out, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(out),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(out, out, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(out),
        torch.nn.ReLU(inplace=True),
    )


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.down1 = reference_convs(3, 8)
        self.down2 = reference_convs(8, 16)
        self.middle = reference_convs(16, 32)
        self.pool = torch.nn.MaxPool2d(2)
        self.grow = torch.nn.ConvTranspose2d(
            32, 16, kernel_size=3, stride=2, padding=1, output_padding=1
        )
        self.up2 = reference_convs(32, 16)
        self.up1 = reference_convs(24, 8)
        self.head = torch.nn.Conv2d(8, 4, kernel_size=1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.grow(self.middle(self.pool(second)))
        x = self.up2(torch.cat([second, x], dim=1))
        x = TF.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.up1(torch.cat([first, x], dim=1))
        return self.head(x)


def convs(inp, out, momentum=0.9):
    return nn.Sequential(
        nn.Conv2D(inp, out, 3, padding=1, bias_attr=False),
        nn.BatchNorm2D(out, momentum=momentum),
        nn.ReLU(),
        nn.Conv2D(out, out, 3, padding=1, bias_attr=False),
        nn.BatchNorm2D(out, momentum=momentum),
        nn.ReLU(),
    )


class Port(nn.Layer):
    def __init__(self):
        super().__init__()
        self.down1 = convs(3, 8)
        self.down2 = convs(8, 16)
        self.middle = convs(16, 32)
        self.pool = nn.MaxPool2D(2)
        self.grow = nn.Conv2DTranspose(32, 16, kernel_size=3, stride=2, padding=1, output_padding=1)
        self.up2 = convs(32, 16)
        self.up1 = convs(24, 8)
        self.head = nn.Conv2D(8, 4, kernel_size=1)

    def larger(self, x):
        return F.interpolate(x, scale_factor=2, mode="bilinear")

    def join(self, skip, x):
        return paddle.concat([skip, x], axis=1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.grow(self.middle(self.pool(second)))
        x = self.up2(self.join(second, x))
        x = self.up1(self.join(first, self.larger(x)))
        return self.head(x)


class CornersAligned(Port):
    def larger(self, x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Nearest(Port):
    def larger(self, x):
        return F.interpolate(x, scale_factor=2)


class SkipLast(Port):
    def join(self, skip, x):
        return paddle.concat([x, skip], axis=1)


class Detached(Port):
    def join(self, skip, x):
        return paddle.concat([skip.detach(), x], axis=1)


def average_pool():
    port = Port()
    port.pool = nn.AvgPool2D(2)
    return port


def pytorch_momentum():
    port = Port()
    port.down2 = convs(8, 16, momentum=0.1)
    return port


def bias_kept():
    port = Port()
    port.middle[0] = nn.Conv2D(16, 32, 3, padding=1)
    return port


def relu_left_out():
    port = Port()
    port.up2[5] = nn.Identity()
    return port


BROKEN = [
    Broken("corners aligned", CornersAligned, ["up1", "up2"], ["up2", "up1"]),
    Broken("nearest, the default", Nearest, ["up1", "up2"], ["up2", "up1"]),
    Broken("skip last", SkipLast, ["up2", "grow"], ["grow", "up2"]),
    Broken("skips detached", Detached, ["down2", "down1"], "down"),
    Broken("average pooling", average_pool, "pool", "AvgPool2D | MaxPool2d"),
    Broken("PyTorch's momentum", pytorch_momentum, "down2.1", "momentum 0.1 | 0.9"),
    Broken("a bias too many", bias_kept, "middle.0", ["middle.0.bias", "only in the port"]),
    Broken("an activation left out", relu_left_out, "up2.5", "Identity | ReLU"),
]
