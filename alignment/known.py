"""Known differences of the two frameworks that are no mistake of a port.

Two kinds. Where Paddle rounds a constant to float32 whatever the dtype of the tensors, nobody can
port otherwise: the reference is run with the same rounded constant (`AsPaddle`), and the report
says so. Whether Paddle does so here is measured on the machine, once for each function. What has a
cure (`CURES`) is a difference like any other, with the cure as its hint.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import torch
from paddle.nn import functional as PF
from torch.nn import functional as F

from .patching import replaced

if TYPE_CHECKING:
    from .dropout import SharedDropout


__all__ = ["ACCEPTED", "CURES", "AsPaddle", "rounds"]

# PyTorch's own, as they are when this is imported: within `AsPaddle.running`, F's are others.
T: Any = SimpleNamespace(
    **{
        name: getattr(F, name)
        for name in (
            "celu",
            "elu",
            "group_norm",
            "hardshrink",
            "hardsigmoid",
            "hardtanh",
            "instance_norm",
            "interpolate",
            "layer_norm",
            "leaky_relu",
            "selu",
            "softplus",
            "softshrink",
        )
    },
    torch_selu=torch.selu,
)


class Constant:
    """A float argument of a function, that Paddle may hold as float32.

    Attributes:
        name, position, default: of PyTorch's argument.
        ours, theirs: functions (x, constant) of Paddle and of PyTorch.
        value: for the measurement; float32 does not hold it exactly.
    """

    def __init__(
        self,
        name: str,
        position: int,
        default: float,
        ours: Callable[..., Any],
        theirs: Callable[..., Any],
        value: float,
    ) -> None:
        self.name, self.position, self.default = name, position, default
        self.ours, self.theirs, self.value = ours, theirs, value


CONSTANTS = {
    T.layer_norm: Constant(
        "eps", 4, 1e-5,
        lambda x, c: PF.layer_norm(x, x.shape[-1:], epsilon=c),
        lambda x, c: T.layer_norm(x, x.shape[-1:], eps=c), 1e-4,
    ),
    T.group_norm: Constant(
        "eps", 4, 1e-5,
        lambda x, c: PF.group_norm(x, 2, c), lambda x, c: T.group_norm(x, 2, eps=c), 1e-4,
    ),
    T.instance_norm: Constant(
        "eps", 7, 1e-5,
        lambda x, c: PF.instance_norm(x, eps=c), lambda x, c: T.instance_norm(x, eps=c), 1e-4,
    ),
    T.elu: Constant("alpha", 1, 1.0, PF.elu, T.elu, 0.3),
    T.celu: Constant("alpha", 1, 1.0, PF.celu, T.celu, 0.3),
    T.leaky_relu: Constant("negative_slope", 1, 0.01, PF.leaky_relu, T.leaky_relu, 0.3),
    T.softshrink: Constant("lambd", 1, 0.5, PF.softshrink, T.softshrink, 0.3),
    T.hardshrink: Constant("lambd", 1, 0.5, PF.hardshrink, T.hardshrink, 0.3),
    T.softplus: Constant("beta", 1, 1.0, PF.softplus, T.softplus, 0.3),
    T.hardtanh: Constant(
        "max_val", 2, 1.0,
        lambda x, c: PF.hardtanh(x, -1.0, c), lambda x, c: T.hardtanh(x, -1.0, c), 0.3,
    ),
}  # fmt: skip
SELU = {"scale": 1.0507009873554805, "alpha": 1.6732632423543772}
LINEAR = ("linear", "bilinear", "trilinear")
CUBIC = -0.75  # both frameworks' coefficient of bicubic interpolation

# Differences that someone may accept by name; each is then allowed for in the reference.
ACCEPTED = {
    "biased_variance": "Paddle's batch norm updates running_var with the biased variance of the "
    "batch (divided by n), PyTorch's with the unbiased one (by n - 1)",
    "hardsigmoid": "Paddle's hardsigmoid multiplies by 0.1666667, PyTorch's divides by 6",
}
# What to do: for kinds of layers that differ though their settings agree, and for ACCEPTED.
CURES = {
    "hardsigmoid": "Paddle's hardsigmoid multiplies by 0.1666667, PyTorch's divides by 6. Use "
    "relu6(x + 3) / 6, or let it pass: --accept hardsigmoid",
    "biased_variance": "Paddle's batch norm updates the running variance with the biased variance "
    "of the batch (divided by n), PyTorch's with the unbiased one (by n - 1). Use a batch norm "
    "that corrects it by n / (n - 1), as paddle_mv3/norm.py, or let it pass: "
    "--accept biased_variance",
}


@functools.cache
def rounds(function: Callable[..., Any]) -> bool:
    """Whether Paddle, here, computes with float32 constants where the tensors are float64.

    Args:
        function: a key of CONSTANTS, T.selu or T.interpolate.
    """
    x = np.random.default_rng(0).standard_normal((2, 4, 6))
    if function is T.interpolate:
        x = x[:, :, None]
    mine, theirs = paddle.to_tensor(x), torch.from_numpy(x)
    if function is T.selu:
        ours, exact, rounded = PF.selu(mine), _selu(theirs, False), _selu(theirs, True)
    elif function is T.interpolate:
        given: dict[str, Any] = {"size": (1, 13), "mode": "bilinear", "align_corners": True}
        ours, exact = PF.interpolate(mine, **given), T.interpolate(theirs, **given)
        rounded = _interpolate(theirs, (1, 13), True, _linear)
    else:
        constant = CONSTANTS[function]
        ours = constant.ours(mine, constant.value)
        exact, rounded = (constant.theirs(theirs, c) for c in _both(constant.value))
    distances = [np.abs(ours.numpy() - each.numpy()).max() for each in (exact, rounded)]
    return bool(distances[1] < distances[0])


def _both(value: float) -> tuple[float, float]:
    return value, float(np.float32(value))


def _selu(x: torch.Tensor, is_rounded: bool) -> torch.Tensor:
    scale, alpha = (_both(c)[is_rounded] for c in SELU.values())
    return scale * torch.where(x > 0, x, alpha * torch.expm1(x))


def _interpolate(
    x: torch.Tensor,
    size: Sequence[int],
    align_corners: bool,
    weigh: Callable[[np.ndarray], list[tuple[Any, Any]]],
) -> torch.Tensor:
    """Interpolation whose positions and weights are float32; x (N, C, *spatial).

    Args:
        weigh: function (position) -> [(indices, weights)] along an axis.
    """
    for axis, new in enumerate(size, start=2):
        old = x.shape[axis]
        # Of cubic interpolation Paddle computes positions in the tensor's dtype.
        positions: Any = np.arange(new, dtype=np.float64 if weigh is _cubic else np.float32)
        if align_corners:
            ratio = np.float32((old - 1) / (new - 1)) if new > 1 else np.float32(0)
            positions = ratio.astype(positions.dtype) * positions
        else:
            half = positions.dtype.type(0.5)
            ratio = np.float32(old / new).astype(positions.dtype)
            positions = ratio * (positions + half) - half
        shape = [-1 if i == axis else 1 for i in range(x.dim())]
        total = 0
        for indices, weights in weigh(positions):
            at = torch.from_numpy(np.clip(indices, 0, old - 1)).to(x.device)
            weight = torch.from_numpy(weights.astype(np.float64)).to(x).reshape(shape)
            total = total + x.index_select(axis, at) * weight
        x = total
    return x


def _linear(positions: np.ndarray) -> list[tuple[Any, Any]]:
    positions = np.maximum(positions, np.float32(0))
    low = np.floor(positions).astype(np.int64)
    weight = positions - low.astype(np.float32)
    return [(low, np.float32(1) - weight), (low + 1, weight)]


def _cubic(positions: np.ndarray) -> list[tuple[Any, Any]]:
    """Keys, "Cubic convolution interpolation", 1981, with CUBIC in place of -1/2."""
    low = np.floor(positions).astype(np.int64)
    t = positions - low

    def near(d: np.ndarray) -> np.ndarray:
        return ((CUBIC + 2) * d - (CUBIC + 3)) * d * d + 1

    def far(d: np.ndarray) -> np.ndarray:
        return ((CUBIC * d - 5 * CUBIC) * d + 8 * CUBIC) * d - 4 * CUBIC

    return [
        (low - 1, far(t + 1)),
        (low, near(t)),
        (low + 1, near(1 - t)),
        (low + 2, far(2 - t)),
    ]


class AsPaddle:
    """Runs PyTorch's functions with the constants that Paddle holds; modules call functions, too.

    Args:
        accepted: names of ACCEPTED.
        dropout: what runs the dropout functions: a dropout.SharedDropout, or None.
        exact: modules in which constants stay as they are.

    Attributes:
        lines: what was rounded, each once.
        cures: names of CURES that functions were called of.
    """

    def __init__(
        self,
        accepted: Collection[str] = (),
        dropout: SharedDropout | None = None,
        exact: Collection[str] = (),
    ) -> None:
        self.accepted, self.dropout, self.lines, self.cures = accepted, dropout, {}, set()
        self.exact, self.running_now = exact, []

    @contextlib.contextmanager
    def running(self, model: torch.nn.Module) -> Iterator[None]:
        """Within, PyTorch's functions are these, for `model`."""
        functions: dict[Callable, Callable] = {
            f: functools.partial(self._rounded, f) for f in CONSTANTS
        }
        functions |= {
            function: functools.partial(run, function)
            for function, run in (
                (T.selu, self._run_selu),
                (T.torch_selu, self._run_selu),
                (T.hardsigmoid, self._run_hardsigmoid),
                (T.interpolate, self._run_interpolate),
            )
        }
        if self.dropout is not None:
            functions |= self.dropout.reference_functions()
        hooks = []
        for module in model.modules():
            if module in self.exact:
                hooks.append(module.register_forward_pre_hook(self._enter))
                hooks.append(module.register_forward_hook(self._leave))
        try:
            with replaced(functions):
                yield
        finally:
            self.running_now.clear()
            for hook in hooks:
                hook.remove()

    def _enter(self, module: torch.nn.Module, args: Any) -> None:
        self.running_now.append(module)

    def _leave(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        self.running_now.pop()

    def _rounded(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        constant = CONSTANTS[function]
        if self.running_now or not _is_float64(args, kwargs):
            return function(*args, **kwargs)
        is_positional = len(args) > constant.position
        value = kwargs.get(constant.name, constant.default)
        value = args[constant.position] if is_positional else value
        if isinstance(value, float) and _both(value)[1] != value and rounds(function):
            if is_positional:
                args = (*args[: constant.position], _both(value)[1], *args[constant.position + 1 :])
            else:
                kwargs = {**kwargs, constant.name: _both(value)[1]}
            name = getattr(function, "__name__", str(function))
            self.lines[f"{name}: Paddle holds {constant.name} = {value:g} as float32"] = True
        return function(*args, **kwargs)

    def _run_selu(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.running_now or not (_is_float64(args, kwargs) and rounds(T.selu)):
            return function(*args, **kwargs)
        self.lines["selu: Paddle holds its two constants as float32"] = True
        return _selu(args[0] if args else kwargs["input"], True)

    def _run_hardsigmoid(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not _is_float64(args, kwargs):
            return function(*args, **kwargs)
        self.cures.add("hardsigmoid")
        if "hardsigmoid" not in self.accepted:
            return function(*args, **kwargs)
        self.lines[ACCEPTED["hardsigmoid"]] = True
        x = args[0] if args else kwargs["input"]
        return torch.clamp(x * _both(0.1666667)[1] + 0.5, 0.0, 1.0)

    def _run_interpolate(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        names = ("input", "size", "scale_factor", "mode", "align_corners")
        given = dict(zip(names, args)) | kwargs
        expected = function(*args, **kwargs)
        mode, x = given.get("mode", "nearest"), given["input"]
        plain = not given.get("antialias") and not given.get("recompute_scale_factor")
        weigh = _cubic if mode == "bicubic" else _linear if mode in LINEAR else None
        if weigh is None or not plain or not _is_float64(args, kwargs):
            return expected
        aligned = bool(given.get("align_corners"))
        rounded = _interpolate(x, tuple(expected.shape[2:]), aligned, weigh)
        differs = (rounded - expected).abs().max() > 1e-13 * expected.abs().max()
        if differs and rounds(function):
            self.lines["interpolate: Paddle's positions and weights are float32"] = True
            return rounded
        return expected


def _is_float64(args: tuple, kwargs: Mapping[str, Any]) -> bool:
    tensors = (x for x in itertools.chain(args, kwargs.values()) if isinstance(x, torch.Tensor))
    first = next(tensors, None)
    return first is not None and first.dtype == torch.float64
