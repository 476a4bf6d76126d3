"""Plain nn.Sequential models, made by functions: the root is a layer of the framework itself."""

import torch
from paddle import nn

from . import Broken

# KNOWN: the alpha of ELU is float32; Softplus holds its beta as float64.

INPUTS = "3x3x12x12"
CHECKS = ("forward", "backward", "training", "initialisation")


def Reference():  # noqa: N802
    model = torch.nn.Sequential(
        torch.nn.ZeroPad2d((1, 0, 1, 0)),
        torch.nn.Conv2d(3, 12, 2),
        torch.nn.ELU(alpha=0.7),
        torch.nn.PixelShuffle(2),
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1),
        torch.nn.GLU(dim=1),
        torch.nn.Softplus(beta=2),
        torch.nn.AdaptiveMaxPool2d(4),
        torch.nn.Hardtanh(-0.5, 1.75),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 4 * 4, 6),
        torch.nn.LogSoftmax(dim=-1),
    )
    for module in model:
        for name, parameter in module.named_parameters():
            if name == "bias":
                torch.nn.init.zeros_(parameter)
            else:
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def Port():  # noqa: N802
    weight = nn.initializer.Normal(std=0.2)
    return nn.Sequential(
        nn.ZeroPad2D([1, 0, 1, 0]),
        nn.Conv2D(3, 12, 2, weight_attr=weight),
        nn.ELU(alpha=0.7),
        nn.PixelShuffle(2),
        nn.Conv2D(3, 8, 3, stride=2, padding=1, weight_attr=weight),
        nn.GLU(axis=1),
        nn.Softplus(beta=2),
        nn.AdaptiveMaxPool2D(4),
        nn.Hardtanh(-0.5, 1.75),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 6, weight_attr=weight),
        nn.LogSoftmax(axis=-1),
    )


def with_layer(index, layer):
    model = Port()
    model[index] = layer
    return model


def padded_at_the_end():
    return with_layer(0, nn.ZeroPad2D([0, 1, 0, 1]))


def default_alpha():
    return with_layer(2, nn.ELU())


def default_beta():
    return with_layer(6, nn.Softplus())


def other_axis():
    return with_layer(5, nn.GLU(axis=2))


def softmax_over_batch():
    return with_layer(11, nn.LogSoftmax(axis=0))


def softmax_without_log():
    return with_layer(11, nn.Softmax(axis=-1))


def average_pooling():
    return with_layer(7, nn.AdaptiveAvgPool2D(4))


def other_bounds():
    return with_layer(8, nn.Hardtanh())


def default_initialisation():
    return with_layer(10, nn.Linear(4 * 4 * 4, 6))


BROKEN = [
    Broken("padded at the end", padded_at_the_end, "0", "padding"),
    Broken("alpha left at the default", default_alpha, "2", "alpha 1 | 0.7"),
    Broken("beta left at the default", default_beta, "6", "beta 1 | 2"),
    Broken("gated over another axis", other_axis, ["5", "forward"], "axis 2 | 1"),
    Broken("softmax over the batch", softmax_over_batch, "11", "11"),
    Broken("softmax without the logarithm", softmax_without_log, "11", "Softmax | LogSoftmax"),
    Broken("average pooling", average_pooling, "7", "AdaptiveAvgPool2D | AdaptiveMaxPool2d"),
    Broken("bounds left at the default", other_bounds, "8", "8"),
    Broken("initialisation", default_initialisation, "initialisation", "10.weight"),
]
