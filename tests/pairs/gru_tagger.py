"""A classifier of sequences: a time-major GRU and its last state."""

import paddle
import torch
from paddle import nn

from . import Broken

INPUTS = ["int64[5,11]<30"]


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(30, 12)
        self.dropout = torch.nn.Dropout(0.3)
        self.gru = torch.nn.GRU(12, 20, num_layers=2, bidirectional=True)
        self.head = torch.nn.Linear(40, 4)

    def forward(self, ids):
        x = self.dropout(self.embed(ids))
        _, state = self.gru(x.transpose(0, 1))
        return self.head(torch.cat([state[-2], state[-1]], dim=-1))


class Port(nn.Layer):
    def __init__(self, p=0.3):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.dropout = nn.Dropout(p)
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


BROKEN = [
    Broken("states of the first layer", FirstLayer, ["head", "gru"], ["gru", "head"]),
    Broken("directions swapped", DirectionsSwapped, ["head", "gru"], ["gru", "head"]),
    Broken("the last output for the last state", LastOutput, ["head", "gru"], ["gru", "head"]),
    Broken("batch first", NotTransposed, "gru", "gru"),
    Broken("share kept for share dropped", kept_for_dropped, "dropout", "p 0.7 | 0.3"),
]
