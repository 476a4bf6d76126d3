"""PyTorch's optimizers, set up as torchvision's references/classification/train.py does."""

import torch
from torch import nn

__all__ = ["OPTIMIZERS", "create_optimizer", "weight_decay_groups"]

OPTIMIZERS = ("sgd", "sgd_nesterov", "rmsprop", "adamw")


def create_optimizer(opt, parameters, lr, momentum=0.9, weight_decay=1e-4):
    """The optimizer that torchvision's `--opt` means. Arguments: paddle_mv3.create_optimizer."""
    if opt in ("sgd", "sgd_nesterov"):
        nesterov = opt == "sgd_nesterov" and momentum > 0
        return torch.optim.SGD(
            parameters, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )
    if opt == "rmsprop":
        return torch.optim.RMSprop(
            parameters, lr, alpha=0.9, eps=0.0316, momentum=momentum, weight_decay=weight_decay
        )
    if opt == "adamw":
        return torch.optim.AdamW(parameters, lr, weight_decay=weight_decay)
    raise ValueError(f"no optimizer {opt!r}: choose from {', '.join(OPTIMIZERS)}")


NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
)


def weight_decay_groups(model, weight_decay, norm_weight_decay=None, bias_weight_decay=None):
    """Parameter groups with their own L2 decay; `set_weight_decay` of torchvision's references.

    `bias` goes before `norm`: the shift of a batch norm is a bias. None: no group of its own.
    """
    groups = {"other": [], "norm": [], "bias": []}
    for module in model.modules():
        is_norm = norm_weight_decay is not None and isinstance(module, NORMS)
        for name, parameter in module.named_parameters(recurse=False):
            is_bias = bias_weight_decay is not None and name == "bias"
            groups["bias" if is_bias else "norm" if is_norm else "other"].append(parameter)
    decays = {"other": weight_decay, "norm": norm_weight_decay, "bias": bias_weight_decay}
    return [
        {"params": parameters, "weight_decay": decays[kind]}
        for kind, parameters in groups.items()
        if parameters
    ]
