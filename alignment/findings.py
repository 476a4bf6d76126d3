"""What a comparison has found: data, from which text and JSON are made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .settings import Setting


__all__ = ["Check", "Compared", "Finding", "Report", "plain"]

SETTING = "Differs (port | reference)"  # title of what can be read off, and is no result


@dataclass
class Finding:
    """One quantity that differs.

    Attributes:
        check: what was compared: "structure", "forward", "backward", "training",
            "initialisation", "data", "metric", …
        where: the port's layer, parameter or output.
        quantity: what of it: "settings", "output", "gradient", "update", …
        port, reference: the value on each side, in words; "" where there is none to show.
        difference: relative to the reference's largest value; None where no number can tell.
        bound: the largest difference that passes.
        detail: further lines.
        hint: what to look at.
        title: how this was found: "First layer that differs", SETTING; "" if as one of many.
    """

    check: str
    where: str
    quantity: str
    port: str = ""
    reference: str = ""
    difference: float | None = None
    bound: float | None = None
    detail: list[str] = field(default_factory=list)
    hint: str = ""
    title: str = ""

    def text(self) -> str:
        """In one line: "features.0.1: epsilon 1e-05 | 0.001"."""
        has_sides = bool(self.port or self.reference)
        sides = f"{self.port} | {self.reference}" if has_sides else ""
        what = " ".join(filter(None, [self.quantity, sides]))
        line = f"{self.where}: {what}" if self.where else what
        if self.difference is not None and has_sides:
            line += f" (relative difference {self.difference:.1e}, bound {self.bound:.0e})"
        elif self.difference is not None:
            line += f" differs by {self.difference:.1e} (relative, bound {self.bound:.0e})"
        return line

    def lines(self) -> list[str]:
        """The same with its title, and what there is to say about it."""
        first = f"{self.title}: {self.text()}" if self.title else self.text()
        return [first, *self.detail]


def settings_found(check: str, where: str, settings: Iterable[Setting]) -> list[Finding]:
    """[Finding] of what can be read off two layers and differs.

    Args:
        settings: [Setting].
    """
    return [Finding(check, where, *setting, title=SETTING) for setting in settings]


@dataclass
class Compared:
    """The result of one comparison.

    Attributes:
        name: what was compared: "initialisation".
        summary: in one line, for when all agrees.
        findings: [Finding], in the order in which to look at them; [] if all agrees.
        log: pathlib.Path of the file with every row, or None.
        data: {key of a part of report.json: what a page shows of it}, as layers or images.
        not_compared: lines on what could not be compared.
        changes: {what was compared as a sample: the smallest change of a probability that would
            have been called wrong}, infinite where none would.
    """

    name: str
    summary: str
    findings: list = field(default_factory=list)
    log: Path | None = None
    data: dict = field(default_factory=dict)
    not_compared: list = field(default_factory=list)
    changes: dict = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether nothing differs."""
        return not self.findings

    def lines(self) -> list[str]:
        """For a terminal: what differs, or the summary.

        Findings without a title are further ones of the same kind: they are in the log.
        """
        found = [line for each in self.findings if each.title for line in each.lines()]
        return [*found, *([self.summary] if self.summary else [])]


@dataclass
class Check:
    """One check that was run: its name, whether it agrees, and in one line what was compared."""

    name: str
    aligned: bool
    summary: str
    seconds: float = 0.0


@dataclass
class Report:
    """The result of `check`.

    Attributes:
        checks: [Check] in the order in which they were run.
        differences: [Finding]; the first is where to start.
        not_compared: lines on all that a green verdict says nothing of.
        known: lines on known differences of the frameworks that were allowed for.
        notes: lines on how the comparison was made.
        power: a line on how small a mistake in a weight would have been seen; "" if not known.
        data: {key of a part of report.json: value}, where `check` was asked for details.
    """

    checks: list[Check] = field(default_factory=list)
    differences: list[Finding] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    power: str = ""
    data: dict = field(default_factory=dict, repr=False)

    @property
    def aligned(self) -> bool:
        """Whether every check that was run agrees, and one beside the structure was."""
        return self.compared and all(check.aligned for check in self.checks)

    @property
    def compared(self) -> bool:
        """Whether more than the structure was compared, or that differs."""
        return any(check.name != "structure" or not check.aligned for check in self.checks)

    @property
    def hints(self) -> list[str]:
        """What to look at, of each difference that says so, each once."""
        return list(dict.fromkeys(f.hint for f in self.differences if f.hint))

    @property
    def verdict(self) -> str:
        """In one sentence."""
        if self.aligned:
            left = f"; not compared: {len(self.not_compared)}" if self.not_compared else ""
            return f"aligned: {', '.join(check.name for check in self.checks)}{left}"
        red = next((check for check in self.checks if not check.aligned), None)
        if red is None:
            return "NOT COMPARED: no check that was asked for could be run"
        first = next((f for f in self.differences if f.check == red.name), None)
        return f"NOT ALIGNED: {red.name}: {first.text() if first else red.summary}"

    def text(self, verbose: bool = False, quiet: bool = False) -> str:
        """Lines for a terminal.

        Args:
            verbose: all of every difference, and the notes.
            quiet: the verdict alone.
        """
        if quiet:
            return self.verdict
        lines, told = [], set()
        for check in self.checks:
            state = "aligned" if check.aligned else "NOT ALIGNED"
            lines.append(f"{check.name:15} {state:12} {check.summary}")
            found = [f for f in self.differences if f.check == check.name]
            for finding in found if verbose else found[:SHOWN]:
                if finding.text() != check.summary:
                    lines.append(f"  {finding.text()}")
                # What several have in common is told once.
                more = [line for line in [*finding.detail, finding.hint] if line]
                lines += [f"    {line}" for line in more if line not in told]
                told.update(more)
            if len(found) > SHOWN and not verbose:
                lines.append(f"  … and {len(found) - SHOWN} more differences (-v shows them)")
        for title, rows in (
            ("Not compared", self.not_compared),
            ("Known differences of the frameworks, allowed for", self.known),
            ("Notes", self.notes if verbose else []),
        ):
            if rows:
                lines.append(f"{title}:")
                lines += [f"  {row}" for row in (rows if verbose else rows[:MOST_ROWS])]
                if len(rows) > MOST_ROWS and not verbose:
                    lines.append(f"  … and {len(rows) - MOST_ROWS} more (-v shows them)")
        lines += [self.power] if self.power else []
        return "\n".join([*lines, self.verdict])

    def as_dict(self) -> dict:
        """Plain values, for JSON, without `data`; infinite differences are text."""
        values = plain({"aligned": self.aligned, "verdict": self.verdict, **asdict(self)})
        del values["data"]
        return values


def plain(value: Any) -> Any:
    """`value` for JSON: numbers of NumPy as Python's, and as text those that are not finite."""
    if isinstance(value, dict):
        return {str(key): plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(child) for child in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else str(float(value))
    return value if value is None or isinstance(value, str) else str(value)


SHOWN = 4  # differences of a check
MOST_ROWS = 12
