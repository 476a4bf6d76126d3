"""What was compared of two trainings: quantity by quantity, and which differs first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..files import whole_file
from ..findings import SETTING, Compared, Finding
from ..power import Power

__all__ = ["ADVICE", "Comparison", "Difference", "shares_of_bounds"]

ALL_OF_IT = 1.0  # relative: a tensor that could be another altogether was not compared
MOST_COLUMNS = 200  # of a table of shares: of a longer training, neighbours share one


@dataclass
class Difference:
    """One quantity at one moment. `value` is relative to its scale; agrees up to `bound`."""

    where: str  # "iteration 0"
    kind: str  # one of ADVICE
    name: str
    value: float
    bound: float
    reason: str = ""  # where no number can tell: "shape (3,) | (4,)", "no gradient reaches fc1"
    hint: str = ""  # what is wrong and what to do, where more is known than ADVICE says
    cause: str = ""  # a name of known.ACCEPTED, where it is that difference of the frameworks
    # How much of the tensor's own largest value would have been called wrong; inf: it is all 0.
    seen: float | None = None

    @property
    def agrees(self) -> bool:
        return self.value <= self.bound

    @property
    def difference(self) -> float | None:
        """`value`, or None where no number can tell."""
        return self.value if np.isfinite(self.value) and not self.reason else None

    def text(self) -> str:
        """What differs: "gradient features.0.0.weight", with the reason if no number can tell."""
        what = f"{self.kind} {self.name}".rstrip()
        return f"{what}: {self.reason}" if self.reason else what


class Comparison:
    """What was compared of two trainings, in the order in which things happen."""

    def __init__(self, settings: Sequence[str] = ()) -> None:
        self.settings = list(settings)  # lines: what can be read off and differs
        self.differences = []  # [Difference]
        self.curves: dict[str, Any] | None = None  # of free runs, for a page

    @property
    def agrees(self) -> bool:
        return all(row.agrees for row in self.differences)

    def add(self, other: Comparison, where: str) -> None:
        """Adds what another Comparison holds; `where` is put before each of its moments."""
        self.settings = other.settings
        self.differences += [
            replace(row, where=f"{where}, {row.where}") for row in other.differences
        ]

    def power(self) -> Power:
        """Power: of each tensor the smallest change, relative to its own size, that is wrong."""
        changes = {}
        for row in self.differences:
            if row.seen is not None:
                key = row.kind, row.name
                changes[key] = min(changes.get(key, np.inf), row.seen)
        noise = {
            name for (kind, name), x in changes.items() if kind == "gradient" and x > ALL_OF_IT
        }
        found = {}
        for (kind, name), change in changes.items():
            parameter = name.rpartition(" ")[2]
            if kind == "gradient" or parameter not in noise:  # what follows from noise is noise
                found[f"{kind} {name}"] = np.inf if parameter in noise else change
        return Power(found, why="zero except for rounding")

    def write(self, path: Path) -> None:
        """One line for each quantity at each moment."""
        with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write("# float64; relative to the largest value in the same block\n")
            for row in self.differences:
                mark = "" if row.agrees else f"  <-- differs (bound {row.bound:g})"
                value = f"{row.value:.1e}" if np.isfinite(row.value) else row.reason or "other"
                file.write(f"{row.where}  {row.kind:20}  {value}  {row.name}{mark}\n")

    def compared(
        self,
        name: str,
        what: str = "{count} iterations, each from the same state",
        advise: bool = True,
        log: Path | None = None,
    ) -> Compared:
        """All of it as a Compared.

        Args:
            name: of what was compared, for the verdict.
            what: the same for the summary; {count} stands for the number of moments.
            advise: say what the mistake may be in. Not where a cause is known already.
            log: where `write` has put every row.
        """
        first = next((row for row in self.differences if not row.agrees), None)
        if first is None:
            return Compared(name, self._summary(what), log=log, data=self._data())
        settings = [Finding("training", "", line, title=SETTING) for line in self.settings]
        others = [
            Finding("training", row.where, row.text(), difference=row.difference, bound=row.bound)
            for row in self.differences
            if not row.agrees and row is not first
        ]
        findings = [*settings, self._first(first, advise), *others]
        return Compared(name, "", findings, log, self._data())

    def _data(self) -> dict[str, Any]:
        return {"quantities": shares_of_bounds(self.differences)}

    def _summary(self, what: str) -> str:
        worst = {}
        for row in self.differences:
            if row.kind not in worst or row.value > worst[row.kind].value:
                worst[row.kind] = row
        what = what.format(count=len({row.where for row in self.differences}))
        found = [f"{kind} {row.value:.0e}" for kind, row in worst.items() if row.value]
        told = f"float64, {what}"
        if found:
            told += f"; largest differences: {', '.join(found)}"
        equal = [kind for kind, row in worst.items() if not row.value]
        return f"{told}; exactly equal: {', '.join(equal)}" if equal else told

    def _first(self, first: Difference, advise: bool) -> Finding:
        """Finding of the first quantity that differs, and what the mistake may be in."""
        same = [r for r in self.differences if (r.where, r.kind) == (first.where, first.kind)]
        count = sum(not row.agrees for row in same)
        also = f" ({count} of {len(same)} differ)" if len(same) > 1 else ""
        finding = Finding("training", first.where, first.text(), title="First difference")
        if first.difference is not None:
            finding.quantity += f": differs by {first.value:.1e}"
        finding.quantity += also
        norm = next(
            (r for r in self.differences if (r.where, r.kind) == (first.where, "gradient norm")),
            None,
        )
        if norm and first.kind == "gradient":
            finding.detail.append(f"Norm of all gradients (port | reference): {norm.name}")
        before = self.differences[: self.differences.index(same[0])]
        kinds = dict.fromkeys(r.kind for r in before if r.where == first.where)
        if kinds:
            finding.detail.append(f"In {first.where} these agree: {', '.join(kinds)}")
        if first.where != self.differences[0].where and first.kind == "gradient":
            finding.detail.append(
                f"Everything before {first.where} agrees: are the gradients cleared?"
            )
        if advise:
            advice = first.hint or f"The mistake is in {ADVICE[first.kind]}"
            finding.detail.append(advice)
        return finding


def shares_of_bounds(differences: Sequence[Difference]) -> dict[str, Any]:
    """How much of its bound each kind of quantity has used at each moment: above 1 it differs.

    Args:
        differences: [Difference].

    Returns:
        {"steps": [moment], "kinds": [kind], "share_of_bound": a row for each kind}; None in it
        where that kind was not compared. Neighbours are put together, the largest counts, where
        there are more than MOST_COLUMNS moments.
    """
    moments = list(dict.fromkeys(row.where for row in differences))
    kinds = list(dict.fromkeys(row.kind for row in differences))
    width = max(1, -(-len(moments) // MOST_COLUMNS))
    groups = [moments[start : start + width] for start in range(0, len(moments), width)]
    column = {moment: number for number, group in enumerate(groups) for moment in group}
    shares: list[list[float | None]] = [[None] * len(groups) for _ in kinds]
    for row in differences:
        cells, at = shares[kinds.index(row.kind)], column[row.where]
        share = row.value / row.bound if row.bound else row.value
        share, largest = float(f"{share:.3g}"), cells[at]
        cells[at] = share if largest is None else max(largest, share)
    steps = [group[0] if len(group) == 1 else f"{group[0]} … {group[-1]}" for group in groups]
    return {"steps": steps, "kinds": kinds, "share_of_bound": shares}


ADVICE = {
    "dropout": "dropout: its rate, its scaling, its seed, or that it is not called in train mode",
    "learning rate": "the schedule: its constants, and when it is stepped",
    "learning rate in use": "when the schedule is stepped: between the moment at which the rate is "
    "read and the optimizer's step it changes",
    "loss": "the loss: mean or sum, a factor, label smoothing, class weights (step 04)",
    "gradient": "the backward pass: something detached, or gradients that were not cleared; with "
    "several processes, gradients that were not averaged",
    "update": "the optimizer: its arithmetic or settings, weight decay, clipping, the parameters "
    "it was given",
    "optimizer state": "the optimizer: what it keeps from step to step, and in which units",
    "running statistic": "batch norm: momentum (Paddle's is 1 minus PyTorch's), frozen statistics",
    "default argument": "what an argument is where none is given: the reference's default",
    "weight decay": "the parameter groups: which parameters have a weight decay of their own",
    "free run": "the optimizer in float32: from one state, in float64, its steps agree",
    "clipped gradient": "gradient clipping: one norm over all gradients, then one factor",
    "moving average": "the moving average of the weights: decay, first update, statistics",
    "loop": "the loop: how many batches an epoch has (drop_last), how many epochs there are",
    "log": "what the loop adds up for its lines, or when it writes them",
    "evaluation": "the evaluation: its images, its mode, how it adds up; or the eval-mode forward",
    "between steps": "what the loop does between two steps (evaluation, saving, loading)",
    "order": "the sampler: its epoch (set_epoch), its seed, its share, the size of a batch",
    "images": "the data: an image's random numbers, or what is done with them (step 02); with "
    "several processes, which images each gets",
    "labels": "the labels: class indices, or the shares that mixing gives (step 02)",
    "loss scale": "the gradient scaler: when it is updated, after which gradients it halves",
    "logits": "the forward pass: of step 01, or if that is aligned what train mode does in it (the "
    "mode, batch norm, dropout)",
    "ranks": "how ranks are kept the same: DataParallel, its gradients, each rank's random numbers",
    "gradient norm": "a factor of all gradients: clipping, the loss scale; with several processes, "
    "their average",
}
