"""What is read of Paddle that Paddle does not promise: each under a name of its own.

Seen in paddlepaddle 3.3.1, whose public API has no way to any of it. Where another version has
moved one of these, it is here that it is looked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from paddle import nn
from paddle.amp.auto_cast import amp_global_state

if TYPE_CHECKING:
    import paddle


__all__ = [
    "BATCH_NORMS",
    "ONLY_IN_TORCH",
    "OPTIMIZER_SETTINGS",
    "RECURRENT",
    "RENAMED",
    "SETTINGS",
    "STATISTICS",
    "buffers_of",
    "flat_weight",
    "is_made",
    "only_in_paddle",
    "optimizer_accumulators",
    "optimizer_groups",
    "optimizer_values",
    "own_settings",
    "parameters_given",
    "parameters_of",
    "rnn_activation",
    "scale_in_float64",
    "scaler_works_on_cpu",
    "set_good_steps",
]

BATCH_NORMS = (nn.layer.norm._BatchNormBase, nn.BatchNorm)
RECURRENT = nn.layer.rnn.RNNBase  # LSTM, GRU, SimpleRNN
STATISTICS = ("_mean", "_variance")
# {kind of layer: {name of an entry: PyTorch's}}
RENAMED = {
    BATCH_NORMS: {"_mean": "running_mean", "_variance": "running_var"},
    nn.layer.norm._InstanceNormBase: {"scale": "weight"},
    nn.PReLU: {"_weight": "weight"},
}

# What can be read off a layer: its name here, Paddle's attribute, PyTorch's.
SETTINGS = [
    ("in_channels", "_in_channels", "in_channels"),
    ("out_channels", "_out_channels", "out_channels"),
    ("in_features", "_in_features", "in_features"),
    ("out_features", "_out_features", "out_features"),
    ("num_features", "_num_features", "num_features"),
    ("num_channels", "_num_channels", "num_channels"),
    ("normalized_shape", "_normalized_shape", "normalized_shape"),
    ("num_embeddings", "_num_embeddings", "num_embeddings"),
    ("embedding_dim", "_embedding_dim", "embedding_dim"),
    ("padding_idx", "_padding_idx", "padding_idx"),
    ("num_parameters", "_num_parameters", "num_parameters"),
    ("embed_dim", "embed_dim", "embed_dim"),
    ("num_heads", "num_heads", "num_heads"),
    ("input_size", "input_size", "input_size"),
    ("hidden_size", "hidden_size", "hidden_size"),
    ("num_layers", "num_layers", "num_layers"),
    ("proj_size", "proj_size", "proj_size"),
    ("kernel_size", "_kernel_size", "kernel_size"),
    ("kernel_size", "ksize", "kernel_size"),
    ("kernel_size", "kernel_size", "kernel_size"),
    ("kernel_size", "kernel_sizes", "kernel_size"),
    ("stride", "_stride", "stride"),
    ("stride", "stride", "stride"),
    ("stride", "strides", "stride"),
    ("padding", "_padding", "padding"),
    ("padding", "padding", "padding"),
    ("padding", "paddings", "padding"),
    ("padding_mode", "_padding_mode", "padding_mode"),
    ("output_padding", "output_padding", "output_padding"),
    ("dilation", "_dilation", "dilation"),
    ("dilation", "dilations", "dilation"),
    ("ceil_mode", "ceil_mode", "ceil_mode"),
    ("divisor_override", "divisor", "divisor_override"),
    ("groups", "_groups", "groups"),
    ("groups", "_num_groups", "num_groups"),
    ("output_size", "_output_size", "output_size"),
    ("size", "size", "size"),
    ("scale_factor", "scale_factor", "scale_factor"),
    ("upscale_factor", "_upscale_factor", "upscale_factor"),
    ("epsilon", "_epsilon", "eps"),
    ("epsilon", "_eps", "eps"),
    ("negative_slope", "_negative_slope", "negative_slope"),
    ("alpha", "_alpha", "alpha"),
    ("alpha", "alpha", "alpha"),
    ("beta", "_beta", "beta"),
    ("beta", "beta", "beta"),
    ("k", "k", "k"),
    ("threshold", "_threshold", "threshold"),
    ("threshold", "_threshold", "lambd"),
    ("min", "_min", "min_val"),
    ("max", "_max", "max_val"),
    ("axis", "_axis", "dim"),
    ("start_axis", "start_axis", "start_dim"),
    ("stop_axis", "stop_axis", "end_dim"),
    ("p", "p", "p"),
    ("reduction", "reduction", "reduction"),
    ("label_smoothing", "label_smoothing", "label_smoothing"),
    ("ignore_index", "ignore_index", "ignore_index"),
    ("step_size", "step_size", "step_size"),
    ("gamma", "gamma", "gamma"),
]


def optimizer_accumulators(
    optimizer: paddle.optimizer.Optimizer,
) -> dict[str, dict[str, paddle.Tensor]]:
    """{"velocity" | "moment1" | …: {Parameter.name: Tensor}} of what an optimizer keeps.

    `state_dict` has the same tensors under names that run both together.
    Empty before the first step.
    """
    return optimizer._accumulators


def optimizer_groups(optimizer: paddle.optimizer.Optimizer) -> list[dict[str, Any]]:
    """[{"params": [Parameter], "weight_decay": number or None, …}], as PyTorch's `param_groups`."""
    return optimizer._param_groups


