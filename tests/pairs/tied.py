"""A language model: output tied to the embedding, causal mask in a buffer, attention by hand."""

import math

import paddle
import torch
import torch.nn.functional as TF
from paddle import nn
from paddle.nn import functional as F

from . import Broken

# KNOWN: LayerNorm's epsilon is float32.

INPUTS = "int64[3,12]<40"
TARGETS = ["int64[3,12]<40"]
CHECKS = ("forward", "backward", "training", "initialisation")


class ReferenceAttention(torch.nn.Module):
    def __init__(self, dim, num_heads, length):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = torch.nn.Linear(dim, 3 * dim)
        self.proj = torch.nn.Linear(dim, dim)
        mask = torch.tril(torch.ones(length, length, dtype=torch.bool))
        self.register_buffer("mask", mask)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~self.mask[:t, :t], float("-inf"))
        x = scores.softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, t, c))


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(40, 24)
        self.pos = torch.nn.Embedding(16, 24)
        self.register_buffer("positions", torch.arange(16))
        self.norm = torch.nn.LayerNorm(24)
        self.attn = ReferenceAttention(24, num_heads=3, length=16)
        self.norm_f = torch.nn.LayerNorm(24)
        self.lm_head = torch.nn.Linear(24, 40, bias=False)
        for module in self.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
                torch.nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, torch.nn.Linear) and module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        self.lm_head.weight = self.emb.weight

    def forward(self, ids):
        x = self.emb(ids) * math.sqrt(24) + self.pos(self.positions[: ids.shape[1]])
        x = x + self.attn(self.norm(x))
        return self.lm_head(self.norm_f(x))


class Attention(nn.Layer):
    diagonal = 0

    def __init__(self, dim, num_heads, length):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        mask = paddle.tril(paddle.ones([length, length], "int32"), self.diagonal)
        self.register_buffer("mask", mask.astype("bool"))

    def split(self, x):
        b, t, c = x.shape
        x = x.reshape([b, t, 3, self.num_heads, c // 3 // self.num_heads])
        return x.transpose([2, 0, 3, 1, 4]).unbind(0)

    def scores(self, q, k):
        return q @ k.transpose([0, 1, 3, 2]) / math.sqrt(q.shape[-1])

    def masked(self, scores):
        t = scores.shape[-1]
        return paddle.where(self.mask[:t, :t], scores, paddle.full_like(scores, -math.inf))

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.split(self.qkv(x))
        x = F.softmax(self.masked(self.scores(q, k)), axis=-1) @ v
        return self.proj(x.transpose([0, 2, 1, 3]).reshape([b, t, c]))


class Port(nn.Layer):
    attention = Attention

    def __init__(self):
        super().__init__()
        normal = paddle.ParamAttr(initializer=nn.initializer.Normal(std=0.02))
        self.emb = nn.Embedding(40, 24, weight_attr=normal)
        self.pos = nn.Embedding(16, 24, weight_attr=normal)
        self.register_buffer("positions", paddle.arange(16))
        self.norm = nn.LayerNorm(24)
        self.attn = self.attention(24, num_heads=3, length=16)
        self.norm_f = nn.LayerNorm(24)
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                nn.initializer.Normal(std=0.02)(layer.weight)

    def embed(self, ids):
        return self.emb(ids) * math.sqrt(24) + self.pos(self.positions[: ids.shape[1]])

    def logits(self, x):
        return paddle.matmul(x, self.emb.weight, transpose_y=True)

    def forward(self, ids):
        x = self.embed(ids)
        x = x + self.attn(self.norm(x))
        return self.logits(self.norm_f(x))


def port_loss(logits, targets):
    return F.cross_entropy(logits, targets)


def reference_loss(logits, targets):
    return TF.cross_entropy(logits.flatten(0, 1), targets.flatten())


LOSS = port_loss, reference_loss


class Untied(Port):
    def __init__(self):
        super().__init__()
        normal = paddle.ParamAttr(initializer=nn.initializer.Normal(std=0.02))
        self.lm_head = nn.Linear(24, 40, weight_attr=normal, bias_attr=False)

    def logits(self, x):
        return self.lm_head(x)


class OutputDetached(Port):
    def logits(self, x):
        return paddle.matmul(x, self.emb.weight.detach(), transpose_y=True)


class EmbeddingNotScaled(Port):
    def embed(self, ids):
        return self.emb(ids) + self.pos(self.positions[: ids.shape[1]])


class SeesTheNext(Port):
    class attention(Attention):  # noqa: N801
        diagonal = 1


class MaskInverted(Port):
    class attention(Attention):  # noqa: N801
        def masked(self, scores):
            t = scores.shape[-1]
            return paddle.where(self.mask[:t, :t], paddle.full_like(scores, -1e9), scores)


class ScaledByWidth(Port):
    class attention(Attention):  # noqa: N801
        def scores(self, q, k):
            return q @ k.transpose([0, 1, 3, 2]) / math.sqrt(24)


class HeadsBeforeParts(Port):
    """qkv split as (heads, 3, dim) instead of (3, heads, dim)."""

    class attention(Attention):  # noqa: N801
        def split(self, x):
            b, t, c = x.shape
            x = x.reshape([b, t, self.num_heads, 3, c // 3 // self.num_heads])
            return x.transpose([3, 0, 2, 1, 4]).unbind(0)


BROKEN = [
    Broken("output not tied", Untied, ["lm_head", "emb"], "lm_head"),
    Broken("no gradient through the output", OutputDetached, "emb", "emb.weight"),
    Broken("embedding not scaled", EmbeddingNotScaled, ["norm", "emb", "pos"], "norm"),
    Broken("mask off by one", SeesTheNext, ["attn"], "attn"),
    Broken("mask inverted", MaskInverted, ["attn"], "attn"),
    Broken("scaled by the width, not the head's", ScaledByWidth, "attn", "attn"),
    Broken("qkv split in another order", HeadsBeforeParts, "attn", "attn"),
]
