"""What has changed between two reports: for who has aligned a port once, and goes on with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .report import ALIGNED

__all__ = ["Changes", "changes"]

GROWN = 10.0  # times; rounding differs by less between two machines
# Of its bound: below, a difference is noise, and ten times nothing is nothing.
LEAST_SHARE = 0.01
AGREES = ("aligned", "rounding")


@dataclass
class Changes:
    """Lines on what is worse, what is better, and what is merely other."""

    worse: list = field(default_factory=list)
    better: list = field(default_factory=list)
    other: list = field(default_factory=list)

    def lines(self) -> list[str]:
        found = [
            f"{title}: {line}"
            for title, lines in (
                ("worse", self.worse),
                ("better", self.better),
                ("other", self.other),
            )
            for line in lines
        ]
        return [*found, f"{len(self.worse)} worse, {len(self.better)} better"]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
    """The Changes from one report to another, as `report.read_report` gives them."""
    found = Changes()
    before, after = ({part["name"]: part for part in side["parts"]} for side in (old, new))
    for name in before:
        if name not in after:
            found.worse.append(f"{name} is gone: it is not compared any more")
    for name, part in after.items():
        if name not in before:
            into = found.other if part["status"] == ALIGNED else found.worse
            into.append(f"{name} is new: {part['status']}")
            continue
        _part(found, name, before[name], part)
    return found


def _part(found: Changes, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    if old["status"] != new["status"]:
        into = found.better if new["status"] == ALIGNED else found.worse
        if ALIGNED not in (old["status"], new["status"]):
            into = found.other
        into.append(f"{name}: was {old['status']}, is {new['status']}: {new['verdict']}")
    _turned(found, name, "checks", old, new, "name", lambda check: check.get("aligned") is True)
    _turned(found, name, "records", old, new, "key", lambda record: record["verdict"] in AGREES)
    _grown(found, name, _shares(old), _shares(new))
    findings = [{_identity(each): each["text"] for each in side["findings"]} for side in (old, new)]
    found.worse += [
        f"{name}: new difference: {text}" for key, text in findings[1].items()
        if key not in findings[0]
    ]  # fmt: skip
    found.better += [
        f"{name}: no difference any more: {text}" for key, text in findings[0].items()
        if key not in findings[1]
    ]  # fmt: skip


def _identity(finding: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a finding is about, whatever its numbers are."""
    return finding["check"], finding["where"], finding["quantity"].partition(":")[0]


def _turned(
    found: Changes,
    part: str,
    kind: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    key: str,
    agrees: Callable[[Mapping[str, Any]], bool],
) -> None:
    """Which entries turned red or green, and which are new or gone."""
    before, after = ({each[key]: agrees(each) for each in side[kind]} for side in (old, new))
    for name in [*before, *(name for name in after if name not in before)]:
        what = f"{part}, {kind.removesuffix('s')} {name}"
        if name not in after:
            # A red part stops before later checks, and that is told already.
            into = found.worse if new["status"] == ALIGNED else found.other
            into.append(f"{what} is gone")
        elif name not in before:
            found.other.append(f"{what} is new: {'agrees' if after[name] else 'differs'}")
        elif after[name] and not before[name]:
            found.better.append(f"{what} agrees now")
        elif before[name] and not after[name]:
            found.worse.append(f"{what} differs now")


def _shares(part: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """{what: (its difference, share of its bound)} of what has both."""
    found = {}
    for each in part["records"]:
        for value, bound, kind in (
            ("difference", "threshold", "float32"),
            ("float64", "bound64", "float64"),
        ):
            _add(found, f"{each['key']} in {kind}", each.get(value), each.get(bound))
    for each in part["findings"]:
        what = ": ".join(filter(None, [each["where"], each["quantity"].partition(":")[0]]))
        _add(found, what, each.get("difference"), each.get("bound"))
    for each in part["layers"]:
        for value, bound in (("output", "bound"), ("gradient", "gradient_bound")):
            _add(found, f"layer {each.get('name')}, {value}", each.get(value), each.get(bound))
    return found


def _add(found: dict[str, tuple[float, float]], what: str, value: Any, bound: Any) -> None:
    try:
        value, bound = float(value), float(bound)
    except (TypeError, ValueError):
        return
    if bound > 0 and value >= 0:
        found[what] = value, value / bound


def _grown(
    found: Changes,
    part: str,
    before: Mapping[str, tuple[float, float]],
    after: Mapping[str, tuple[float, float]],
) -> None:
    for what, (value, share) in after.items():
        if what not in before:
            continue
        old, old_share = before[what]
        told = f"{part}, {what}: {old:.1e} -> {value:.1e}"
        if share > 1 >= old_share:
            found.worse.append(f"{told}, above its bound {value / share:.0e}")
        elif old_share > 1 >= share:
            found.better.append(f"{told}, within its bound")
        elif share > GROWN * max(old_share, LEAST_SHARE):
            found.worse.append(f"{told}, {share / max(old_share, LEAST_SHARE):.0f} times as large")
