"""Both models in float64, where a mistake and rounding are fourteen digits apart.

In float32 a right port's logits differ from the reference's by 1e-6 to 1e-5 of their size, and so
do those of some wrong ports. In float64 a right port's differ by 1e-14, once the reference holds
the few constants that Paddle rounds to float32 in the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import paddle
import torch

from .paddle_internals import buffers_of, is_made

# Attributes that Paddle 3.3.1 keeps as float64, as measured (tests/alignment/test_verdict.py).
KEPT = (torch.nn.LeakyReLU, torch.nn.GroupNorm, torch.nn.Softplus)


def to_float64(
    paddle_model: paddle.nn.Layer, torch_model: torch.nn.Module, exact: Sequence[str] = ()
) -> list[str]:
    """Turns both models into float64, in place, and rounds the reference as Paddle rounds.

    Args:
        exact: modules of the reference that keep their constants, as the port computes them itself.

    Returns:
        Lines for the log; see `round_attributes`.
    """
    # `Layer.to` turns integers and booleans into floats too, and breaks off at what is empty.
    kept = [
        (layer, name, buffers_of(layer).pop(name))
        for layer in paddle_model.sublayers(include_self=True)
        for name, tensor in list(buffers_of(layer).items())
        if tensor is not None and not (is_made(tensor) and tensor.is_floating_point())
    ]
    paddle_model.to(dtype="float64")
    for layer, name, tensor in kept:
        buffers_of(layer)[name] = tensor
    torch_model.double()
    # Tensors that are neither parameters nor buffers.
    for layer in paddle_model.sublayers(include_self=True):
        for name, value in list(vars(layer).items()):
            is_tensor = isinstance(value, paddle.Tensor) and is_made(value)
            if is_tensor and value.dtype == paddle.float32:
                object.__setattr__(layer, name, value.astype("float64"))
    for module in torch_model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
                setattr(module, name, value.double())
    return round_attributes(torch_model, exact)


@contextlib.contextmanager
def default_float64() -> Iterator[None]:
    """Within, tensors that a model makes without a dtype are float64, in both frameworks."""
    before, before_paddle = torch.get_default_dtype(), paddle.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    paddle.set_default_dtype("float64")
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        paddle.set_default_dtype(before_paddle)


def round_attributes(torch_model: torch.nn.Module, exact: Sequence[str] = ()) -> list[str]:
    """Rounds the float attributes of a model's modules as Paddle does, in place.

    Paddle 3.3.1 stores the float attributes of nearly all operators as float32, whatever the dtype
    of the tensors: a batch norm epsilon of 1e-3 is 0.0010000000474974513. This is the one place
    where the reference is changed: each float attribute of each of its modules becomes that float32
    number, but for those of `KEPT`. What differs by more than this rounding differs as before.

    Returns:
        Lines for the log, one for each kind of attribute that was rounded.
    """
    rounded = {}
    for module in torch_model.modules():
        if isinstance(module, KEPT) or module in exact:
            continue
        is_batch_norm = isinstance(module, torch.nn.modules.batchnorm._NormBase)
        for name, value in vars(module).items():
            if type(value) is not float:
                continue
            # Paddle stores what batch norm keeps of the old statistics, PyTorch what it adds.
            as_share_kept = is_batch_norm and name == "momentum"
            new = 1 - float(np.float32(1 - value)) if as_share_kept else float(np.float32(value))
            setattr(module, name, new)
            if new != value:
                kind = f"{type(module).__name__}.{name} {value!r} -> {new!r}"
                rounded[kind] = rounded.get(kind, 0) + 1
    return [
        f"reference's {kind} in {_counted(count)}, as Paddle stores it"
        for kind, count in rounded.items()
    ]


def _counted(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"
