"""Batch norm on awkward batches: one value for each channel, one row, extreme sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..thresholds import TRAIN_FLOAT64
from .cases import Case

__all__ = ["norm_cases"]

SHAPES = ((4, 3, 5, 6), (1, 3, 1, 2), (5, 3, 1, 1), (1, 3, 1, 1), (2, 3, 7, 1))
# What the old statistics keep, and epsilon. Paddle holds them as float32, and so the reference is
# given them; of the last pair that is not what was written.
SETTINGS = ((0.75, 2.0**-10), (0.0, 2.0**-20), (0.99609375, 0.5), (0.99, 1e-3))
SCALES = (1.0, 1e-3, 1e3, 1.0)


def norm_cases(
    port: Callable[..., dict[str, np.ndarray]],
    reference: Callable[..., dict[str, np.ndarray]],
    seed: int = 0,
) -> list[Case]:
    """[Case] of batch norm: output, gradients, running statistics.

    In train mode one value for each channel has no variance: PyTorch refuses, and so must the port.

    Args:
        port, reference: functions (share of the old statistics that is kept, epsilon, whether in
            train mode, {"x": (N, C, H, W), "weight", "bias", "mean", "variance": (C,), "gradient":
            as x}) -> {name: array}, all float64 of NumPy.
    """
    rng = np.random.default_rng(seed)
    cases = []
    for shape in SHAPES:
        for (kept, epsilon), scale in zip(SETTINGS, SCALES):
            for trains in (True, False):
                channels = shape[1]
                given = {
                    "x": scale * (2 + rng.standard_normal(shape)),
                    "weight": rng.standard_normal(channels),
                    "bias": rng.standard_normal(channels),
                    "mean": scale * rng.standard_normal(channels),
                    "variance": scale**2 * 10 ** rng.uniform(-6, 4, channels),
                    "gradient": rng.standard_normal(shape),
                }
                mode = "train" if trains else "eval"
                name = f"{mode} mode, {'x'.join(map(str, shape))}, momentum {kept:g}"
                cases.append(_case(name, port, reference, kept, epsilon, trains, given))
    return cases


def _case(
    name: str,
    port: Callable[..., dict[str, np.ndarray]],
    reference: Callable[..., dict[str, np.ndarray]],
    *arguments: Any,
) -> Case:
    names = "output", "x", "weight", "bias", "mean", "variance"
    kept, epsilon, *rest = arguments
    held = float(np.float32(kept)), float(np.float32(epsilon))
    calls: Any = lambda: port(*arguments), lambda: reference(*held, *rest)
    return Case(  # type: ignore[call-arg]  # calls: two
        name, *calls, dict.fromkeys(names, 10 * TRAIN_FLOAT64), {"x": NOISE}
    )


NOISE = 1e-9  # of a gradient that cancels out: of two values, each is as far from the mean
