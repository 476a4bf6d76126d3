"""Attention whose port makes queries, keys and values by three Linears, the reference by one."""

import paddle
import torch
from paddle import nn
from paddle.nn import functional as F

from . import Broken

INPUTS = "float32[2,7,24]"


def rules():
    from alignment import Rule

    return [
        Rule.split("qkv.weight", ["q_proj.weight", "k_proj.weight", "v_proj.weight"]),
        Rule.split("qkv.bias", ["q_proj.bias", "k_proj.bias", "v_proj.bias"]),
    ]


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(24, 72)
        self.proj = torch.nn.Linear(24, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        weights = torch.softmax(q @ k.transpose(1, 2) * 24**-0.5, dim=-1)
        return self.proj(weights @ v), weights


class Port(nn.Layer):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(24, 24)
        self.k_proj = nn.Linear(24, 24)
        self.v_proj = nn.Linear(24, 24)
        self.proj = nn.Linear(24, 24)

    def weights(self, x):
        scores = paddle.matmul(self.q_proj(x), self.k_proj(x), transpose_y=True)
        return F.softmax(scores * 24**-0.5, axis=-1)

    def forward(self, x):
        weights = self.weights(x)
        return self.proj(weights @ self.v_proj(x)), weights


class NotScaled(Port):
    def weights(self, x):
        return F.softmax(paddle.matmul(self.q_proj(x), self.k_proj(x), transpose_y=True), axis=-1)


class SoftmaxOverQueries(Port):
    def weights(self, x):
        scores = paddle.matmul(self.q_proj(x), self.k_proj(x), transpose_y=True)
        return F.softmax(scores * 24**-0.5, axis=1)


class OneProjectionForTwo(Port):
    def weights(self, x):
        scores = paddle.matmul(self.q_proj(x), self.q_proj(x), transpose_y=True)
        return F.softmax(scores * 24**-0.5, axis=-1)


class WeightsForgotten(Port):
    def forward(self, x):
        return super().forward(x)[0]


def narrow_values():
    port = Port()
    port.v_proj = nn.Linear(24, 12)
    port.proj = nn.Linear(12, 24)
    return port


WEIGHTS = ["proj", "output[1]"]

BROKEN = [
    Broken("not scaled", NotScaled, WEIGHTS, "proj"),
    Broken("softmax over the queries", SoftmaxOverQueries, WEIGHTS, "proj"),
    Broken("queries for keys", OneProjectionForTwo, [*WEIGHTS, "k_proj"], "proj"),
    Broken("an output forgotten", WeightsForgotten, ["output", "the model"], "output"),
    Broken("narrower values", narrow_values, ["v_proj", "proj"], "proj"),
]
