"""A tagger: embedding with padding, two-layer bidirectional LSTM, a loss that skips padding."""

import paddle
import torch
import torch.nn.functional as TF
from paddle import nn
from paddle.nn import functional as F

from . import Broken

# KNOWN: Paddle's Embedding gives zeros for padding_idx, PyTorch's the row of the weight that the
# optimizer leaves alone. They agree as long as that row is 0, as both make it.

INPUTS = "int64[6,14]<20"
TARGETS = ["int64[6,14]<9"]
NOT_COMPARED = ["dropout"]  # between the layers of the LSTM, drawn inside of it


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(20, 16, padding_idx=0)
        self.lstm = torch.nn.LSTM(
            16, 24, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2
        )
        self.dropout = torch.nn.Dropout(0.3)
        self.tag = torch.nn.Linear(48, 9)

    def forward(self, ids):
        x, _ = self.lstm(self.embed(ids))
        return self.tag(self.dropout(x))


class Port(nn.Layer):
    def __init__(self, padding_idx=0, mode="upscale_in_train", bias_attr=None, **settings):
        super().__init__()
        self.embed = nn.Embedding(20, 16, padding_idx=padding_idx)
        settings = {"direction": "bidirect", "dropout": 0.2, **settings}
        self.lstm = nn.LSTM(16, 24, num_layers=2, **settings)
        self.dropout = nn.Dropout(0.3, mode=mode)
        self.tag = nn.Linear(24 * self.lstm.num_directions, 9, bias_attr=bias_attr)

    def forward(self, ids):
        x, _ = self.lstm(self.embed(ids))
        return self.tag(self.dropout(x))


def port_loss(logits, tags):
    return F.cross_entropy(logits.reshape([-1, 9]), tags.flatten(), ignore_index=0)


def reference_loss(logits, tags):
    return TF.cross_entropy(logits.reshape(-1, 9), tags.flatten(), ignore_index=0)


LOSS = port_loss, reference_loss


class HalvesSwapped(Port):
    """Takes the backward direction to come first."""

    def forward(self, ids):
        x, _ = self.lstm(self.embed(ids))
        forward, backward = x.chunk(2, axis=-1)
        return self.tag(self.dropout(paddle.concat([backward, forward], axis=-1)))


def no_padding():
    return Port(padding_idx=None)


def one_direction():
    return Port(direction="forward")


def time_major():
    return Port(time_major=True)


def no_dropout_between():
    return Port(dropout=0.0)


def downscaled():
    return Port(mode="downscale_in_infer")


def no_bias():
    return Port(bias_attr=False)


BROKEN = [
    Broken("padding_idx left out", no_padding, "embed", "padding_idx"),
    Broken("one direction", one_direction, ["lstm", "tag"], "only in the reference"),
    Broken("time first", time_major, "lstm", "lstm"),
    Broken("dropout between layers left out", no_dropout_between, "lstm", ["dropout", "| 0.2"]),
    Broken("dropout scales in eval mode", downscaled, "dropout", "downscale_in_infer"),
    Broken("directions swapped", HalvesSwapped, ["tag", "dropout"], ["lstm", "tag"]),
    Broken("bias left out", no_bias, "tag", ["tag.bias", "only in the reference"]),
]
