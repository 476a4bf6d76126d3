"""Both frameworks' own TransformerEncoder, with a padding mask."""

import torch
from paddle import nn

from . import Broken

# KNOWN: LayerNorm's epsilon is float32.

INPUTS = {"x": "float32[3,10,32]", "padding": "bool[3,10]"}
MAY_NOT_COMPARE = ["switched off"]  # dropout of the attention's weights, a function


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(
            32,
            nhead=4,
            dim_feedforward=48,
            dropout=0.1,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = torch.nn.TransformerEncoder(
            layer, num_layers=2, norm=torch.nn.LayerNorm(32), enable_nested_tensor=False
        )
        self.head = torch.nn.Linear(32, 7)

    def forward(self, x, padding):
        return self.head(self.encoder(x, src_key_padding_mask=padding))


class Port(nn.Layer):
    def __init__(self, final_norm=True, num_layers=2, **settings):
        super().__init__()
        usual = {
            "nhead": 4,
            "dim_feedforward": 48,
            "dropout": 0.1,
            "activation": "gelu",
            "normalize_before": True,
        }
        layer = nn.TransformerEncoderLayer(32, **{**usual, **settings})
        norm = nn.LayerNorm(32) if final_norm else None
        self.encoder = nn.TransformerEncoder(layer, num_layers, norm)
        self.head = nn.Linear(32, 7)

    def mask(self, padding):
        """True where attention may look, for all heads and queries."""
        return padding.logical_not().unsqueeze([1, 2])

    def forward(self, x, padding):
        return self.head(self.encoder(x, self.mask(padding)))


class MaskNotInverted(Port):
    def mask(self, padding):
        return padding.unsqueeze([1, 2])


class MaskForgotten(Port):
    def mask(self, padding):
        return None


class SharedMaskOverQueries(Port):
    def mask(self, padding):
        return padding.logical_not().unsqueeze([1, 3])


def default_activation():
    return Port(activation="relu")


def post_norm():
    return Port(normalize_before=False)


def no_final_norm():
    return Port(final_norm=False)


def heads():
    return Port(nhead=8)


def one_layer_less():
    return Port(num_layers=1)


def no_dropout():
    return Port(dropout=0.0)


def more_attention_dropout():
    return Port(attn_dropout=0.3)


LAYER = "encoder.layers.0"

BROKEN = [
    Broken("mask not inverted", MaskNotInverted, LAYER, "leaves out; kept"),
    Broken("mask not given", MaskForgotten, LAYER, "(3, 10) may be a mask"),
    Broken("mask over queries", SharedMaskOverQueries, LAYER, "(3, 1, 10, 1) | (3, 10)"),
    Broken("ReLU, the default", default_activation, LAYER, LAYER),
    Broken("post-norm, the default", post_norm, LAYER, LAYER),
    Broken("no norm at the end", no_final_norm, "encoder.norm", "only in the reference"),
    Broken("number of heads", heads, f"{LAYER}.self_attn", ["num_heads 8 | 4", "its input agrees"]),
    Broken("a layer left out", one_layer_less, "encoder.layers.1", "only in the reference"),
    Broken("dropout left out", no_dropout, LAYER, "| 0.1"),
    Broken("dropout of the attention", more_attention_dropout, LAYER, "dropout 0.3 | 0.1"),
]
