"""Edge cases: small computations at the limits of what a function is given, on both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checks.base import told
from ..files import whole_file
from ..findings import Compared, Finding
from ..layers import incomparable, relative

__all__ = ["Case", "compare_cases"]


@dataclass
class Case:
    """One computation in both frameworks.

    Attributes:
        name: in words: "a last batch of one image".
        port, reference: functions () -> {name of a value: array or number}; may raise, and then the
            other has to raise too.
        bounds: {name of a value: largest difference that passes, relative to the reference's
            largest value}; 0 for a value that it does not name.
        noise: {name of a value: absolute difference that always passes}, for what cancels out.
    """

    name: str
    port: Callable[[], dict[str, Any]]
    reference: Callable[[], dict[str, Any]]
    bounds: dict[str, float] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)


def compare_cases(what: str, cases: Sequence[Case], path: Path, hint: str) -> Compared:
    """Runs every case on both sides.

    Args:
        what: what is compared: "the metric".
        cases: [Case].
        path: of the log, one line for each value of each case.
        hint: what to look at if a case differs.

    Returns:
        Compared
    """
    found, lines = [], []
    for case in cases:
        rows = list(_compare(case))
        for name, port, reference, value, bound in rows:
            agrees = value <= bound
            text = f"{port} | {reference}" if port or reference else "agrees"
            mark = "" if agrees else "  <-- differs"
            lines.append(f"{case.name}  {name}  {text}  {value:.1e}{mark}")
            if not agrees:
                found.append(Finding("cases", case.name, name, port, reference, hint=hint))
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("# port | reference, and their difference, relative to the largest value\n")
        file.writelines(f"{line}\n" for line in lines)
    if found:
        found[0].title = "First case that differs"
        more = len({finding.where for finding in found}) - 1
        if more:
            found[0].detail.append(f"Other cases that differ: {more}")
    return Compared(what, f"{what}: {len(cases)} edge cases agree", found, path)


def _compare(case: Case) -> Iterator[tuple[Any, ...]]:
    """(name of a value, port's in words, reference's, difference, bound)"""
    sides = [_run(side) for side in (case.port, case.reference)]
    refused = [isinstance(side, str) for side in sides]
    if any(refused):
        port, reference = (side if isinstance(side, str) else "no error" for side in sides)
        yield "outcome", port, reference, 0.0 if all(refused) else np.inf, 0.0
        return
    port, reference = sides
    for name in [*reference, *(name for name in port if name not in reference)]:
        if name not in port or name not in reference:
            yield name, *(_shown(side.get(name)) for side in sides), np.inf, 0.0
            continue
        a, b = (np.asarray(side[name]) for side in sides)
        yield name, *_apart(a, b, case.noise.get(name, 0.0)), case.bounds.get(name, 0.0)


def _run(function: Callable[[], dict[str, Any]]) -> Any:
    try:
        return function()
    except Exception as error:
        return told(error)


def _apart(port: np.ndarray, reference: np.ndarray, noise: float) -> tuple[Any, ...]:
    """(port's in words, reference's, difference); NaN and infinity at the same places."""
    if incomparable(port, reference).startswith(("shape", "dtype")):
        return *(f"{x.dtype} {x.shape}" for x in (port, reference)), np.inf
    value = np.inf
    finite = np.isfinite(reference)
    if np.array_equal(port[~finite], reference[~finite], equal_nan=port.dtype.kind == "f"):
        a, b = port[finite], reference[finite]
        value = 0.0 if noise and np.abs(a - b).max(initial=0.0) <= noise else relative(a, b)
    if not port.size or (value == 0.0 and port.size > 1):
        return "", "", value
    with np.errstate(invalid="ignore"):
        worst = int(np.argmax(np.where(finite, np.abs(port - reference), port != reference)))
    return *(_shown(x.ravel()[worst]) for x in (port, reference)), value


def _shown(value: Any) -> str:
    return "none" if value is None else f"{np.asarray(value).item():.6g}"
