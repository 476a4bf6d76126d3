"""Outputs in a dataclass, a head for training only, layers called by keyword that give a dict."""

from dataclasses import dataclass

import paddle
import torch
from paddle import nn

from . import Broken

INPUTS = {"image": "2x3x16x16", "boxes": ["float32[2,4]", "float32[2,4]"]}
MAY_NOT_COMPARE = ["aux"]  # in eval mode


@dataclass
class Detections:
    logits: object
    levels: list
    aux: object = None


class ReferenceFusion(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.near = torch.nn.Linear(8, 12)
        self.box = torch.nn.Linear(4, 12)

    def forward(self, features, *, box, gain=1.0):
        near = self.near(features["near"])
        return {"near": near, "both": near + gain * torch.tanh(self.box(box))}


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.near = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.far = torch.nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.fusion = ReferenceFusion()
        self.head = torch.nn.Linear(12, 3)
        self.aux = torch.nn.Linear(8, 3)

    def forward(self, image, boxes):
        near = torch.relu(self.near(image))
        far = torch.relu(self.far(near))
        features = {"near": near.mean((2, 3)), "far": far.mean((2, 3))}
        fused = self.fusion(features=features, box=boxes[0] - boxes[1], gain=0.5)
        aux = self.aux(features["far"]) if self.training else None
        return Detections(self.head(fused["both"]), [near, (far, fused["near"])], aux)


class Fusion(nn.Layer):
    def __init__(self):
        super().__init__()
        self.near = nn.Linear(8, 12)
        self.box = nn.Linear(4, 12)

    def forward(self, features, *, box, gain=1.0):
        near = self.near(features["near"])
        return {"near": near, "both": near + gain * paddle.tanh(self.box(box))}


class Port(nn.Layer):
    gain = 0.5

    def __init__(self):
        super().__init__()
        self.near = nn.Conv2D(3, 8, 3, padding=1)
        self.far = nn.Conv2D(8, 8, 3, stride=2, padding=1)
        self.fusion = Fusion()
        self.head = nn.Linear(12, 3)
        self.aux = nn.Linear(8, 3)

    def auxiliary(self, features):
        return self.aux(features) if self.training else None

    def difference(self, boxes):
        return boxes[0] - boxes[1]

    def forward(self, image, boxes):
        near = nn.functional.relu(self.near(image))
        far = nn.functional.relu(self.far(near))
        features = {"near": near.mean([2, 3]), "far": far.mean([2, 3])}
        fused = self.fusion(features=features, box=self.difference(boxes), gain=self.gain)
        return Detections(
            self.head(fused["both"]), [near, (far, fused["near"])], self.auxiliary(features["far"])
        )


class GainForgotten(Port):
    gain = 1.0


class BoxesSwapped(Port):
    def difference(self, boxes):
        return boxes[1] - boxes[0]


class NoAuxiliary(Port):
    def auxiliary(self, features):
        return None


class AuxiliaryAlways(Port):
    def auxiliary(self, features):
        return self.aux(features)


class AuxiliaryDetached(Port):
    def auxiliary(self, features):
        return self.aux(features.detach()) if self.training else None


class LevelsReversed(Port):
    def forward(self, image, boxes):
        output = super().forward(image, boxes)
        near, (far, fused) = output.levels
        return Detections(output.logits, [near, (fused, far)], output.aux)


PLACES = ["aux", "output", "the model"]

BROKEN = [
    Broken("a keyword left at its default", GainForgotten, ["fusion", "head"], "fusion"),
    Broken("an input's items swapped", BoxesSwapped, "fusion", "fusion"),
    Broken("no auxiliary head", NoAuxiliary, PLACES, "aux"),
    Broken("auxiliary head in eval mode too", AuxiliaryAlways, PLACES, "aux"),
    Broken("auxiliary head detached", AuxiliaryDetached, "backward", "far"),
    Broken("an output's items swapped", LevelsReversed, PLACES, "(2, 12) | (2, 8, 8, 8)"),
]
