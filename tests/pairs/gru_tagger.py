"""A classifier of sequences: time-major GRU, its last state, dropout of whole features."""

import paddle
import torch
from paddle import nn

from . import Broken

INPUTS = ["int64[5,11]<30"]
MAY_NOT_COMPARE = ["dropout"]  # masks of (N, 1, C) here, of (N, C, 1) there


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(30, 12)
        self.dropout = torch.nn.Dropout1d(0.3)
        self.gru = torch.nn.GRU(12, 20, num_layers=2, bidirectional=True)
        self.head = torch.nn.Linear(40, 4)

    def forward(self, ids):
        x = self.embed(ids)
        x = self.dropout(x.transpose(1, 2)).transpose(1, 2)
        _, state = self.gru(x.transpose(0, 1))
        return self.head(torch.cat([state[-2], state[-1]], dim=-1))


class Port(nn.Layer):
    def __init__(self, p=0.3, axis=(0, 2)):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.dropout = nn.Dropout(p, axis=list(axis) if axis else None)
        self.gru = nn.GRU(12, 20, num_layers=2, direction="bidirect", time_major=True)
        self.head = nn.Linear(40, 4)

    def state(self, ids):
        x = self.dropout(self.embed(ids))
        return self.gru(x.transpose([1, 0, 2]))[1]

    def forward(self, ids):
        state = self.state(ids)
        return self.head(paddle.concat([state[-2], state[-1]], axis=-1))


class FirstLayer(Port):
    def forward(self, ids):
        state = self.state(ids)
        return self.head(paddle.concat([state[0], state[1]], axis=-1))


class DirectionsSwapped(Port):
    def forward(self, ids):
        state = self.state(ids)
        return self.head(paddle.concat([state[-1], state[-2]], axis=-1))


class LastOutput(Port):
    """The last time step's output: of the backward direction that is its first step."""

    def forward(self, ids):
        x = self.dropout(self.embed(ids))
        return self.head(self.gru(x.transpose([1, 0, 2]))[0][-1])


class NotTransposed(Port):
    """Batch first into a GRU that takes time first."""

    def state(self, ids):
        return self.gru(self.dropout(self.embed(ids)))[1]


def kept_for_dropped():
    return Port(p=0.7)


def single_values():
    return Port(axis=None)


BROKEN = [
    Broken("states of the first layer", FirstLayer, ["head", "gru"], ["gru", "head"]),
    Broken("directions swapped", DirectionsSwapped, ["head", "gru"], ["gru", "head"]),
    Broken("the last output for the last state", LastOutput, ["head", "gru"], ["gru", "head"]),
    Broken("batch first", NotTransposed, "gru", "gru"),
    Broken("share kept for share dropped", kept_for_dropped, "dropout", "p 0.7 | 0.3"),
    Broken("dropout of single values", single_values, "dropout", "dropout"),
]
