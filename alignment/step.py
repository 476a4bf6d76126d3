"""The report of a numbered script: its verdict, what differs and where, as lines, log and JSON."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from reprod_log.utils import check_print_diff, init_logger

from .diff import VERDICTS
from .files import CannotRun, place_of, reason_of, shown, whole_file, write_json
from .findings import SETTING
from .processes import say_early
from .report import ALIGNED, LOGS, NOT_ALIGNED, finding_entries, misfits_summary, new_part
from .screen import Detail, detail, printable, say
from .terminal import coloured, of_verdict
from .thresholds import FORWARD_FLOAT64

if TYPE_CHECKING:
    from .diff import DiffHelper
    from .findings import Compared, Finding
    from .pairing import Pairing
    from .power import Power, Smallest


__all__ = ["StepReport", "report_misfits"]

MISFITS_HINT = "the first parameters and layers named above, and the reference's"


class StepReport:
    """Collects what a step finds, and says it.

    Args:
        helper: DiffHelper whose `compare_info` has been called.
        path: of the log; the same with the suffix .json is for other programs.
        diff_threshold: the largest difference that passes in float32; or {pattern of keys:
            threshold}, the first pattern that fits counts.
        bound: the largest difference that passes in float64, relative to the largest value; or
            {pattern: bound}.
        diff_method: "mean", "max" or "min" of the absolute difference.
        pairing: the Pairing of both models' parameters; one that does not fit is a finding.

    Raises:
        CannotRun: there is nothing to compare.
    """

    def __init__(
        self,
        helper: DiffHelper,
        path: Path,
        diff_threshold: float | Mapping[str, float],
        bound: float | Mapping[str, float] = FORWARD_FLOAT64,
        diff_method: str = "mean",
        pairing: Pairing | None = None,
    ) -> None:
        if not helper.diff_dict:
            raise CannotRun("there is nothing to compare: both records are empty")
        self.helper, self.path, self.pairing = helper, Path(path), pairing
        self.judged_by = diff_method, diff_threshold, bound
        self.verdicts = helper.judge(*self.judged_by)
        self.compared, self.located, self.lines, self.notes = [], [], [], []
        self.power: Power | Smallest | None = None
        self.left_out = []
        self.misfit_lines = []
        # {name of what was compared: seconds that the step has waited for it}
        self.seconds, self._since = {}, time.perf_counter()
        if self.within_thresholds or helper.float64:
            say_early(self._verdict())

    def judge_in_float64(
        self, reference64: Mapping[str, np.ndarray], port64: Mapping[str, np.ndarray]
    ) -> None:
        """Judges anew: of records whose float64 is costly, and wanted only if float32 differs.

        Args:
            reference64, port64: {key: array}, as for `DiffHelper.compare_info`.
        """
        self.helper.compare_info(*self.helper.records, reference64, port64)
        self.verdicts = self.helper.judge(*self.judged_by)
        say_early(self._verdict())

    @property
    def within_thresholds(self) -> bool:
        """Whether every recorded array agrees in float32."""
        return all(verdict.name == "aligned" for verdict in self.verdicts.values())

    @property
    def records_agree(self) -> bool:
        """Whether every recorded array agrees except for rounding."""
        return all(v.name in ("aligned", "rounding") for v in self.verdicts.values())

    @property
    def fits(self) -> bool:
        """Whether the port has the reference's parameters."""
        return self.pairing is None or self.pairing.fits

    @property
    def aligned(self) -> bool:
        """Whether all that was compared so far agrees."""
        return self.records_agree and self.fits and all(each.agrees for each in self.compared)

    def add(self, compared: Compared) -> None:
        """Adds a Compared to what the verdict depends on."""
        self.compared.append(compared)
        now = time.perf_counter()
        self.seconds[compared.name] = now - self._since
        self._since = now

    def locate(self, located: Compared) -> None:
        """Adds a Compared that says where the step differs, and no more."""
        self.located.append(located)
        self._since = time.perf_counter()

    def say(self, *lines: str) -> None:
        """Adds lines that stand under the verdict."""
        self.lines += lines

    def measured(self, power: Power | Smallest) -> None:
        """Adds a Power: how small a mistake would have been seen."""
        self.power = power
        self.notes += power.lines()

    def leave_out(self, *lines: str) -> None:
        """Adds lines on what a green verdict says nothing of."""
        self.left_out += lines

    def note(self, lines: Iterable[str]) -> None:
        """Adds lines on how the comparison was made; for the log only."""
        self.notes += lines

    def finish(self, hint: str | None = None) -> bool:
        """Prints the verdict and what differs; writes the log and its JSON.

        Args:
            hint: what to look at if the step is not aligned.

        Returns:
            bool, whether the step is aligned.

        Raises:
            CannotRun: the log cannot be written.
        """
        lines = [printable(line) for line in self._all_lines(hint)]
        with whole_file(self.path) as temporary:
            self._write_records(temporary)
            with open(temporary, "a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in [*lines, *self.notes])
        write_json(self._summary(lines, hint), self.path.with_suffix(".json"))
        _tell(lines)
        return self.aligned

    def _write_records(self, path: Path) -> None:
        """What reprod_log's own report says, on the screen and in a file."""
        helper, passed = self.helper, True
        with _logger_of_reprod_log(path, self.path) as logger:
            for key, diff in helper.diff_dict.items():
                threshold = -1.0 if key in helper.reasons else self.verdicts[key].threshold
                passed &= check_print_diff({key: diff}, self.judged_by[0], threshold, logger.info)
            logger.end(passed)

    @property
    def _worst(self) -> str:
        """The key of the record that differs most."""

        def severity(key: str) -> tuple[int, float]:
            return VERDICTS.index(self.verdicts[key].name), self.verdicts[key].excess

        return max(self.verdicts, key=severity)

    @property
    def findings(self) -> list[Finding]:
        """[Finding]: what can be read off comes first."""
        found = [finding for each in [*self.compared, *self.located] for finding in each.findings]
        return sorted(found, key=lambda finding: finding.title != SETTING)

    def _all_lines(self, hint: str | None) -> list[str]:
        lines = [self._verdict(), *self.lines]
        if self.pairing is not None and not self.fits:
            self.misfit_lines = [
                self._records_beside_misfits(),
                *_misfit_lines(self.pairing, self.path.parent),
            ]
            lines += self.misfit_lines
        for finding in self.findings:
            if finding.title:  # others are in the log, and in the JSON
                lines += finding.lines()
        red = next((each for each in self.compared if not each.agrees), None)
        if red is None:
            lines += [each.summary for each in self.compared if each.summary]
        if self.aligned:  # of a red verdict the rest is no matter yet
            if self.power and self.power.line():
                lines.append(self.power.line())
            lines += self._not_compared()
        for each in self.located:
            lines += [each.summary] if each.summary else []
            lines += [f"Layers: {shown(each.log)}"] if each.log else []
        if not self.aligned:
            lines.append(f"Look at: {self._look_at(red, hint)}")
        return lines

    def _not_compared(self) -> list[str]:
        """Lines on what a green verdict says nothing of."""
        left_out = [*(self.power.not_compared() if self.power else []), *self.left_out]
        left_out += [line for each in self.compared for line in each.not_compared]
        return [f"Not compared: {line}" for line in left_out]

    def _look_at(self, red: Compared | None, hint: str | None) -> str:
        if not self.fits:
            return MISFITS_HINT
        if red is not None and self.records_agree:
            own = next((finding.hint for finding in red.findings if finding.hint), None)
            if own:
                return own
            if red.log:
                return f"{shown(red.log)}, the lines with 'differs'"
        return hint or shown(self.path)

    def _verdict(self) -> str:
        if self.pairing is not None and not self.fits:
            return f"NOT ALIGNED: {self.pairing.verdict()}"
        key = self._worst
        worst = self.verdicts[key]
        if worst.name == "misaligned":
            return f"NOT ALIGNED: {worst.text}"
        red = next((each for each in self.compared if not each.agrees), None)
        if red is not None:
            return f"NOT ALIGNED: the recorded arrays agree, but this differs: {red.name}"
        if worst.name == "imprecise":
            return f"NOT ALIGNED, imprecise: {worst.text}"
        if worst.name == "rounding":
            return f"aligned, rounding: {worst.text}"
        count = len(self.verdicts)
        line = (
            f"aligned: {'1 array' if count == 1 else f'{count} arrays'}, largest "
            f"{self.judged_by[0]} difference {worst.difference:.2g} ({key}), threshold "
            f"{worst.threshold:g}"
        )
        if self.helper.float64:
            largest = max(difference for difference, _ in self.helper.float64.values())
            line += f"; in float64 {largest:.1e} (relative)"
        return line

    def _records_beside_misfits(self) -> str:
        """A line on the records of models whose parameters do not all fit."""
        how = "agree" if self.records_agree else "differ"
        return f"With the weights that fit, the records {how}: {self.verdicts[self._worst].text}"

    def _summary(self, lines: Sequence[str], hint: str | None) -> dict[str, Any]:
        helper, key = self.helper, self._worst
        worst = self.verdicts[key]
        beside = self.fits and all(each.agrees for each in self.compared)
        return {
            "aligned": self.aligned,
            "records agree": self.records_agree,
            "verdict": worst.name if beside else "misaligned",
            "compared": list(helper.diff_dict),
            "worst": key,
            "difference": worst.difference if np.isfinite(worst.difference) else "inf",
            "threshold": worst.threshold,
            "float64": {name: str(value) for name, (value, _) in helper.float64.items()},
            "verdicts": {name: verdict.name for name, verdict in self.verdicts.items()},
            "reasons": helper.reasons,
            "power": self.power.line() if self.power else None,
            "not compared": self._not_compared(),
            "beside": {each.name: each.agrees for each in self.compared},
            "findings": [asdict(finding) for finding in self.findings],
            "part": self._part(lines, hint),
        }

    def _part(self, lines: Sequence[str], hint: str | None) -> dict[str, Any]:
        """What report.json has of this step."""
        red = next((each for each in self.compared if not each.agrees), None)
        # What only says where a step differs is no check of its own, but where it finds all right.
        looked_at = [each for each in self.located if each.summary]
        checks = [
            {
                "name": each.name,
                "aligned": each in looked_at or each.agrees,
                "summary": each.summary or each.findings[0].text(),
                "seconds": self.seconds.get(each.name, 0.0),
            }
            for each in [*self.compared, *looked_at]
        ]
        if self.pairing is not None:
            summary = f"{len(self.pairing.table)} entries paired"
            checks.insert(0, _structure_check(self.pairing, summary))
        misfits = [] if self.pairing is None or self.fits else self.pairing.findings()
        return new_part(
            *_name_and_title(self.path),
            ALIGNED if self.aligned else NOT_ALIGNED,
            lines[0],
            lines=lines,
            look_at=None if self.aligned else self._look_at(red, hint),
            records=[self._record(key) for key in self.verdicts],
            checks=checks,
            findings=finding_entries([*misfits, *self.findings]),
            weights=[] if self.pairing is None else self.pairing.entries(),
            not_compared=[line.removeprefix("Not compared: ") for line in self._not_compared()],
            notes=[printable(line) for line in [*self.misfit_lines, *self.notes]],
            **{"power": self._power(), **self._data()},
        )

    def _record(self, key: str) -> dict[str, Any]:
        verdict = self.verdicts[key]
        return {
            "key": key,
            "verdict": verdict.name,
            "difference": verdict.difference,
            "threshold": verdict.threshold,
            "float64": verdict.float64,
            "bound64": verdict.bound64,
            "text": verdict.text,
        }

    def _power(self) -> str:
        """How small a mistake, or else a difference, would have been seen."""
        if self.power and self.power.line():
            return self.power.line().removeprefix("power: ")
        bounds = [each.bound64 for each in self.verdicts.values() if each.bound64 is not None]
        if bounds:
            return f"in float64, a difference above {max(bounds):.0e} of the largest value"
        largest = max(each.threshold for each in self.verdicts.values())
        return f"in float32, a difference above {largest:g}" if largest else "any difference"

    def _data(self) -> dict[str, Any]:
        """Of all that was compared what a page shows; of several tables that of the red one."""
        found = {}
        for each in sorted([*self.compared, *self.located], key=lambda each: each.agrees):
            for key, value in each.data.items():
                if isinstance(value, list):
                    found[key] = [*found.get(key, []), *value]
                elif value is not None:
                    found.setdefault(key, value)
        return found


def _name_and_title(path: Path) -> tuple[str, str]:
    """Of the step whose log this is."""
    return LOGS.get(path.stem, (path.stem, path.stem))


def _structure_check(pairing: Pairing, summary: str) -> dict[str, Any]:
    summary = summary if pairing.fits else pairing.verdict()
    return {"name": "structure", "aligned": pairing.fits, "summary": summary, "seconds": 0.0}


def _tell(lines: Sequence[str]) -> None:
    """The lines of a report, the verdict first, or the verdict alone."""
    print(coloured(lines[0], of_verdict(lines[0])), flush=True)
    if lines[1:]:
        say("\n".join(lines[1:]))


def report_misfits(pairing: Pairing, error: Exception, path: Path) -> None:
    """The report of a step whose port broke off, as it is not built as the reference is.

    Args:
        pairing: a Pairing that does not fit.
        error: the exception.
        path: of the log.
    """
    reason = f"{type(error).__name__}: {reason_of(error)}"
    lines = [
        f"NOT ALIGNED: {pairing.verdict()}",
        *_misfit_lines(pairing, path.parent),
        f"With the weights that fit, the port cannot be run: {reason}{place_of(error)}",
        f"Look at: {MISFITS_HINT}",
    ]
    lines = [printable(line) for line in lines]
    with whole_file(path) as temporary:
        with _logger_of_reprod_log(temporary, path) as logger:
            logger.end(False)
        with open(temporary, "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    _tell(lines)
    part = new_part(
        *_name_and_title(path),
        NOT_ALIGNED,
        lines[0],
        lines=lines,
        look_at=MISFITS_HINT,
        checks=[_structure_check(pairing, "")],
        findings=finding_entries(pairing.findings()),
        notes=lines[1:-1],
        weights=pairing.entries(),
    )
    findings = [asdict(finding) for finding in pairing.findings()]
    summary = {**misfits_summary(pairing, part), "findings": findings}
    write_json(summary, path.with_suffix(".json"))


def _misfit_lines(pairing: Pairing, folder: Path) -> list[str]:
    """What does not fit; writes a layer map that pairs it, if there may be one, into `folder`."""
    if not pairing.renamed:
        return pairing.lines()
    proposal = folder / "layer_map.json"
    write_json(pairing.layers, proposal)
    return pairing.lines(shown(proposal))


class _Records:
    """reprod_log's lines: all of them in the file, on the screen all or one."""

    def __init__(self, logger: logging.Logger, log: Path) -> None:
        self.info, self.log = logger.info, log

    def end(self, passed: bool) -> None:
        how = "diff check passed" if passed else "diff check failed"
        self.info(how)
        if detail() == Detail.NORMAL:
            with contextlib.suppress(OSError):  # of the screen; `screen.leave` tells it
                say(f"{how}: {shown(self.log)}")


@contextlib.contextmanager
def _logger_of_reprod_log(path: Path, log: Path) -> Iterator[_Records]:
    """reprod_log's logger with the handlers of this report only: file and screen, each once.

    Args:
        path: that is written now; it becomes `log`.
    """
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    for handler in before:
        root.removeHandler(handler)
    try:
        logger = init_logger(str(path))
        for handler in root.handlers[:]:
            if detail() < Detail.ALL and not isinstance(handler, logging.FileHandler):
                root.removeHandler(handler)
        yield _Records(logger, log)
    finally:
        for handler in root.handlers[:]:
            root.removeHandler(handler)
            if isinstance(handler, logging.FileHandler):
                handler.close()
            else:
                with contextlib.suppress(OSError):  # of the screen; `screen.leave` tells it
                    handler.flush()
        for handler in before:
            root.addHandler(handler)
        root.setLevel(level)