@contextlib.contextmanager
def scaler_works_on_cpu() -> Iterator[None]:
    """Within, `paddle.amp.GradScaler` is made as on a GPU with float16.

    Elsewhere it takes itself out of action: it asks the tracer for its place, and the state of
    mixed precision for its dtype.
    """
    on_gpu = SimpleNamespace(_expected_place=SimpleNamespace(is_gpu_place=lambda: True))
    amp_global_state().amp_dtype = "float16"
    with mock.patch("paddle.amp.grad_scaler._dygraph_tracer", lambda: on_gpu):
        yield


def set_good_steps(scaler: paddle.amp.GradScaler, count: int) -> None:
    """Lets a GradScaler have so many steps without overflow behind it."""
    scaler._incr_count = count


def scale_in_float64(scaler: paddle.amp.GradScaler) -> None:
    """Keeps the scale of a GradScaler in float64, for gradients that are."""
    scaler._scale = scaler._scale.astype("float64")


def own_settings(layer: paddle.nn.Layer, found: Mapping[str, Any]) -> dict[str, Any]:
    """{name: value} of settings that PyTorch has under another name or in other units.

    Args:
        found: {name: value} of those of SETTINGS.
    """
    own = {}
    if isinstance(layer, BATCH_NORMS):
        own["momentum"] = layer._momentum  # the share of the old statistics that is kept
        own["frozen"] = bool(layer._use_global_stats)
    if isinstance(layer, nn.Linear):
        own["in_features"], own["out_features"] = layer.weight.shape
    if "ksize" in vars(layer) or isinstance(layer, (nn.MaxPool1D, nn.AvgPool1D)):
        own["stride"] = found.get("stride", found.get("kernel_size"))
        own["count_include_pad"] = None if (x := _first(layer, EXCLUSIVE)) is None else not x
    if isinstance(layer, nn.GELU):
        own["approximate"] = "tanh" if layer._approximate else "none"
    if isinstance(layer, nn.Embedding):
        own["padding_idx"] = "none" if layer._padding_idx in (None, -1) else layer._padding_idx
    if isinstance(layer, RECURRENT):
        own["bidirectional"] = layer.num_directions == 2
        own["batch_first"] = not layer.time_major
        own["dropout"], own["activation"] = layer.dropout, rnn_activation(layer)
    if isinstance(layer, nn.MultiHeadAttention):
        own["dropout"] = layer.dropout
    if isinstance(layer, nn.Upsample):
        own["interpolation"] = layer.mode
        own["align_corners"] = bool(layer.align_corners)
        own["scale_factor"] = layer.scale_factor
    if isinstance(layer, nn.Dropout):
        own["scaling"] = layer.mode
    if isinstance(layer, (nn.SELU, nn.Hardsigmoid)):
        own["alpha"] = None
    return own


