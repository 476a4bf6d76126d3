"""What can be read off a layer, in the same terms for both frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import paddle
import torch

from .paddle_internals import RECURRENT, SETTINGS, own_settings, rnn_activation

if TYPE_CHECKING:
    Layer: TypeAlias = paddle.nn.Layer | torch.nn.Module

__all__ = [
    "Setting",
    "different_settings",
    "is_container",
    "is_of_framework",
    "is_one",
    "kind",
    "settings",
]

# Kinds of layers that have another name in Paddle: PyTorch's.
KINDS = {
    "conv1dtranspose": "convtranspose1d",
    "conv2dtranspose": "convtranspose2d",
    "conv3dtranspose": "convtranspose3d",
    "simplernn": "rnn",
    "simplernncell": "rnncell",
    "swish": "silu",
    "pad2d": "zeropad2d",
    "thresholdedrelu": "threshold",
    "nondynamicallyquantizablelinear": "linear",
}


def kind(layer: Layer) -> str:
    """The framework's own class behind a layer, in lower case: conv2d, batchnorm2d, …

    A class of the user's own that is built on none of these keeps its name.
    """
    for cls in type(layer).__mro__:
        if cls in (paddle.nn.Layer, torch.nn.Module):
            break
        if cls.__module__.startswith(("paddle.nn.layer", "torch.nn.modules")):
            name = cls.__name__.lower()
            return KINDS.get(name, name)
    return type(layer).__name__.lower()


def is_of_framework(layer: Layer) -> bool:
    """Whether a layer is one of Paddle's or PyTorch's own, or built on one."""
    for cls in type(layer).__mro__:
        if cls in (paddle.nn.Layer, torch.nn.Module):
            return False
        if cls.__module__.startswith(("paddle.nn.layer", "torch.nn.modules")):
            return True
    return False


def is_container(layer: Layer) -> bool:
    return next(iter(layer.children()), None) is not None


def settings(layer: Layer) -> dict[str, Any]:
    """{name: value} of what can be read off a layer, in the same terms for both frameworks."""
    is_paddle = isinstance(layer, paddle.nn.Layer)
    found = {}
    if hasattr(layer, "children") and is_container(layer) and not is_one(layer):
        return found
    for name, paddle_name, torch_name in SETTINGS:
        value = getattr(layer, paddle_name if is_paddle else torch_name, None)
        if value is not None and name not in found and not callable(value):
            found[name] = _plain(value)
    found.update(own_settings(layer, found) if is_paddle else _torch_settings(layer, found))
    if "scale_factor" in found:
        found["scale_factor"] = _as_floats(found["scale_factor"])
    for name, value in list(found.items()):
        if value is None:
            del found[name]
    if hasattr(layer, "bias") and not isinstance(layer, torch.nn.modules.rnn.RNNBase):
        found["bias"] = layer.bias is not None and layer.bias is not False
    return found


def is_one(layer: Layer) -> bool:
    """Whether a layer that holds others is one to its user."""
    return isinstance(
        layer,
        (
            paddle.nn.MultiHeadAttention,
            RECURRENT,
            torch.nn.MultiheadAttention,
            torch.nn.RNNBase,
        ),
    )


def _as_floats(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return _plain([float(each) for each in value])
    return None if value is None else float(value)


def _torch_settings(layer: torch.nn.Module, found: dict[str, Any]) -> dict[str, Any]:
    """The same of a layer of PyTorch."""
    nn, own = torch.nn, {}
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        # None is PyTorch's cumulative average.
        is_batch_norm = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        own["momentum"] = (
            None if layer.momentum is None or not is_batch_norm else (1 - layer.momentum)
        )
        own["frozen"] = False if is_batch_norm else None
    if isinstance(layer, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)):
        own["count_include_pad"] = layer.count_include_pad
    if isinstance(layer, nn.GELU):
        own["approximate"] = layer.approximate
    if isinstance(layer, nn.Embedding):
        own["padding_idx"] = "none" if layer.padding_idx is None else layer.padding_idx
    if isinstance(layer, nn.RNNBase):
        own["bidirectional"], own["batch_first"] = layer.bidirectional, layer.batch_first
        own["dropout"], own["activation"] = layer.dropout, rnn_activation(layer)
    if isinstance(layer, nn.MultiheadAttention):
        own["dropout"] = layer.dropout
    if isinstance(layer, nn.Upsample):
        own["interpolation"] = layer.mode
        own["align_corners"] = bool(layer.align_corners)
        own["scale_factor"] = layer.scale_factor
    if isinstance(layer, nn.Dropout):
        own["scaling"] = "upscale_in_train"
    return own


def _plain(value: Any) -> Any:
    """Numbers and tuples that compare equal where they mean the same: (3, 3) and 3."""
    if isinstance(value, (list, tuple)):
        value = tuple(value)
        return value[0] if value and all(each == value[0] for each in value) else value
    return value


class Setting(NamedTuple):
    """A setting that differs between two layers, its values in words."""

    name: str
    port: str
    reference: str

    def __str__(self) -> str:
        return f"{self.name} {self.port} | {self.reference}"


def different_settings(port: Layer, reference: Layer) -> list[Setting]:
    """[Setting]: what can be read off two layers (or losses, schedulers) and differs."""
    a, b = settings(port), settings(reference)
    found = []
    are_leaves = all(
        hasattr(x, "children") and (is_one(x) or not is_container(x)) for x in (port, reference)
    )
    if are_leaves and kind(port) != kind(reference):
        found.append(Setting("type", type(port).__name__, type(reference).__name__))
    for name in a:
        if name not in b:
            continue
        x, y = a[name], b[name]
        both_numbers = all(isinstance(v, float) for v in (x, y))
        if name == "axis" and all(isinstance(v, int) for v in (x, y)) and (x < 0) != (y < 0):
            continue  # which is the same depends on what comes in
        same = abs(x - y) <= 1e-6 * abs(y) if both_numbers else x == y
        if not same:
            shown = (f"{v:.6g}" if isinstance(v, float) else str(v) for v in (x, y))
            found.append(Setting(name, *shown))
    if isinstance(port, paddle.nn.Layer) and isinstance(reference, torch.nn.Module):
        found += _different_states(port, reference)
    return found


def _different_states(port: Layer, reference: Layer) -> list[Setting]:
    """What two layers were left in: train or eval mode, which of their parameters are frozen."""
    found = []
    if port.training != reference.training:
        modes = ("train" if layer.training else "eval" for layer in (port, reference))
        found.append(Setting("mode", *modes))
    trained = dict(reference.named_parameters(recurse=False))
    for name, parameter in port.named_parameters(include_sublayers=False):
        other = trained.get(name)
        if other is not None and parameter.stop_gradient == other.requires_grad:
            mine = f"stop_gradient={parameter.stop_gradient}"
            found.append(Setting(name, mine, f"requires_grad={other.requires_grad}"))
    return found
