"""Whether two samples of accuracies have the same mean, and what the test of that can see.

Welch's t-test, two-sided: the two spreads need not be equal. Its power is that of the noncentral t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, stats

__all__ = ["ALPHA", "POWER", "Comparison", "compare_means", "detectable", "known_spread", "power"]

# A right port is called wrong in one comparison of a hundred.
ALPHA = 0.01
POWER = 0.8


class Comparison(NamedTuple):
    """In the unit of the samples.

    tolerance is the largest difference that the test lets pass; the true difference lies in
    low … high with the confidence 1 - alpha; detectable is the true difference that the test finds
    with the probability POWER; equivalent is the smallest margin inside of which the true
    difference lies by two one-sided tests at alpha.
    """

    difference: float  # port less reference
    p: float
    tolerance: float
    low: float
    high: float
    detectable: float
    equivalent: float


def compare_means(
    port: Sequence[float],
    reference: Sequence[float],
    smallest_spread: float = 0.0,
    alpha: float = ALPHA,
) -> Comparison:
    """Comparison of two samples of at least two values each.

    Args:
        smallest_spread: standard deviation that is taken where a sample's own is less: values that
            are rounded can all be the same, and their mean is not exact for that.
    """
    spreads = [max(float(np.std(x, ddof=1)), smallest_spread) for x in (port, reference)]
    counts = len(port), len(reference)
    error, freedom = _welch(spreads, counts)
    difference = float(np.mean(port) - np.mean(reference))
    found = detectable(spreads, counts, alpha)
    return _comparison(difference, error, stats.t(freedom), found, alpha)


def known_spread(
    port: Sequence[float], reference: Sequence[float], spread: float, alpha: float = ALPHA
) -> Comparison:
    """Comparison of samples of any size whose `spread` is known beforehand: a z-test."""
    error = spread * math.sqrt(1 / len(port) + 1 / len(reference))
    found = error * (stats.norm.isf(alpha / 2) + stats.norm.ppf(POWER))
    difference = float(np.mean(port) - np.mean(reference))
    return _comparison(difference, error, stats.norm(), found, alpha)


def _comparison(
    difference: float, error: float, distribution: Any, found: Any, alpha: float
) -> Comparison:
    tolerance = error * float(distribution.isf(alpha / 2))
    p = 2 * float(distribution.sf(abs(difference) / error))
    equivalent = abs(difference) + error * float(distribution.isf(alpha))
    interval = difference - tolerance, difference + tolerance
    return Comparison(difference, p, tolerance, *interval, float(found), equivalent)


def _welch(spreads: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """(standard error of the difference of means, degrees of freedom by Satterthwaite)"""
    parts = [s**2 / n for s, n in zip(spreads, counts)]
    freedom = sum(parts) ** 2 / sum(v**2 / (n - 1) for v, n in zip(parts, counts))
    return math.sqrt(sum(parts)), freedom


def power(
    difference: float, spreads: Sequence[float], counts: Sequence[int], alpha: float = ALPHA
) -> float:
    """How often the test finds a true `difference` between normal samples."""
    error, freedom = _welch(spreads, counts)
    critical = stats.t.isf(alpha / 2, freedom)
    shifted = stats.nct(freedom, difference / error)
    # SciPy gives NaN for a tail that is too small for a float64.
    return float(np.nan_to_num(shifted.sf(critical)) + np.nan_to_num(shifted.cdf(-critical)))


def detectable(
    spreads: Sequence[float], counts: Sequence[int], alpha: float = ALPHA, wanted: float = POWER
) -> float:
    """The true difference that the test finds with the probability `wanted`."""
    error, _ = _welch(spreads, counts)
    return optimize.brentq(
        lambda d: power(d, spreads, counts, alpha) - wanted, 0.1 * error, 100 * error
    )
