"""Known differences of the two frameworks that are no mistake of a port.

Two kinds. Where Paddle rounds a constant to float32 whatever the dtype of the tensors, nobody can
port otherwise: the reference is run with the same rounded constant (`AsPaddle`), and the report
says so. Whether Paddle does so here is measured on the machine, once for each function. What has a
cure (`CURES`) is a difference like any other, with the cure as its hint.
"""

import functools
import inspect

import numpy as np
import paddle
import torch
from paddle.nn import functional as PF
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["ACCEPTED", "CURES", "AsPaddle", "rounds"]

# {function of PyTorch: (its argument, the same in Paddle: function (x, constant), a value)}
CONSTANTS = {
    F.layer_norm: ("eps", lambda x, c: PF.layer_norm(x, x.shape[-1:], epsilon=c), 1e-4),
    F.group_norm: ("eps", lambda x, c: PF.group_norm(x, 2, c), 1e-4),
    F.instance_norm: ("eps", lambda x, c: PF.instance_norm(x, eps=c), 1e-4),
    F.elu: ("alpha", PF.elu, 0.3),
    F.celu: ("alpha", PF.celu, 0.3),
    F.leaky_relu: ("negative_slope", PF.leaky_relu, 0.3),
    F.softshrink: ("lambd", PF.softshrink, 0.3),
    F.hardshrink: ("lambd", PF.hardshrink, 0.3),
    F.hardtanh: ("max_val", lambda x, c: PF.hardtanh(x, -1.0, c), 0.3),
    F.softplus: ("beta", PF.softplus, 0.3),
}
# PyTorch's calls of the same, where the constant is no third argument.
CALLS = {
    F.layer_norm: lambda x, c: F.layer_norm(x, x.shape[-1:], eps=c),
    F.group_norm: lambda x, c: F.group_norm(x, 2, eps=c),
    F.instance_norm: lambda x, c: F.instance_norm(x, eps=c),
    F.hardtanh: lambda x, c: F.hardtanh(x, -1.0, c),
}
SELU = {"scale": 1.0507009873554805, "alpha": 1.6732632423543772}

# Differences that someone may accept by name; each is then allowed for in the reference.
ACCEPTED = {
    "biased_variance": "Paddle's batch norm updates running_var with the biased variance of the "
    "batch (divided by n), PyTorch's with the unbiased one (by n - 1)",
    "hardsigmoid": "Paddle's hardsigmoid multiplies by 0.1666667, PyTorch's divides by 6",
}
# {kind of layer: what to do}, for layers that differ though their settings agree.
CURES = {
    "hardsigmoid": "Paddle's Hardsigmoid multiplies by 0.1666667, PyTorch's divides by 6. Use "
    "relu6(x + 3) / 6, or accept the difference by name: hardsigmoid",
}


@functools.cache
def rounds(function):
    """Whether Paddle, here, rounds the constant of a function to float32 with float64 tensors.

    Args:
        function: a key of CONSTANTS, or F.selu.
    """
    x = np.random.default_rng(0).standard_normal((2, 4, 6))
    mine, theirs = paddle.to_tensor(x), torch.from_numpy(x)
    if function is F.selu:
        ours, exact, rounded = PF.selu(mine), _selu(theirs, 0), _selu(theirs, 1)
    else:
        _, call, value = CONSTANTS[function]
        call_reference = CALLS.get(function, function)
        ours = call(mine, value)
        exact, rounded = call_reference(theirs, value), call_reference(theirs, _float32(value))
    distances = [np.abs(ours.numpy() - each.numpy()).max() for each in (exact, rounded)]
    return bool(distances[1] < distances[0])


def _float32(value):
    return float(np.float32(value))


def _selu(x, is_rounded):
    scale, alpha = (_float32(c) if is_rounded else c for c in SELU.values())
    return scale * torch.where(x > 0, x, alpha * torch.expm1(x))


class AsPaddle(TorchFunctionMode):
    """Within, PyTorch's functions take float constants as Paddle holds them.

    Modules call functions too, so it holds for both.

    Args:
        accepted: names of ACCEPTED.
        dropout: what runs the dropout functions: a dropout.SharedDropout, or None.

    Attributes:
        lines: what was rounded, each once.
    """

    def __init__(self, accepted=(), dropout=None):
        super().__init__()
        self.accepted, self.dropout, self.lines = accepted, dropout, {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.dropout is not None and self.dropout.handles(function):
            return self.dropout.run_reference(function, args, kwargs)
        if _is_float64(args, kwargs):
            if function in CONSTANTS:
                args, kwargs = self._round(function, args, kwargs)
            elif function is F.selu and rounds(function):
                self.lines["selu: Paddle holds its two constants as float32"] = True
                return _selu(args[0] if args else kwargs["input"], True)
            elif function is F.hardsigmoid and "hardsigmoid" in self.accepted:
                self.lines[ACCEPTED["hardsigmoid"]] = True
                x = args[0] if args else kwargs["input"]
                return torch.clamp(x * _float32(0.1666667) + 0.5, 0.0, 1.0)
        return function(*args, **kwargs)

    def _round(self, function, args, kwargs):
        name = CONSTANTS[function][0]
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        value = bound.arguments.get(name)
        if not isinstance(value, float) or _float32(value) == value or not rounds(function):
            return args, kwargs
        bound.arguments[name] = _float32(value)
        text = f"{function.__name__}: Paddle holds {name} = {value:g} as float32"
        self.lines[text] = True
        return bound.args, bound.kwargs


def _is_float64(args, kwargs):
    tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor))
    first = next(tensors, None)
    return first is not None and first.dtype == torch.float64
