"""Losses on awkward batches: few classes, extreme logits, mixed labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ..thresholds import EXTREME_FLOAT64, LOSS
from .cases import Case

__all__ = ["loss_cases"]

SMOOTHINGS = (0.0, 0.1, 0.5, 1.0)
Loss: TypeAlias = Callable[[float, np.ndarray, np.ndarray], dict[str, Any]]
NOISE = 1e-15  # of a gradient in float64 in which probabilities cancel out


def loss_cases(port: Loss, reference: Loss, seed: int = 0) -> list[Case]:
    """[Case] of the loss and of its gradient by the logits.

    Args:
        port, reference: functions (label_smoothing, logits (N, C), labels (N,) int64 or (N, C)) ->
            {"loss": number, "gradient": (N, C)}, arrays of NumPy.
    """
    rng = np.random.default_rng(seed)

    def normal(size: int, classes: int = 10) -> np.ndarray:
        return rng.standard_normal((size, classes))

    def integers(size: int, classes: int = 10) -> np.ndarray:
        return rng.integers(0, classes, size)

    def shares(size: int, classes: int = 10) -> np.ndarray:
        return rng.dirichlet(np.ones(classes), size)

    masked = normal(8)
    masked[:, 9] = -np.inf
    one_hot = np.eye(10)[integers(6)]
    rows = [
        ("one image", normal(1), integers(1)),
        ("two classes", normal(6, 2), integers(6, 2)),
        ("one class", normal(6, 1), integers(6, 1)),
        ("1000 classes", normal(3, 1000), integers(3, 1000)),
        ("all logits equal", np.zeros((6, 10)), integers(6)),
        ("logits of the order 10,000", 10_000 * normal(6), integers(6)),
        ("logits of the order 1e-6", 1e-6 * normal(6), integers(6)),
        ("all labels the same", normal(6), np.full(6, 9)),
        ("labels that are shares of classes", normal(6), shares(6)),
        ("shares of one image", normal(1), shares(1)),
        ("shares that are one class each", normal(6), one_hot),
        ("shares of the order 10,000 in the logits", 10_000 * normal(6), shares(6)),
        ("a label above the classes", normal(4), np.full(4, 10)),
    ]
    # Of a class that is masked out the loss is infinite as soon as its label has a share.
    cases = [_case("a masked class", port, reference, 0.0, masked, integers(8, 9))]
    cases.append(_case("label smoothing 1.5", port, reference, 1.5, normal(6), integers(6)))
    return cases + [
        _case(f"{name}, label smoothing {smoothing:g}", port, reference, smoothing, logits, labels)
        for name, logits, labels in rows
        for smoothing in SMOOTHINGS
    ]


def _case(
    name: str, port: Loss, reference: Loss, smoothing: float, logits: np.ndarray, labels: np.ndarray
) -> Case:
    bounds = {"loss": EXTREME_FLOAT64, "gradient": EXTREME_FLOAT64, "loss in float32": LOSS}

    def run(loss: Loss) -> Callable[[], dict[str, Any]]:
        def values() -> dict[str, Any]:
            single = labels.astype(np.float32) if labels.ndim == 2 else labels
            in_float32 = loss(smoothing, logits.astype(np.float32), single)["loss"]
            return {**loss(smoothing, logits, labels), "loss in float32": in_float32}

        return values

    return Case(name, run(port), run(reference), bounds, {"gradient": NOISE})
