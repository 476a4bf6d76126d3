"""A vision transformer: class token, position embedding, packed attention, pre-norm blocks."""

import paddle
import torch
from paddle import nn

from . import Broken

# KNOWN: Paddle's LayerNorm holds epsilon as float32.

INPUTS = "2x3x32x32"
CHECKS = ("forward", "backward", "training", "initialisation")
MAY_NOT_COMPARE = ["size"]  # the position embedding fits one size of images only


class ReferenceBlock(torch.nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(dim, eps=1e-6)
        self.attn = torch.nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm2 = torch.nn.LayerNorm(dim, eps=1e-6)
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(dim, 2 * dim),
            torch.nn.GELU(approximate="tanh"),
            torch.nn.Linear(2 * dim, dim),
        )

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Reference(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = torch.nn.Conv2d(3, 32, kernel_size=8, stride=8)
        self.cls_token = torch.nn.Parameter(torch.empty(1, 1, 32))
        self.pos_embed = torch.nn.Parameter(torch.empty(1, 17, 32))
        self.blocks = torch.nn.ModuleList(ReferenceBlock(32, num_heads=4) for _ in range(2))
        self.norm = torch.nn.LayerNorm(32, eps=1e-6)
        self.head = torch.nn.Linear(32, 10)
        torch.nn.init.normal_(self.cls_token, std=0.02)
        torch.nn.init.normal_(self.pos_embed, std=0.02)
        self.apply(self.init_weights)

    def init_weights(self, module):
        if isinstance(module, torch.nn.LayerNorm):
            return
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 1:
                torch.nn.init.zeros_(parameter)
            elif module is not self:
                torch.nn.init.normal_(parameter, std=0.02)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Block(nn.Layer):
    def __init__(self, dim, num_heads, epsilon=1e-6):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, epsilon)
        self.attn = nn.MultiHeadAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, epsilon)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(approximate=True), nn.Linear(2 * dim, dim)
        )

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Port(nn.Layer):
    def __init__(self):
        super().__init__()
        normal = nn.initializer.Normal(std=0.02)
        self.patch_embed = nn.Conv2D(3, 32, kernel_size=8, stride=8)
        self.cls_token = self.create_parameter([1, 1, 32], default_initializer=normal)
        self.pos_embed = self.create_parameter([1, 17, 32], default_initializer=normal)
        self.blocks = nn.LayerList([self.block() for _ in range(2)])
        self.norm = nn.LayerNorm(32, epsilon=1e-6)
        self.head = nn.Linear(32, 10)
        self.apply(self.init_weights)

    def block(self):
        return Block(32, num_heads=4)

    def init_weights(self, layer):
        if isinstance(layer, (nn.Linear, nn.Conv2D)):
            nn.initializer.Normal(std=0.02)(layer.weight)
            nn.initializer.Constant(0.0)(layer.bias)

    def tokens(self, x):
        x = self.patch_embed(x).flatten(2).transpose([0, 2, 1])
        return paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]), x], axis=1)

    def forward(self, x):
        x = self.tokens(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class DefaultEpsilon(Port):
    def block(self):
        return Block(32, num_heads=4, epsilon=1e-5)


class FewerHeads(Port):
    def block(self):
        return Block(32, num_heads=2)


class PostNormBlock(Block):
    def forward(self, x):
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class PostNorm(Port):
    def block(self):
        return PostNormBlock(32, num_heads=4)


class NoResidualBlock(Block):
    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return self.mlp(self.norm2(x))


class NoResidual(Port):
    def block(self):
        return NoResidualBlock(32, num_heads=4)


class TokenLast(Port):
    def tokens(self, x):
        x = self.patch_embed(x).flatten(2).transpose([0, 2, 1])
        return paddle.concat([x, self.cls_token.expand([x.shape[0], -1, -1])], axis=1)


class PatchesReshaped(Port):
    def tokens(self, x):
        x = self.patch_embed(x)
        x = x.reshape([x.shape[0], -1, x.shape[1]])
        return paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]), x], axis=1)


class LastToken(Port):
    def forward(self, x):
        x = self.tokens(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, -1])


class PlainPositions(Port):
    def __init__(self):
        super().__init__()
        del self.pos_embed
        self.pos_embed = 0.02 * paddle.randn([1, 17, 32])


class DefaultInitialisation(Port):
    def init_weights(self, layer):
        pass


def exact_gelu():
    port = Port()
    for block in port.blocks:
        block.mlp[1] = nn.GELU()
    return port


def frozen_positions():
    port = Port()
    port.pos_embed.stop_gradient = True
    return port


BROKEN = [
    Broken(
        "epsilon left at the default", DefaultEpsilon, "blocks.0.norm1", "epsilon 1e-05 | 1e-06"
    ),
    Broken("exact GELU", exact_gelu, "blocks.0.mlp.1", "approximate"),
    Broken("number of heads", FewerHeads, "blocks.0.attn", "num_heads 2 | 4"),
    Broken("post-norm", PostNorm, "blocks.0", "blocks.0"),
    Broken("a residual left out", NoResidual, "blocks.0", "blocks.0"),
    Broken("class token last", TokenLast, ["blocks.0", "patch_embed"], ["patch_embed", "blocks.0"]),
    Broken(
        "patches reshaped, not transposed",
        PatchesReshaped,
        ["blocks.0", "patch_embed"],
        ["patch_embed", "blocks.0"],
    ),
    Broken("another token into the head", LastToken, ["head", "norm"], ["norm", "head"]),
    Broken("positions are no parameter", PlainPositions, "pos_embed", "only in the reference"),
    Broken("positions frozen", frozen_positions, "pos_embed", ["pos_embed", "gradient"]),
    Broken(
        "initialisation left at the default",
        DefaultInitialisation,
        "initialisation",
        "patch_embed.weight",
    ),
]
