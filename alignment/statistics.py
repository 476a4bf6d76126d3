"""Tests of whether two samples come from one distribution, with bounds on p that need no tables."""

from __future__ import annotations

import math

import numpy as np


def same_distribution(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(bound on p, D), D being the largest distance of the two samples' distribution functions.

    p <= e exp(-2 D^2 nm / (n + m)): Wei and Dudley, 2012, Two-sample Dvoretzky-Kiefer-Wolfowitz
    inequalities. Holds for samples of any size, and for whole numbers too.

    Args:
        a, b: numbers, (n,) and (m,), neither empty.
    """
    n, m = len(a), len(b)
    grid = np.union1d(a, b)
    ranks = [np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (a, b)]
    distance = float(np.abs(ranks[0] - ranks[1]).max())
    return min(1.0, math.exp(1 - 2 * distance**2 * n * m / (n + m))), distance


def same_value(a: float, variance_a: float, b: float, variance_b: float) -> float:
    """Two-sided p of two estimates that are normal with these variances."""
    error = math.sqrt(variance_a + variance_b)
    return math.erfc(abs(a - b) / error / math.sqrt(2)) if error else float(a == b)