EXCLUSIVE = ("exclusive", "_exclusive")


def _first(layer: paddle.nn.Layer, names: Iterable[str]) -> Any:
    return next((getattr(layer, name) for name in names if hasattr(layer, name)), None)


def rnn_activation(layer: paddle.nn.Layer) -> str | None:
    """Of a plain RNN: "tanh" or "relu"; None of an LSTM or GRU."""
    mode, _, name = layer.mode.partition("_")
    return name.lower() if mode == "RNN" and name else None


def parameters_of(layer: paddle.nn.Layer) -> dict[str, Any]:
    """{name: Parameter or None} of a layer itself, without those that it holds."""
    return layer._parameters


def buffers_of(layer: paddle.nn.Layer) -> dict[str, Any]:
    """{name: Tensor or None} of a layer itself; the dictionary in which it looks them up."""
    return layer._buffers


def is_made(tensor: paddle.Tensor) -> bool:
    """Whether a tensor has memory: an RNN's state of dropout has none until it is used."""
    return tensor._is_initialized()


def flat_weight(layer: paddle.nn.Layer) -> bool:
    """Whether a LayerNorm is over several axes, and so has a weight of one axis."""
    return isinstance(layer, nn.LayerNorm) and len(layer._normalized_shape) > 1


# What can be read off an optimizer: Paddle's name and attribute, PyTorch's name in a group.
OPTIMIZER_SETTINGS = [
    ("momentum", "_momentum", "momentum"),
    ("nesterov", "_use_nesterov", "nesterov"),
    ("rho", "_rho", "alpha"),
    ("beta1", "_beta1", "beta1"),
    ("beta2", "_beta2", "beta2"),
    ("epsilon", "_epsilon", "eps"),
    ("centered", "_centered", "centered"),
    ("amsgrad", "_amsgrad", "amsgrad"),
]
# What only one side's optimizers have: the name, Paddle's attribute, the value without effect.
ONLY_IN_TORCH = ("dampening", "maximize", "centered", "amsgrad")
ONLY_IN_PADDLE = [
    ("rescale_grad", "_rescale_grad", 1.0),
    ("lr_ratio", "_lr_ratio", None),
    ("apply_decay_param_fun", "_apply_decay_param_fun", None),
    ("lazy_mode", "_lazy_mode", False),
]


def optimizer_values(optimizer: paddle.optimizer.Optimizer) -> dict[str, Any]:
    """{Paddle's name: value or None} of OPTIMIZER_SETTINGS, and "weight_decay", "clipping".

    A weight decay of groups is no one value: it is left out.
    """
    found = {name: getattr(optimizer, attribute, None) for name, attribute, _ in OPTIMIZER_SETTINGS}
    if not any(isinstance(item, dict) for item in optimizer._parameter_list):
        is_l2 = getattr(optimizer, "_regularization_method", "") == "l2_decay"
        decay = optimizer._regularization_coeff if is_l2 else 0
        found["weight_decay"] = getattr(optimizer, "_weight_decay", None) or decay  # AdamW's
    found["clipping"] = getattr(optimizer, "_grad_clip", None)
    return found


def only_in_paddle(optimizer: paddle.optimizer.Optimizer) -> dict[str, Any]:
    """{name: value} of what an optimizer is set to and PyTorch's have no counterpart of."""
    found = {}
    for name, attribute, neutral in ONLY_IN_PADDLE:
        value = getattr(optimizer, attribute, neutral)
        if value != neutral:
            found[name] = getattr(value, "__name__", value)
    return found


def parameters_given(optimizer: paddle.optimizer.Optimizer) -> list[Any]:
    """[Parameter] that an optimizer was given, in groups or not."""
    found = []
    for item in optimizer._parameter_list:
        found += item["params"] if isinstance(item, dict) else [item]
    return found
