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


def smallest_distance(p: float, n: int, m: int) -> float:
    """The D from which on `same_distribution` gives at most `p`; infinite if that is above 1."""
    distance = math.sqrt((1 - math.log(p)) * (n + m) / (2 * n * m))
    return distance if distance < 1 else math.inf


def chi_square_tail(x: float, k: int) -> float:
    """Chernoff's bound on the chance that chi-square with `k` degrees of freedom is `x` or more."""
    return math.exp(k / 2 * math.log(x / k) + (k - x) / 2) if x > k else 1.0


def chi_square_limit(p: float, k: int) -> float:
    """The x from which on `chi_square_tail` gives less than `p`."""
    low, high = float(k), 2.0 * k - 8 * math.log(p) + 8
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if chi_square_tail(middle, k) < p else (middle, high)
    return high


def same_value(a: float, variance_a: float, b: float, variance_b: float) -> float:
    """Two-sided p of two estimates that are normal with these variances."""
    error = math.sqrt(variance_a + variance_b)
    return math.erfc(abs(a - b) / error / math.sqrt(2)) if error else float(a == b)
