"""A residual network of which the port names every layer anew; two layers are called twice."""

import torch
from paddle import nn

from . import Broken

# KNOWN: batch norm's epsilon is float32, and the running variance moves by the biased variance.

ACCEPT = ["biased_variance"]
INPUTS = "4x3x32x32"


class ReferenceBlock(torch.nn.Module):
    def __init__(self, inp, out, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(out)
        self.relu = torch.nn.ReLU(inplace=True)
        self.conv2 = torch.nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or inp != out:
            self.downsample = torch.nn.Sequential(
                torch.nn.Conv2d(inp, out, 1, stride, bias=False), torch.nn.BatchNorm2d(out)
            )

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + identity)


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.relu = torch.nn.ReLU()
        self.maxpool = torch.nn.MaxPool2d(2)
        self.layer1 = torch.nn.Sequential(ReferenceBlock(8, 8, 1), ReferenceBlock(8, 8, 1))
        self.layer2 = torch.nn.Sequential(ReferenceBlock(8, 16, 2), ReferenceBlock(16, 16, 1))
        self.refine = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.fc = torch.nn.Linear(16, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        for _ in range(2):
            x = self.relu(self.refine(x))
        return self.fc(x.mean(dim=(2, 3)))


class ConvNorm(nn.Layer):
    def __init__(self, inp, out, kernel, stride=1):
        super().__init__()
        padding = kernel // 2
        self.conv = nn.Conv2D(inp, out, kernel, stride, padding, bias_attr=False)
        self.norm = nn.BatchNorm2D(out)

    def forward(self, x):
        return self.norm(self.conv(x))


class Residual(nn.Layer):
    def __init__(self, inp, out, strides):
        super().__init__()
        self.first = ConvNorm(inp, out, 3, strides[0])
        self.second = ConvNorm(out, out, 3, strides[1])
        self.act = nn.ReLU()
        changes = max(strides) > 1 or inp != out
        self.shortcut = ConvNorm(inp, out, 1, max(strides)) if changes else nn.Identity()

    def forward(self, x):
        return self.act(self.second(self.act(self.first(x))) + self.shortcut(x))


class Port(nn.Layer):
    block = Residual
    strides = 2, 1
    ceil_mode = False

    def __init__(self):
        super().__init__()
        self.stem = ConvNorm(3, 8, 3)
        self.act = nn.ReLU()
        self.shrink = nn.MaxPool2D(2, ceil_mode=self.ceil_mode)
        self.stages = nn.LayerList(
            [
                self.block(8, 8, (1, 1)),
                self.block(8, 8, (1, 1)),
                self.block(8, 16, self.strides),
                self.block(16, 16, (1, 1)),
            ]
        )
        self.polish = nn.Conv2D(16, 16, 3, padding=1)
        self.classifier = nn.Linear(16, 10)

    def polished(self, x):
        for _ in range(2):
            x = self.act(self.polish(x))
        return x

    def forward(self, x):
        x = self.shrink(self.act(self.stem(x)))
        for stage in self.stages:
            x = stage(x)
        return self.classifier(self.polished(x).mean(axis=[2, 3]))


class StrideInSecond(Port):
    strides = 1, 2


class CeilMode(Port):
    """The same for even sizes."""

    ceil_mode = True


class SumNotActivated(Port):
    class block(Residual):  # noqa: N801
        def forward(self, x):
            return self.second(self.act(self.first(x))) + self.shortcut(x)


class PolishedOnce(Port):
    def polished(self, x):
        return self.act(self.polish(x))


class PolishedByTwo(Port):
    def __init__(self):
        super().__init__()
        self.polish2 = nn.Conv2D(16, 16, 3, padding=1)

    def polished(self, x):
        return self.act(self.polish2(self.act(self.polish(x))))


class ActivatedOnce(Port):
    def polished(self, x):
        return self.act(self.polish(self.polish(x)))


class StagesSwapped(Port):
    def forward(self, x):
        x = self.shrink(self.act(self.stem(x)))
        for i in (1, 0, 2, 3):
            x = self.stages[i](x)
        return self.classifier(self.polished(x).mean(axis=[2, 3]))


BROKEN = [
    Broken("stride in the second convolution", StrideInSecond, "stages.2.first", "stride 1 | 2"),
    Broken("ceil_mode", CeilMode, "shrink", "ceil_mode True | False"),
    Broken("sum not activated", SumNotActivated, ["stages.0", "stages.1"], "stages.0"),
    Broken("called once", PolishedOnce, ["polish", "act", "classifier"], "polish"),
    Broken("two layers for one called twice", PolishedByTwo, "polish2", "only in the port"),
    Broken("not activated between", ActivatedOnce, ["polish", "act"], "polish"),
    Broken("blocks in another order", StagesSwapped, ["stages.0", "stages.1"], "stages."),
]
