"""Dropout with the same masks on both sides: the port samples them, its rate and scaling compared.

In one of two ways. `SharedDropout` is for one pass of any model: it takes dropout of every form,
layers, functions, attention, and the reference's call of a number uses the mask of the port's call
of that number. `share_dropout` is for a whole training: it takes dropout layers, pairs them by name
and stays in the models. So it knows which layer was left out, where calls can only be counted, and
several references can use the masks of one port.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import torch
from torch.nn import functional as F

from .layers import match
from .paddle_internals import RECURRENT
from .patching import replaced

if TYPE_CHECKING:
    from .settings import Layer


__all__ = [
    "SharedDropout",
    "check_dropout",
    "check_masks",
    "share_dropout",
    "without_inner_dropout",
]

IN_PORT = ("dropout", "alpha_dropout", "feature_alpha_dropout")
# Those of PyTorch: whether they drop whole channels.
IN_REFERENCE = {
    F.dropout: False,
    F.dropout1d: True,
    F.dropout2d: True,
    F.dropout3d: True,
    F.alpha_dropout: False,
    F.feature_alpha_dropout: True,
    torch.dropout: False,
}
# PyTorch's own: while they are replaced, the modules hold others.
ALPHA_DROPOUTS = (F.alpha_dropout, F.feature_alpha_dropout)
TORCH_DROPOUT, ATTENTION = torch.dropout, F.scaled_dot_product_attention
ALPHA = -1.0507009873554805 * 1.6732632423543772  # what SELU saturates at
SIGMAS = 5.0  # of a binomial distribution: a right port is called wrong once in 1.7 million


@dataclass
class Call:
    """One call of dropout in the port.

    Attributes:
        where: the layer that calls it; "" for the model itself.
        kept: (shape of the input) bool.
        scale: what is kept was multiplied by.
        kept_plus: what was added to what is kept, 0 but for alpha dropout.
        dropped: what stands for what is dropped, 0 but for alpha dropout.
    """

    where: str
    kept: np.ndarray
    scale: float
    kept_plus: float
    dropped: float


@dataclass
class DropoutCheck:
    """What was compared of one call: in which layer, in words, and whether it agrees."""

    where: str
    text: str
    agrees: bool


class _Inside:
    """Which layer of a model is being run, while `of` is entered."""

    def __init__(self) -> None:
        self.stack = [""]

    @property
    def name(self) -> str:
        return self.stack[-1]

    @contextlib.contextmanager
    def of(self, model: Layer) -> Iterator[None]:
        is_paddle = isinstance(model, paddle.nn.Layer)
        layers = model.named_sublayers() if is_paddle else model.named_modules()
        hooks = []
        for name, layer in layers:
            if not name:
                continue
            after = layer.register_forward_post_hook if is_paddle else layer.register_forward_hook
            before = layer.register_forward_pre_hook
            hooks.append(before(lambda *_, name=name: self.stack.append(name)))
            hooks.append(after(lambda *_: self.stack.pop() and None))
        self.stack = [""]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class SharedDropout:
    """Runs both sides' dropout; the port first.

    Attributes:
        checks: [DropoutCheck] of rates, scalings and the number of calls.
    """

    def __init__(self) -> None:
        self.calls, self.next, self.checks = [], 0, []
        self.inside, self.missed = _Inside(), ""

    @contextlib.contextmanager
    def of_port(self, model: paddle.nn.Layer) -> Iterator[None]:
        """Within, the port's calls of dropout are recorded; what was recorded before is gone."""
        self.calls, self.next = [], 0
        functional = paddle.nn.functional
        originals = {name: getattr(functional, name) for name in IN_PORT}
        inside = []  # one that calls another is one call

        def patched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
            def dropout(x: paddle.Tensor, p: Any = 0.5, *args: Any, **kwargs: Any) -> paddle.Tensor:
                if inside:
                    return original(x, p, *args, **kwargs)
                inside.append(name)
                try:
                    return self._run_port(original, x, p, args, kwargs)
                finally:
                    inside.clear()

            return dropout

        functions = {original: patched(n, original) for n, original in originals.items()}
        with replaced(functions), self.inside.of(model):
            yield

    def _run_port(
        self,
        original: Callable[..., Any],
        x: paddle.Tensor,
        p: float,
        args: tuple,
        kwargs: dict[str, Any],
    ) -> paddle.Tensor:
        with paddle.no_grad():
            state = paddle.get_rng_state()
            ones = original(paddle.ones_like(x), p, *args, **kwargs)
            after = paddle.get_rng_state()
            paddle.set_rng_state(state)
            # Dropout is affine in what comes in; this is what it gives for zeros.
            zeros = original(paddle.zeros_like(x), p, *args, **kwargs)
            paddle.set_rng_state(after)
            factor = ones - zeros
        mask, added = factor.numpy(), zeros.numpy()
        kept = mask != 0
        # In eval mode, or with a rate of 0.
        if kept.all() and np.ptp(mask) == 0 and mask.flat[0] == 1 and not added.any():
            return original(x, p, *args, **kwargs)
        call = Call(
            self.inside.name,
            kept,
            float(np.median(mask[kept])) if kept.any() else 0.0,
            float(np.median(added[kept])) if kept.any() else 0.0,
            float(np.median(added[~kept])) if not kept.all() else 0.0,
        )
        self.calls.append(call)
        return x * factor + zeros

    @contextlib.contextmanager
    def of_reference(self, model: torch.nn.Module) -> Iterator[None]:
        """Within, the reference's calls take the port's masks; the number of calls is compared."""
        self.next = 0
        with self.inside.of(model):
            yield
        if self.next != len(self.calls):
            first = min(self.next, len(self.calls))
            where = self.calls[first].where if self.next < len(self.calls) else self.missed
            text = f"called {len(self.calls)} times | {self.next} times"
            self.checks.append(DropoutCheck(where, text, False))

    def reference_functions(self) -> dict[Callable, Callable]:
        """{function of PyTorch: its replacement}"""
        functions = {f: functools.partial(self._run_reference, f) for f in IN_REFERENCE}
        return {**functions, ATTENTION: functools.partial(self._run_attention, ATTENTION)}

    def _run_reference(
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        names = ("input", "p", "train") if function is TORCH_DROPOUT else ("input", "p", "training")
        given = dict(zip(names, args)) | {k: v for k, v in kwargs.items() if k in names}
        x, rate = given["input"], given.get("p", 0.5)
        trains = given.get(names[2], function not in ALPHA_DROPOUTS)
        if not trains or rate == 0:
            return x
        is_alpha = function in ALPHA_DROPOUTS
        call, kept = self._next(x, rate, is_alpha, IN_REFERENCE[function])
        return x if call is None else _apply(call, kept, x)

    def _next(
        self, x: torch.Tensor, rate: float, is_alpha: bool = False, channels: bool = False
    ) -> tuple[Call | None, torch.Tensor | None]:
        """(the port's call of this number, its mask in the shape of x), or (None, None).

        Notes whether the port's call is what the reference's is.
        """
        number = self.next
        self.next += 1
        if number >= len(self.calls):
            if number == len(self.calls):
                self.missed = self.inside.name
            return None, None
        call = self.calls[number]
        kept = call.kept

        def note(text: str, agrees: bool) -> None:
            self.checks.append(DropoutCheck(call.where, text, agrees))

        if kept.size != x.numel():
            note(f"shape {kept.shape} | {tuple(x.shape)}", False)
            return None, None
        if kept.shape != tuple(x.shape) and kept.ndim == x.dim():
            moved = np.moveaxis(kept, -1, 1)
            kept = moved if moved.shape == tuple(x.shape) else kept
        kept = np.asarray(kept, order="C").reshape(tuple(x.shape))
        sampled, is_whole = _granularity(kept)
        share = 1 - kept.mean()
        note(f"drops {share:.3f} | {rate:.3g}", _rate_agrees(share, rate, sampled))
        if is_whole is not None:
            size = kept.size // sampled
            by_chance = (rate**size + (1 - rate) ** size) ** sampled
            if is_whole != channels and (channels or by_chance < 1e-6):
                kinds = ["whole channels", "single values"]
                note("drops " + " | ".join(kinds[::-1] if channels else kinds), False)
        for what, mine, theirs in zip(
            ("scales by", "adds", "puts"),
            (call.scale, call.kept_plus, call.dropped),
            _affine(rate, is_alpha),
        ):
            if 0 < rate < 1:
                note(f"{what} {mine:.6g} | {theirs:.6g}", _constant_agrees(mine, theirs))
        return call, torch.from_numpy(kept).to(x.device)

    def _run_attention(
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args)) | kwargs
        rate = given.get("dropout_p", 0.0)
        if not rate:
            return function(*args, **kwargs)
        query, key, value = given["query"], given["key"], given["value"]
        if given.get("enable_gqa"):
            repeats = query.shape[-3] // key.shape[-3]
            key, value = (x.repeat_interleave(repeats, -3) for x in (key, value))
        scale = given.get("scale") or 1 / math.sqrt(query.shape[-1])
        scores = query @ key.transpose(-2, -1) * scale
        mask = given.get("attn_mask")
        if given.get("is_causal"):
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None:
            scores = (
                scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
            )
        weights = torch.softmax(scores, -1)
        call, kept = self._next(weights, rate)
        if call is not None:
            weights = _apply(call, kept, weights)
        return weights @ value


