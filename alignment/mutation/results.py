"""What became of mutants: marks of those that are equivalent, tables, a file of results."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import CannotRun, read_text, shown
from .source import KINDS

if TYPE_CHECKING:
    from .source import Mutant


__all__ = [
    "EQUIVALENT",
    "FOUND",
    "NOT_RUN",
    "REFUSED",
    "SURVIVED",
    "Equivalents",
    "Outcome",
    "OutcomeLog",
    "found_ones",
    "read_outcomes",
    "report",
    "sample_of",
]

FOUND, REFUSED, SURVIVED, NOT_RUN = "found", "refused", "survived", "not run"
EQUIVALENT = "equivalent"


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant.

    Attributes:
        name: Mutant.name.
        file, where, line, kind, before, after: Mutant's.
        outcome: FOUND: a check is red. REFUSED: the port broke off, or never ended. SURVIVED: all
            is green. NOT_RUN: nothing runs its line. EQUIVALENT: marked as such.
        by: name of the run that found it, or of those that did not.
        seconds: that it took.
    """

    name: str
    file: str
    where: str
    line: int
    kind: str
    before: str
    after: str
    outcome: str
    by: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, mutant: Mutant, outcome: str, by: str = "", seconds: float = 0.0) -> Outcome:
        own = {key: getattr(mutant, key) for key in ("name", "file", "where", "line", "kind")}
        return cls(
            **own,
            before=mutant.before,
            after=mutant.after,
            outcome=outcome,
            by=by,
            seconds=round(seconds, 2),
        )

    def text(self) -> str:
        """A survivor, in one line."""
        why = f"  ({self.by})" if self.by else ""
        return f"{self.file}:{self.line}: {self.before} -> {self.after}{why}"


class Equivalents:
    """Mutants that are no mistakes, and why: a text file.

        # a comment
        Any reason, in a line that is not indented:
            name of a mutant, as it is printed
            another one

    Args:
        path: pathlib.Path of the file; None: there is none.

    Raises:
        CannotRun: it cannot be read, or a name has no reason.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.reasons = {}  # {name: reason}
        if path is None:
            return
        reason = None
        for number, line in enumerate(read_text(path).splitlines(), 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if line[0].isspace() and reason is None:
                raise CannotRun(f"{shown(path)}, line {number}: a mutant before any reason")
            if line[0].isspace():
                self.reasons[text] = reason
            else:
                reason = text.rstrip(":")

    def __contains__(self, name: object) -> bool:
        return name in self.reasons

    def without_mutant(self, names: Iterable[str]) -> list[str]:
        """[name] of marks that fit none of all these mutants."""
        there = set(names)
        return [name for name in self.reasons if name not in there]


def sample_of(mutants: Sequence[Mutant], count: int) -> list[Mutant]:
    """`count` of the mutants, always the same ones, in their order; all if there are fewer."""

    def number(mutant: Mutant) -> bytes:
        return hashlib.sha256(mutant.name.encode()).digest()

    chosen = {mutant.name for mutant in sorted(mutants, key=number)[:count]}
    return [mutant for mutant in mutants if mutant.name in chosen]


class OutcomeLog:
    """A file to which each Outcome is written as soon as it is known, a line of JSON each.

    Args:
        path: pathlib.Path, or None for no file.
        again: whether what stands in it stays.
    """

    def __init__(self, path: Path | None, again: bool) -> None:
        self.file = None
        if path is not None:
            mode = "a" if again else "w"
            self.file = open(path, mode, encoding="utf-8")  # noqa: SIM115  (`close`)

    def write(self, outcome: Outcome) -> None:
        if self.file is not None:
            print(json.dumps(asdict(outcome), ensure_ascii=False), file=self.file, flush=True)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """{name: Outcome} of the file of an OutcomeLog; of several of one mutant the last.

    A last line that was cut short is left out.

    Raises:
        CannotRun: it is none, or cannot be read.
    """
    found = {}
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError) as error:
            if number == len(lines):
                break
            raise CannotRun(f"{shown(path)}, line {number}: not a result of mutants") from error
        found[outcome.name] = outcome
    return found


def found_ones(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """Of {name: Outcome} those that need no further run."""
    left = (SURVIVED, NOT_RUN)
    return {name: each for name, each in outcomes.items() if each.outcome not in left}


def report(outcomes: Sequence[Outcome], equivalents: Equivalents) -> list[str]:
    """Lines: a table by file and one by kind, then all survivors.

    Args:
        outcomes: [Outcome].
        equivalents: Equivalents, which count as such whatever became of them.
    """
    from tabulate import tabulate

    outcomes = [
        replace(each, outcome=EQUIVALENT) if each.name in equivalents else each for each in outcomes
    ]
    lines = []
    kinds = [kind for kind in KINDS if any(each.kind == kind for each in outcomes)]
    files = sorted({each.file for each in outcomes})
    for title, key, values in (("file", "file", files), ("kind", "kind", kinds)):
        rows = [_row(value, [o for o in outcomes if getattr(o, key) == value]) for value in values]
        rows.append(_row("all", outcomes))
        headers = [title, "mutants", "found", "refused", "survived", "not run", "equivalent", "%"]
        lines += [*tabulate(rows, headers, floatfmt=".1f").splitlines(), ""]
    for outcome, title in ((SURVIVED, "Survived, all is green:"), (NOT_RUN, "Nothing runs these:")):
        left = [each for each in outcomes if each.outcome == outcome]
        if left:
            lines += [title, *(f"  {each.text()}" for each in left), ""]
    return lines


def _row(title: str, outcomes: Sequence[Outcome]) -> list[Any]:
    count = Counter(each.outcome for each in outcomes)
    found = count[FOUND] + count[REFUSED]
    mistakes = len(outcomes) - count[EQUIVALENT]
    share = 100 * found / mistakes if mistakes else None
    columns = [count[name] for name in (FOUND, REFUSED, SURVIVED, NOT_RUN, EQUIVALENT)]
    return [title, len(outcomes), *columns, share]
