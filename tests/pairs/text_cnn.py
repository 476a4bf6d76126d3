"""A convolution net on text: dropout of whole channels, three widths, the largest over time."""

import paddle
import torch
from paddle import nn

from . import Broken

INPUTS = "int64[5,13]<40"
MAY_NOT_COMPARE = ["dropout"]  # where its masks cannot be shared


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(40, 12)
        self.drop = torch.nn.Dropout1d(0.3)
        self.convs = torch.nn.ModuleList(torch.nn.Conv1d(12, 6, width) for width in (2, 3, 4))
        self.act = torch.nn.ReLU()
        self.dropout = torch.nn.Dropout(0.2)
        self.fc = torch.nn.Linear(18, 4)

    def forward(self, ids):
        x = self.drop(self.embed(ids).transpose(1, 2))
        x = torch.cat([self.act(conv(x)).amax(dim=2) for conv in self.convs], dim=1)
        return self.fc(self.dropout(x))


class Port(nn.Layer):
    def __init__(self, axis=(0, 1), p=0.2):
        super().__init__()
        self.embed = nn.Embedding(40, 12)
        self.drop = nn.Dropout(0.3, axis=axis and list(axis))
        self.convs = nn.LayerList([nn.Conv1D(12, 6, width) for width in (2, 3, 4)])
        self.act = nn.ReLU()
        self.dropout = nn.Dropout(p)
        self.fc = nn.Linear(18, 4)

    def most(self, x):
        return x.max(axis=2)

    def forward(self, ids):
        x = self.drop(self.embed(ids).transpose([0, 2, 1]))
        x = paddle.concat([self.most(self.act(conv(x))) for conv in self.convs], axis=1)
        return self.fc(self.dropout(x))


class MeanOverTime(Port):
    def most(self, x):
        return x.mean(axis=2)


class WidestFirst(Port):
    def forward(self, ids):
        x = self.drop(self.embed(ids).transpose([0, 2, 1]))
        x = paddle.concat([self.most(self.act(conv(x))) for conv in self.convs[::-1]], axis=1)
        return self.fc(self.dropout(x))


class EmbeddingReshaped(Port):
    def forward(self, ids):
        x = self.embed(ids)
        x = self.drop(x.reshape([x.shape[0], x.shape[2], x.shape[1]]))
        x = paddle.concat([self.most(self.act(conv(x))) for conv in self.convs], axis=1)
        return self.fc(self.dropout(x))


def single_values():
    return Port(axis=None)


def other_axis():
    return Port(axis=(0, 2))


def other_rate():
    return Port(p=0.5)


BROKEN = [
    Broken("dropout of single values", single_values, "drop", "drop"),
    Broken("dropout of time steps", other_axis, "drop", "drop"),
    Broken("rate of dropout", other_rate, "dropout", "p 0.5 | 0.2"),
    Broken("mean over time", MeanOverTime, ["fc", "dropout"], ["convs", "dropout"]),
    Broken("widest first", WidestFirst, ["fc", "dropout", "act"], "convs"),
    Broken("reshaped, not transposed", EmbeddingReshaped, ["drop", "embed"], "embed"),
]