def _rate_agrees(share: float, rate: float, sampled: int) -> bool:
    """Whether so many values, of which a share was dropped, can have been sampled with a rate."""
    sigma = math.sqrt(rate * (1 - rate) / sampled)
    return abs(share - rate) <= SIGMAS * sigma + 1e-12


def _constant_agrees(mine: float, theirs: float) -> bool:
    return abs(mine - theirs) <= 1e-6 * max(1, abs(theirs))


def _affine(rate: float, is_alpha: bool) -> tuple[float, float, float]:
    """(factor of what is kept, what is added to it, what stands for what is dropped)"""
    if not is_alpha:
        return 1 / (1 - rate) if rate < 1 else 0.0, 0.0, 0.0
    a = ((1 - rate) * (1 + rate * ALPHA**2)) ** -0.5 if rate < 1 else 0.0
    b = -a * rate * ALPHA
    return a, b, a * ALPHA + b


def _apply(call: Call, kept: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """With the port's own numbers, which it rounds to float32: they were compared."""
    return torch.where(kept, x * call.scale + call.kept_plus, torch.full_like(x, call.dropped))


def _granularity(kept: np.ndarray) -> tuple[int, bool | None]:
    """(how many values were sampled, whether for whole channels) of a mask (N, C, ...).

    None in place of the second where a channel has one value, and nothing can be told.
    """
    if kept.ndim > 2:
        flat = kept.reshape(*kept.shape[:2], -1)
        if flat.shape[-1] == 1:
            return kept.size, None
        if (flat.all(-1) | ~flat.any(-1)).all():
            return flat.shape[0] * flat.shape[1], True
        return kept.size, False
    return kept.size, None


@contextlib.contextmanager
def without_inner_dropout(
    port_model: paddle.nn.Layer, reference_model: torch.nn.Module
) -> Iterator[list[str]]:
    """Within, recurrent layers have no dropout between theirs: their masks cannot be seen.

    Yields:
        lines on what is not compared for that.
    """
    found, lines = [], []
    for layer in port_model.sublayers(include_self=True):
        if isinstance(layer, RECURRENT) and layer.dropout:
            found.append((layer, layer.dropout))
    for layer in reference_model.modules():
        if isinstance(layer, torch.nn.RNNBase) and layer.dropout:
            found.append((layer, layer.dropout))
    if found:
        lines.append(
            "dropout between the layers of LSTM, GRU or RNN: switched off on both sides, as its "
            "masks cannot be shared (its rate is compared)"
        )
    for layer, _ in found:
        layer.dropout = 0.0
    try:
        yield lines
    finally:
        for layer, rate in found:
            layer.dropout = rate


def share_dropout(port_model: paddle.nn.Layer, reference_model: torch.nn.Module) -> dict[str, Any]:
    """Makes each Dropout of the reference use the mask that the port's has drawn.

    Returns:
        {name: (PyTorch module, {"shape" of the input, "factor" by which each value was multiplied};
        empty until the port's layer is called)}
    """
    port = {
        name: layer
        for name, layer in port_model.named_sublayers()
        if isinstance(layer, paddle.nn.Dropout)
    }
    reference = {
        name: module
        for name, module in reference_model.named_modules()
        if isinstance(module, torch.nn.Dropout)
    }
    pairs = {other: name for name, other in match(port, reference).items()}
    shared = {}
    for other, module in reference.items():
        seen = {}
        if other in pairs:
            _see_masks(port[pairs[other]], seen)

        def forward(x: torch.Tensor, module: Any = module, seen: Any = seen) -> torch.Tensor:
            if not module.training or "factor" not in seen or seen["factor"].shape != x.shape:
                return x
            mask = torch.from_numpy(seen["factor"] != 0).to(x)
            # Paddle subtracts in float32.
            return x * mask / float(np.float32(1) - np.float32(module.p))

        module.forward = forward
        shared[other] = module, seen
    return shared


def _see_masks(layer: paddle.nn.Layer, seen: dict[str, Any]) -> None:
    """Has a Dropout of the port note by what it multiplies, seen on ones: what goes in may be 0."""
    original = layer.forward

    def forward(x: paddle.Tensor) -> paddle.Tensor:
        with paddle.no_grad():
            factor = original(paddle.ones_like(x))
        seen["shape"], seen["factor"] = tuple(x.shape), factor.numpy()
        return x * factor if factor.shape == x.shape else original(x)

    layer.forward = forward


def check_dropout(shared: Mapping[str, Any]) -> list[tuple[str, float]]:
    """[(what, 0 or inf)]: whether rate and scaling of each dropout are the reference's.

    The share of zeros has to be its p to 5 sigma, what is kept has to be scaled by 1 / (1 - p).
    """
    found = []

    def note(text: str, agrees: bool) -> None:
        found.append((text, 0.0 if agrees else np.inf))

    for name, (module, seen) in shared.items():
        if "factor" not in seen:
            note(f"{name}: the port has none, or does not call it", False)
            continue
        factor, rate = seen["factor"], module.p
        if seen["shape"] != factor.shape:
            note(f"{name}: takes shape {seen['shape']} and gives {factor.shape}", False)
            continue
        kept = factor != 0
        share = 1 - kept.mean()
        note(f"{name}: drops {share:.3f} | {rate:.3g}", _rate_agrees(share, rate, kept.size))
        scale, scale_ref = float(np.median(factor[kept])) if kept.any() else 0.0, 1 / (1 - rate)
        agrees = _constant_agrees(scale, scale_ref)
        note(f"{name}: scales by {scale:.6g} | {scale_ref:.6g}", agrees)
    return found


def check_masks(shared: Mapping[str, Any], earlier: Any) -> list[tuple[str, float]]:
    """[(what, 0 or inf)]: whether the mask of a step's first image is drawn for it alone.

    Args:
        shared: of `share_dropout`.
        earlier: {name: [what is kept]} of the steps before; this step's is added.
    """
    found = []
    for name, (module, seen) in shared.items():
        if "factor" not in seen or seen["shape"] != seen["factor"].shape:
            continue  # check_dropout says so
        first, *others = (factor != 0 for factor in seen["factor"])
        before = earlier.setdefault(name, [])
        for what, masks in (("another image's", others), ("an earlier step's", before)):
            same = any(_same_mask(first, mask, module.p) for mask in masks)
            text = f"{name}: an image's mask is {what}" if same else f"{name}: not {what} mask"
            found.append((text, np.inf if same else 0.0))
        before.append(first)
    return found


def _same_mask(one: np.ndarray, other: np.ndarray, rate: float) -> bool:
    """Whether two masks agree, and not by chance."""
    if one.shape != other.shape:
        return False
    chance = (rate**2 + (1 - rate) ** 2) ** one.size
    return chance < 1e-9 and np.array_equal(one, other)
