"""How small a mistake in a tensor would have been seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

__all__ = ["Power", "Smallest", "forward_power"]

WEAKEST = 3  # tensors that are named on the screen; all are in the log
STATISTICS = "running_mean", "running_var"


@dataclass
class Power:
    """What a comparison of outputs would have seen.

    Attributes:
        changes: {tensor of the reference: smallest relative change of its values, each by its own
            random sign, that would have been called wrong}; infinite where none would.
        unknown: [tensor] of which that cannot be told.
        why: what is said of a tensor of which no change would be seen.
    """

    changes: dict
    unknown: list = field(default_factory=list)
    why: str = "without effect on what was compared"

    @property
    def unseen(self) -> list[str]:
        """[tensor] whose values have no effect on what was compared."""
        return [name for name, change in self.changes.items() if not np.isfinite(change)]

    def line(self) -> str:
        """In one line."""
        seen = {name: change for name, change in self.changes.items() if np.isfinite(change)}
        if not seen:
            return ""
        weakest = sorted(seen, key=seen.__getitem__, reverse=True)[:WEAKEST]
        named = ", ".join(f"{name} {seen[name]:.0e}" for name in weakest)
        return (
            f"power: in each of {len(seen)} tensors a relative change of {seen[weakest[0]]:.0e} "
            f"would have been seen; the weakest: {named}"
        )

    def not_compared(self) -> list[str]:
        """[line] on the tensors whose values have no effect on what was compared."""
        unseen = self.unseen
        if not unseen:
            return []
        more = f" and {len(unseen) - WEAKEST} more" if len(unseen) > WEAKEST else ""
        return [f"{', '.join(unseen[:WEAKEST])}{more}: {self.why}"]

    def lines(self) -> list[str]:
        """All of it, for a log."""
        found = [f"power  {name}  {change:.1e}" for name, change in self.changes.items()]
        return [*found, *(f"power  {name}  not known" for name in self.unknown)]


@dataclass
class Smallest:
    """The smallest differences that would have been called wrong, of what is compared itself.

    Attributes:
        changes: {quantity: its smallest difference, in words}.
    """

    changes: dict

    def line(self) -> str:
        """In one line."""
        named = ", ".join(f"{change} {name}" for name, change in self.changes.items())
        return f"power: would have been seen: {named}"

    def lines(self) -> list[str]:
        return []

    def not_compared(self) -> list[str]:
        return []


def forward_power(
    model: torch.nn.Module, run: Callable[[torch.nn.Module], Any], bound: float, seed: int = 0
) -> Power:
    """Power of a comparison of a model's outputs, to first order, by one backward pass.

    Of a function f of a tensor w, and v standard normal, E (v J d)^2 = |J d|^2 for any change d. If
    each value of w changes by the relative amount e, with signs of its own, v J d has the deviation
    e |(J^T v) * w|, so that is the norm of the change of f. What is compared is the largest
    difference over the largest value; it is not less than the root of the mean of its squares.

    Args:
        model: torch.nn.Module in float64 and eval mode.
        run: called with the model, with gradients on; gives a list of tensors, all outputs.
        bound: the largest difference that passes, relative to the largest value.
        seed: of v.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    before = {name: p.requires_grad for name, p in wanted.items()}
    try:
        for parameter in wanted.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            outputs = [x for x in run(model) if x.is_floating_point() and x.numel()]
            if not outputs:
                return Power({})
            largest = [x.detach().abs().max().clamp(min=1e-300) for x in outputs]
            flat = torch.cat([x.reshape(-1) / size for x, size in zip(outputs, largest)])
            v = torch.randn(flat.numel(), generator=generator, dtype=flat.dtype).to(flat.device)
            found = torch.autograd.grad(flat @ v, list(wanted.values()), allow_unused=True)
    finally:
        for name, parameter in wanted.items():
            parameter.requires_grad_(before[name])
    gradients = dict(zip(wanted, found))
    values = {name: p.detach() for name, p in wanted.items()}
    unknown = _add_statistics(model, values, gradients)
    root = np.sqrt(flat.numel())
    changes = {}
    for name, value in values.items():
        gradient = gradients[name]
        size = 0.0 if gradient is None else float((gradient * value).norm())
        changes[name] = bound * root / size if size else np.inf
    return Power(changes, unknown)


def _add_statistics(
    model: torch.nn.Module, values: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor]
) -> list[str]:
    """Adds batch norm's running statistics, which PyTorch has no gradients for.

    y = (x - m) / sqrt(v + eps) * w + b, so dm is -db w / sqrt(v + eps), and dv is
    -dw w / 2 (v + eps).

    Returns:
        [name] of other float buffers, of which nothing is known.
    """
    unknown = []
    layers = dict(model.named_modules())
    for name, buffer in model.named_buffers():
        if not buffer.is_floating_point():
            continue
        layer, _, leaf = name.rpartition(".")
        norm, weight = layers[layer], f"{layer}.weight" if layer else "weight"
        bias = weight.removesuffix("weight") + "bias"
        if leaf not in STATISTICS or gradients.get(weight) is None or gradients.get(bias) is None:
            unknown.append(name)
            continue
        spread = norm.running_var + norm.eps
        values[name] = buffer
        if leaf == "running_mean":
            gradients[name] = -gradients[bias] * values[weight] / spread.sqrt()
        else:
            gradients[name] = -gradients[weight] * values[weight] / (2 * spread)
    return unknown
