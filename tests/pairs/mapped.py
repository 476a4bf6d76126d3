"""Twin encoders under other names and in another order: only a map can tell which is which."""

import paddle
import torch
from paddle import nn

from . import Broken

INPUTS = {"left": "float32[5,6]", "right": "float32[5,6]"}
MAP = {"second": "left_encoder", "first": "right_encoder", "score": "compare"}
NOT_COMPARED = ["calls"]


def rules():
    from alignment import Rule

    return [
        Rule.tie("bilinear", "mix.weight"),
        Rule.transpose("bilinear"),
        Rule.ignore("calls", "counts calls in the port only"),
    ]


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.left_encoder = torch.nn.Sequential(
            torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 9)
        )
        self.right_encoder = torch.nn.Sequential(
            torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 9)
        )
        self.mix = torch.nn.Linear(9, 9, bias=False)
        self.compare = torch.nn.Linear(9, 2)

    def forward(self, left, right):
        return self.compare(self.mix(self.left_encoder(left)) * self.right_encoder(right))


class Port(nn.Layer):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 9))
        self.second = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 9))
        self.bilinear = self.create_parameter([9, 9])
        self.score = nn.Linear(9, 2)
        self.register_buffer("calls", paddle.zeros([1], "int64"))

    def mixed(self, x):
        return paddle.matmul(x, self.bilinear)

    def forward(self, left, right):
        if self.training:
            self.calls += 1
        return self.score(self.mixed(self.second(left)) * self.first(right))


class EncodersSwapped(Port):
    def forward(self, left, right):
        return self.score(self.mixed(self.first(left)) * self.second(right))


class NotTransposed(Port):
    def mixed(self, x):
        return paddle.matmul(x, self.bilinear, transpose_y=True)


class MixedTheOther(Port):
    def forward(self, left, right):
        return self.score(self.second(left) * self.mixed(self.first(right)))


def relu():
    port = Port()
    port.second[1] = nn.ReLU()
    return port


BROKEN = [
    Broken("encoders swapped", EncodersSwapped, ["first", "second"], ["first", "second"]),
    Broken("matrix not transposed", NotTransposed, ["score", "bilinear"], "score"),
    Broken("the other encoder mixed", MixedTheOther, "score", "score"),
    Broken("ReLU for tanh", relu, "second.1", "ReLU | Tanh"),
]
