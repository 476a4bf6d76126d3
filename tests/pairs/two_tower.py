"""Two towers for retrieval: keyword inputs of three dtypes, an output that nests."""

import paddle
import torch
import torch.nn.functional as TF
from paddle import nn
from paddle.nn import functional as F

from . import Broken

# KNOWN: F.normalize holds epsilon as float32; it does not matter to vectors longer than that.

INPUTS = {"ids": "int64[6,10]<50", "mask": "bool[6,10]", "dense": "float32[6,7]"}


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(50, 16)
        self.query = torch.nn.Linear(16, 12)
        self.item = torch.nn.Sequential(
            torch.nn.Linear(7, 24),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(24, 12),
        )
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, ids, mask, dense):
        weights = mask.unsqueeze(-1).to(self.scale.dtype)
        mean = (self.embed(ids) * weights).sum(1) / weights.sum(1).clamp(min=1)
        query = TF.normalize(self.query(mean), dim=-1)
        item = TF.normalize(self.item(dense), dim=-1)
        scores = self.scale.exp() * query @ item.T
        return {
            "towers": {"query": query, "item": item},
            "score": scores.diagonal(),
            "best": (scores.amax(dim=1), scores.argmax(dim=1)),
            "count": len(ids),
            "note": None,
        }


class Port(nn.Layer):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.query = nn.Linear(16, 12)
        self.item = nn.Sequential(nn.Linear(7, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 12))
        self.scale = self.create_parameter([], default_initializer=nn.initializer.Constant(2.0))

    def pool(self, tokens, mask):
        weights = mask.unsqueeze(-1).astype(tokens.dtype)
        return (tokens * weights).sum(1) / weights.sum(1).clip(min=1)

    def query_tower(self, ids, mask):
        return F.normalize(self.query(self.pool(self.embed(ids), mask)), axis=-1)

    def item_tower(self, dense):
        return F.normalize(self.item(dense), axis=-1)

    def forward(self, ids, mask, dense):
        query = self.query_tower(ids, mask)
        item = self.item_tower(dense)
        scores = self.scale.exp() * query @ item.T
        return {
            "towers": {"query": query, "item": item},
            "score": scores.diagonal(),
            "best": (scores.amax(axis=1), scores.argmax(axis=1)),
            "count": len(ids),
            "note": None,
        }


class MaskInverted(Port):
    def pool(self, tokens, mask):
        return super().pool(tokens, paddle.logical_not(mask))


class PaddingCounted(Port):
    def pool(self, tokens, mask):
        return (tokens * mask.unsqueeze(-1).astype(tokens.dtype)).mean(1)


class ItemDetached(Port):
    def item_tower(self, dense):
        return super().item_tower(dense).detach()


class NotNormalised(Port):
    def item_tower(self, dense):
        return self.item(dense)


class ScoreAsColumn(Port):
    def forward(self, ids, mask, dense):
        output = super().forward(ids, mask, dense)
        return {**output, "score": output["score"].unsqueeze(1)}


class CountsTokens(Port):
    def forward(self, ids, mask, dense):
        return {**super().forward(ids, mask, dense), "count": ids.shape[1]}


class BestForgotten(Port):
    def forward(self, ids, mask, dense):
        output = super().forward(ids, mask, dense)
        del output["best"]
        return output


class IndexOfOtherAxis(Port):
    def forward(self, ids, mask, dense):
        output = super().forward(ids, mask, dense)
        query, item = output["towers"]["query"], output["towers"]["item"]
        best = (self.scale.exp() * query @ item.T).argmax(axis=0)
        return {**output, "best": (output["best"][0], best)}


class ShortIndex(Port):
    def forward(self, ids, mask, dense):
        output = super().forward(ids, mask, dense)
        best, index = output["best"]
        return {**output, "best": (best, index.astype("int32"))}


BEST = ["output['best'][1]", "the model"]

BROKEN = [
    Broken("mask inverted", MaskInverted, ["query", "embed"], ["embed", "query"]),
    Broken("padding counted in the mean", PaddingCounted, ["query", "embed"], ["embed", "query"]),
    Broken("item tower detached", ItemDetached, "item", ["no gradient reaches", "item"]),
    Broken("item not normalised", NotNormalised, ["output", "the model"], "output"),
    Broken("score as a column", ScoreAsColumn, ["output['score']", "the model"], "(6, 1) | (6,)"),
    Broken("tokens counted, not queries", CountsTokens, "output['count']", "10 | 6"),
    Broken("an output forgotten", BestForgotten, ["output['best']", "the model"], "best"),
    Broken("index over the other axis", IndexOfOtherAxis, BEST, "output['best'][1]"),
    Broken("index as int32", ShortIndex, BEST, "int32 | int64"),
]
