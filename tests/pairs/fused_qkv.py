"""Attention whose port makes queries, keys and values by one Linear, the reference by three."""

import torch
import torch.nn.functional as TF
from paddle import nn
from paddle.nn import functional as F

from . import Broken

INPUTS = "float32[2,9,24]"


def rules():
    from alignment import Rule

    return [
        Rule.concat("qkv.weight", ["query.weight", "key.weight", "value.weight"]),
        Rule.concat("qkv.bias", ["query.bias", "key.bias", "value.bias"]),
    ]


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.query = torch.nn.Linear(24, 24)
        self.key = torch.nn.Linear(24, 24)
        self.value = torch.nn.Linear(24, 24)
        self.proj = torch.nn.Linear(24, 24)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (
            linear(x).view(b, t, 3, 8).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        x = TF.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(x.transpose(1, 2).flatten(2))


class Port(nn.Layer):
    causal = True
    num_heads = 3

    def __init__(self, proj_bias=None):
        super().__init__()
        self.qkv = nn.Linear(24, 72)
        self.proj = nn.Linear(24, 24, bias_attr=proj_bias)

    def split(self, x):
        b, t, _ = x.shape
        return x.reshape([b, t, 3, self.num_heads, -1]).transpose([2, 0, 1, 3, 4]).unbind(0)

    def forward(self, x):
        q, k, v = self.split(self.qkv(x))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(x.flatten(2))


class KeysBeforeQueries(Port):
    def split(self, x):
        q, k, v = super().split(x)
        return k, q, v


class HeadsFirst(Port):
    def split(self, x):
        b, t, _ = x.shape
        return x.reshape([b, t, self.num_heads, 3, -1]).transpose([3, 0, 1, 2, 4]).unbind(0)


class SeesAll(Port):
    causal = False


class TimeForHeads(Port):
    """PyTorch's (batch, heads, time, dim) into Paddle's function, which wants time second."""

    def split(self, x):
        return [part.transpose([0, 2, 1, 3]) for part in super().split(x)]

    def forward(self, x):
        q, k, v = self.split(self.qkv(x))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(x.transpose([0, 2, 1, 3]).flatten(2))


class MoreHeads(Port):
    num_heads = 4


def no_bias():
    return Port(proj_bias=False)


BROKEN = [
    Broken("keys before queries", KeysBeforeQueries, "proj", "proj"),
    Broken("heads before the three", HeadsFirst, "proj", "proj"),
    Broken("not causal", SeesAll, "proj", "proj"),
    Broken("heads and time swapped", TimeForHeads, "proj", "proj"),
    Broken("number of heads", MoreHeads, "proj", "proj"),
    Broken("no bias", no_bias, "proj", ["proj.bias", "only in the reference"]),
]
