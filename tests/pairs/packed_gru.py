"""Sequences of several lengths: PyTorch packs them, Paddle's GRU takes the lengths."""

import numpy as np
import paddle
import torch
from paddle import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from . import Broken

INPUTS = {"ids": "int64[4,8]<25", "lengths": np.array([8, 3, 5, 1])}


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(25, 8)
        self.gru = torch.nn.GRU(8, 12, batch_first=True)
        self.tag = torch.nn.Linear(12, 6)

    def forward(self, ids, lengths):
        x = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        x, _ = pad_packed_sequence(self.gru(x)[0], batch_first=True)
        return self.tag(x)


class Port(nn.Layer):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(25, 8)
        self.gru = nn.GRU(8, 12)
        self.tag = nn.Linear(12, 6)

    def forward(self, ids, lengths):
        x, _ = self.gru(self.embed(ids), sequence_length=lengths)
        return self.tag(x)


class LengthsForgotten(Port):
    def forward(self, ids, lengths):
        x, _ = self.gru(self.embed(ids))
        return self.tag(x)


class LengthsOffByOne(Port):
    def forward(self, ids, lengths):
        x, _ = self.gru(self.embed(ids), sequence_length=paddle.clip(lengths - 1, min=1))
        return self.tag(x)


class Reversed(Port):
    def forward(self, ids, lengths):
        x, _ = self.gru(self.embed(ids).flip(axis=1), sequence_length=lengths)
        return self.tag(x)


BROKEN = [
    Broken("lengths not given", LengthsForgotten, ["gru", "tag"], "gru"),
    Broken("lengths off by one", LengthsOffByOne, ["gru", "tag"], "gru"),
    Broken("time reversed", Reversed, ["gru", "tag"], ["embed", "gru"]),
]
