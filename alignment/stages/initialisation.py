"""Are two models drawn from the same distributions, parameter by parameter?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import paddle
import torch

from ..files import whole_file
from ..findings import Compared, Finding
from ..pairing import sources_of, to_port
from ..statistics import same_distribution, same_value

if TYPE_CHECKING:
    from ..pairing import Table


ERROR_RATE = 1e-6  # of calling a right port wrong, all tests of one comparison together
SAMPLE = 50_000  # values of a tensor and seed that the Kolmogorov-Smirnov test looks at


# (name, test, "port | reference", p, agrees)
Row: TypeAlias = tuple[str, str, str, float, bool]
SEEDS, FEW_SEEDS = 8, 2  # few: of large models, of which each takes seconds


def compare_initialisation(
    make_port: Callable[[], paddle.nn.Layer],
    make_reference: Callable[[], torch.nn.Module],
    rules: Callable[[paddle.nn.Layer], Table],
    path: Path,
    seeds: int = SEEDS,
) -> Compared:
    """Builds both models from several seeds and compares each parameter and statistic.

    A tensor that is constant in the reference has to have that value. Of any other, mean and
    standard deviation (z-tests on all values) and the distribution (two-sample Kolmogorov-Smirnov
    test) have to agree, at a total error rate of 1e-6 by Bonferroni's correction; and it has to be
    another one with another seed.

    Args:
        make_port, make_reference: functions () -> model, freshly initialised.
        rules: function that gives {Paddle name: (PyTorch name, rule)} of the port's model.
        path: of the log, one line for each tensor and test.

    Returns:
        Compared
    """
    rows, random, level = compare_tensors(make_port, make_reference, rules, seeds)
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f"# port | reference, {seeds} seeds; p below {level:.1e} differs\n")
        for name, test, values, p, agrees in rows:
            file.write(f"{name}  {test}  {values}  p {p:.1e}{'' if agrees else '  <-- differs'}\n")
    return _compared(rows, random, seeds, level, path)


def compare_tensors(
    make_port: Callable[[], paddle.nn.Layer],
    make_reference: Callable[[], torch.nn.Module],
    rules: Callable[[paddle.nn.Layer], Table],
    seeds: int,
) -> tuple[list[Row], int, float]:
    """Rows (name, test, "port | reference", p, agrees), how many tensors are random, bound on p.

    Args: as for `compare_initialisation`.
    """
    port, reference = {}, {}
    for seed in range(seeds):
        paddle.seed(seed)
        torch.manual_seed(seed)
        model = make_port()
        own, other = model.state_dict(), make_reference().state_dict()
        for name, (source, rule) in rules(model).items():
            arrays = [other[each].numpy() for each in sources_of(source)]
            port.setdefault(name, []).append(_numbers(own[name].numpy()))
            reference.setdefault(name, []).append(_numbers(to_port(arrays, rule)))

    # A buffer of positions is not constant, and yet the same with every seed.
    random = [
        name
        for name, samples in reference.items()
        if any(not np.array_equal(samples[0], each) for each in samples)
    ]
    level = ERROR_RATE / (3 * max(1, len(random)))
    rows = []
    for name, samples in reference.items():
        if name in random:
            rows += compare_draws(name, port[name], samples, level)
        elif np.ptp(samples[0]) == 0:
            rows += compare_constant(name, np.concatenate(port[name]), samples[0][0])
        else:
            rows += compare_table(name, port[name], samples[0])
    return rows, len(random), level


def _numbers(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int8).ravel() if array.dtype == bool else array.ravel()


def _compared(rows: Sequence[Row], random: int, seeds: int, level: float, path: Path) -> Compared:
    smallest = min((p for _, _, _, p, _ in rows), default=1.0)
    constants = len({row[0] for row in rows}) - random
    summary = (
        f"initialisation, {seeds} seeds: {constants} constants are the same, {random} "
        f"distributions agree (smallest p {smallest:.1e}, bound {level:.0e})"
    )
    compared = Compared("the initialisation", summary, log=path)
    wrong = [row for row in rows if not row[-1]]
    tensors = {}  # the first test of each
    for name, test, values, p, _ in wrong:
        tensors.setdefault(name, (test, values, p))
    for name, (test, values, p) in tensors.items():
        finding = Finding("initialisation", name, *quantity_and_sides(test, values))
        finding.detail = [f"p {p:.0e}, bound {level:.0e}; tensors that differ: {len(tensors)}"]
        compared.findings.append(finding)
    if wrong:
        first = compared.findings[0]
        first.title = "First tensor that is initialised differently"
        first.detail.append(
            "The mistake is in how it is initialised: the distribution, fan-in or fan-out, groups, "
            "a default of Paddle's layers that was kept"
        )
    return compared


def quantity_and_sides(test: str, values: str) -> tuple[str, str, str]:
    """What a Finding says of a row: its quantity, the port's value, the reference's.

    Both values are "" where one number tells of both sides.
    """
    port, bar, reference = values.partition(" | ")
    return (test, port, reference) if bar else (f"{test}, {values}", "", "")


def compare_constant(name: str, values: np.ndarray, expected: Any) -> list[Row]:
    """[(name, test, "port | reference", p, agrees)]"""
    wrong = values[values != expected]
    shown = f"{wrong[0] if wrong.size else expected:.6g} | {expected:.6g}"
    return [(name, "constant", shown, 0.0 if wrong.size else 1.0, not wrong.size)]


def compare_table(name: str, port: Sequence[np.ndarray], expected: np.ndarray) -> list[Row]:
    """As `compare_constant`, of values that are the same with every seed, as a table of positions.

    Computed by each framework, so the last place of float32 may differ.
    """
    close = [np.allclose(each, expected, rtol=1e-5, atol=1e-7) for each in port]
    wrong = next((each for each, agrees in zip(port, close) if not agrees), None)
    if wrong is None:
        return [(name, "values", "the same | the same", 1.0, True)]
    i = int(np.argmax(np.abs(wrong.astype(np.float64) - expected)))
    return [(name, "values", f"{wrong[i]:.6g} | {expected[i]:.6g}", 0.0, False)]


def compare_draws(
    name: str, port: Sequence[np.ndarray], reference: Sequence[np.ndarray], level: float
) -> list[Row]:
    """As `compare_constant`; `port`, `reference`: the values of each seed."""
    rows = []
    if len(port) > 1 and np.array_equal(port[0], port[1]):
        rows.append((name, "with another seed", "the same values | other values", 0.0, False))
    sides = port, reference
    samples = [np.concatenate([x[:: 1 + x.size // SAMPLE] for x in side]) for side in sides]
    a, b = (moments(np.concatenate(side)) for side in sides)
    for test in ("mean", "standard deviation"):
        (mine, variance), (theirs, variance_ref) = a[test], b[test]
        p = same_value(mine, variance, theirs, variance_ref)
        rows.append((name, test, f"{mine:.4g} | {theirs:.4g}", p, p >= level))
    p, distance = same_distribution(*samples)
    text = f"distribution functions differ by {distance:.2g}"
    rows.append((name, "Kolmogorov-Smirnov", text, p, p >= level))
    return rows


def moments(x: np.ndarray) -> dict[str, tuple[float, float]]:
    """{"mean", "standard deviation": (its value, the variance of that estimate)}"""
    x = x.astype(np.float64)
    mean = x.mean()
    x -= mean
    x *= x
    variance, fourth = x.mean(), np.dot(x, x) / x.size
    # The variance of the variance, by the delta method.
    of_deviation = (fourth - variance**2) / (4 * max(variance, 1e-300) * x.size)
    return {
        "mean": (mean, variance / x.size),
        "standard deviation": (np.sqrt(variance), of_deviation),
    }
