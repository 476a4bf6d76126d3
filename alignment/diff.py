"""reprod_log's comparison and report, without the ways in which it passes what differs.

`DiffHelper` is used as `reprod_log.ReprodDiffHelper` is, and writes the same lines. In reprod_log
1.0.1 a difference that is NaN passes, arrays of other shapes are broadcast or transposed until
they can be subtracted, a key that one side lacks ends in a traceback, each further report repeats
all lines before it, and loading a record can run code from the file.
"""

import contextlib
import fnmatch
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from reprod_log import ReprodDiffHelper
from reprod_log.utils import check_print_diff, init_logger

from .files import (
    CannotRun,
    load_record,
    place_of,
    reason_of,
    shown,
    whole_file,
    write_json,
)
from .layers import incomparable, relative
from .screen import printable
from .thresholds import AMPLIFICATION, FORWARD_FLOAT64, IMPRECISE

# A difference can only be judged where the values are larger than the threshold allows them to
# differ. Logits of a freshly initialised MobileNetV3 (mean size 1.7e-10) fall short by a million.
SCALE_OVER_THRESHOLD = 100

FLOAT64_OVER_FLOAT32 = np.finfo(np.float64).eps / np.finfo(np.float32).eps


def save(logger, path):
    """`ReprodLogger.save`, whole or not at all."""
    with whole_file(path) as temporary:
        logger.save(str(temporary))


class DiffHelper(ReprodDiffHelper):
    """Compares two records: `load_info` twice, `compare_info(reference, paddle)`, `report`."""

    scale_over_threshold = SCALE_OVER_THRESHOLD

    def load_info(self, path):
        """{key: array}. Raises CannotRun where `path` is no record of reprod_log."""
        return load_record(path)

    def compare_info(self, reference, port, reference64=None, port64=None):
        """Compares the records of both sides key by key; `report` then judges.

        Args:
            reference, port: {key: array}.
            reference64, port64: the same computed in float64, or None where rounding is no matter.
        """
        self.records = reference, port
        self.diff_dict, self.reasons, self.scales = {}, {}, {}
        self.float64, self.amplified, self.incomparable64 = {}, {}, {}
        for key in [*reference, *(key for key in port if key not in reference)]:
            reason = _why_not_comparable(reference.get(key), port.get(key))
            if reason:
                self.reasons[key] = f"{key}: {reason}"
                self.diff_dict[key] = dict.fromkeys(("mean", "max", "min"), np.inf)
                continue
            # float64 holds float32 and every label exactly; unsigned bytes would wrap around.
            a, b = (array.astype(np.float64) for array in (reference[key], port[key]))
            diff = np.abs(a - b)
            self.diff_dict[key] = {name: getattr(diff, name)() for name in ("mean", "max", "min")}
            self.scales[key] = np.abs(a).mean()
            if reference64 is not None:
                a64, b64 = reference64[key], port64[key]
                if a64.shape != b64.shape:
                    self.reasons[key] = f"{key}: in float64, {incomparable(b64, a64)}"
                    continue
                # An error of 0 by luck, as a scalar's often is, counts as four units of float32.
                floor = 4 * np.finfo(np.float32).eps * self.scales[key]
                error_ratio = np.abs(b - b64).mean() / max(np.abs(a - a64).mean(), floor)
                # How much the network itself amplifies rounding, seen on the reference alone.
                amplified = relative(a, a64) * FLOAT64_OVER_FLOAT32
                self.float64[key] = relative(b64, a64), float(error_ratio)
                self.incomparable64[key] = incomparable(b64, a64)
                self.amplified[key] = amplified if np.isfinite(amplified) else 0.0

    def report(
        self,
        diff_method="mean",
        diff_threshold=1e-6,
        path="./diff.txt",
        hint=None,
        bound=FORWARD_FLOAT64,
        float64=None,
        notes=(),
        findings=None,
        further=(),
        locate=None,
        always_locate=False,
        pairing=None,
    ):
        """Prints reprod_log's report and the verdict under it; writes both to `path`.

        Beside it, `path` with the suffix .json holds the verdict for other programs.

        Args:
            diff_method: "mean", "max" or "min" of the absolute difference.
            diff_threshold: the largest difference that passes in float32; or {pattern of keys:
                threshold}, the first pattern that fits counts.
            path: of the log.
            hint: what to look at if the verdict is "not aligned".
            bound: the largest difference that passes in float64, relative to the largest value;
                or {pattern: bound}.
            float64: for what is costly in float64: called without arguments if a float32 difference
                is above its threshold; returns `compare_info`'s reference64 and port64.
            notes: lines on what was done to make float64 comparable; for the log only.
            findings: (whether they agree, lines) of comparisons beside the record.
            further: functions without arguments that return such a pair; called in turn as long as
                all agrees, so that the first mistake is told by itself. Their lines say what to
                look at.
            locate: called without arguments if the records or the findings disagree; returns lines
                that say where.
            always_locate: call it in any case.
            pairing: the Pairing of both models' parameters; one that does not fit is a finding.

        Returns:
            bool, whether all keys and the findings are aligned.
        """
        if not self.diff_dict:
            raise CannotRun("there is nothing to compare: both records are empty")
        path = Path(path)
        verdicts = self.judge(diff_method, diff_threshold, bound)
        if float64 and any(verdict.name != "aligned" for verdict in verdicts.values()):
            self.compare_info(*self.records, *float64())
            verdicts = self.judge(diff_method, diff_threshold, bound)
        agree, found = findings or (True, [])
        misfits = [] if pairing is None or pairing.fits else _misfit_lines(pairing, path.parent)
        if misfits:
            agree, found = False, [*misfits, *found]
            hint = "the parameters and layers that are named first, beside the reference's"
        records_agree = all(v.name in ("aligned", "rounding") for v in verdicts.values())
        to_locate = not (agree and records_agree)
        for comparison in further:
            if agree and records_agree:
                agree, lines = comparison()
                found = [*found, *lines] if agree else lines
        aligned = agree and records_agree
        beside = not to_locate and not agree
        lines = self._verdict_lines(verdicts, diff_method, agree, beside)
        if misfits:
            lines = [f"NOT ALIGNED: {pairing.verdict()}", *self._records_beside_misfits(verdicts)]
        where = locate() if locate and (always_locate or to_locate) else []
        # What can be read off comes first.
        lines += sorted([*found, *where], key=lambda line: not line.startswith("Differs"))
        if to_locate:
            lines.append(f"Look at: {hint}" if hint else f"Details: {shown(path)}")
        lines = [printable(line) for line in lines]

        with whole_file(path) as temporary:
            passed = True
            with _logger_of_reprod_log(temporary) as logger:
                for key, diff in self.diff_dict.items():
                    threshold = -1.0 if key in self.reasons else verdicts[key].threshold
                    passed &= check_print_diff({key: diff}, diff_method, threshold, logger.info)
                logger.info("diff check passed" if passed else "diff check failed")
            with open(temporary, "a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in [*lines, *notes])
        summary = self._summary(verdicts, aligned, agree, found)
        write_json(summary, path.with_suffix(".json"))
        print("\n".join(lines), flush=True)
        return aligned

    def judge(self, diff_method="mean", diff_threshold=1e-6, bound=FORWARD_FLOAT64):
        """{key: Verdict}; arguments as for `report`."""
        thresholds = {key: _fitting(key, diff_threshold) for key in self.diff_dict}
        for key, scale in self.scales.items():
            if scale < self.scale_over_threshold * thresholds[key]:
                self.reasons[key] = (
                    f"{key}: values of mean size {scale:.2g} are too small for a threshold of "
                    f"{thresholds[key]:g} to tell anything: are the weights freshly initialised?"
                )
        return {
            key: self._judge(key, diff_method, thresholds[key], _fitting(key, bound))
            for key in self.diff_dict
        }

    def _judge(self, key, diff_method, threshold, bound):
        """Bug or rounding? See docs/verdict.md."""
        value = float(self.diff_dict[key][diff_method])
        within = value <= threshold
        measured = f"{key}: {diff_method} difference {value:.2g}, threshold {threshold:g}"
        excess = value / threshold if threshold else value
        if key in self.reasons:
            return Verdict("misaligned", self.reasons[key], value, threshold, None, np.inf)
        if key not in self.float64:
            name = "aligned" if within else "misaligned"
            return Verdict(name, measured, value, threshold, None, excess)
        difference, ratio = self.float64[key]
        bound = max(bound, AMPLIFICATION * self.amplified[key])
        if difference > bound:
            text = f"{key}: in float64 they differ by {difference:.1e} of their size"
            text += f", bound {bound:.0e}"
            if not np.isfinite(difference):
                text = f"{key}: in float64, {self.incomparable64[key]}"
            return Verdict("misaligned", text, value, threshold, difference, difference / bound)
        agreed = f"in float64 they agree to {difference:.1e} of their size"
        if within:
            return Verdict("aligned", f"{measured}; {agreed}", value, threshold, difference, excess)
        name = "rounding" if ratio <= IMPRECISE else "imprecise"
        text = f"{measured}; {agreed}, Paddle's float32 error is {ratio:.1f} times PyTorch's"
        return Verdict(name, text, value, threshold, difference, excess)

    def _verdict_lines(self, verdicts, diff_method, agree, beside):
        def severity(key):
            return VERDICTS.index(verdicts[key].name), verdicts[key].excess

        self.worst = max(verdicts, key=severity)
        worst = verdicts[self.worst]
        if worst.name == "misaligned":
            return [f"NOT ALIGNED: {worst.text}"]
        if beside:
            return ["NOT ALIGNED: the records agree, what is compared beside them does not"]
        if not agree:
            return ["NOT ALIGNED: the records agree, what they come from does not"]
        if worst.name == "imprecise":
            return [f"NOT ALIGNED, imprecise: {worst.text}"]
        if worst.name == "rounding":
            return [f"aligned, rounding: {worst.text}"]
        arrays = "1 array" if len(verdicts) == 1 else f"{len(verdicts)} arrays"
        line = (
            f"aligned: {arrays}, largest {diff_method} difference "
            f"{worst.difference:.2g} ({self.worst}), threshold {worst.threshold:g}"
        )
        if self.float64:
            line += f"; in float64 {max(d for d, _ in self.float64.values()):.1e} of their size"
        return [line]

    def _records_beside_misfits(self, verdicts):
        """Lines on the records of models whose parameters do not all fit."""
        worst = verdicts[self.worst]
        if worst.name in ("aligned", "rounding"):
            return [f"With the weights that fit, the records agree: {worst.text}"]
        return [f"With the weights that fit, the records differ: {worst.text}"]

    def _summary(self, verdicts, aligned, agree, found):
        worst = verdicts[self.worst]
        name = worst.name if agree else "misaligned"
        return {
            "aligned": aligned,
            "records agree": worst.name in ("aligned", "rounding"),
            "verdict": name,
            "compared": list(self.diff_dict),
            "worst": self.worst,
            "difference": worst.difference if np.isfinite(worst.difference) else "inf",
            "threshold": worst.threshold,
            "float64": {key: str(difference) for key, (difference, _) in self.float64.items()},
            "verdicts": {key: verdict.name for key, verdict in verdicts.items()},
            "reasons": self.reasons,
            "findings": found,
        }


def report_misfits(pairing, error, path):
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
        "Look at: the parameters and layers that are named first, beside the reference's",
    ]
    with whole_file(path) as temporary:
        with _logger_of_reprod_log(temporary) as logger:
            logger.info("diff check failed")
        with open(temporary, "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    print("\n".join(lines), flush=True)
    summary = {
        "aligned": False,
        "records agree": False,
        "verdict": "misaligned",
        "compared": ["parameters"],
        "worst": pairing.verdict(),
        "difference": "inf",
        "threshold": 0.0,
        "findings": lines,
    }
    write_json(summary, path.with_suffix(".json"))


def _misfit_lines(pairing, folder):
    """What does not fit; writes a layer map that pairs it, if there may be one, into `folder`."""
    if not pairing.renamed:
        return pairing.lines()
    proposal = folder / "layer_map.json"
    write_json(pairing.layers, proposal)
    return pairing.lines(shown(proposal))


# From good to bad.
VERDICTS = ("aligned", "rounding", "imprecise", "misaligned")


class Verdict(NamedTuple):
    name: str
    text: str
    difference: float  # in float32, absolute
    threshold: float
    float64: float | None  # relative
    excess: float  # over what is allowed, to find the worst


def _why_not_comparable(reference, port):
    """Why two arrays cannot be subtracted, or None."""
    if port is None or reference is None:
        return f"missing on the {'Paddle' if port is None else 'reference'} side"
    if reference.shape != port.shape:
        return f"shape {port.shape} in Paddle, {reference.shape} in the reference"
    if reference.dtype != port.dtype:
        return f"dtype {port.dtype} in Paddle, {reference.dtype} in the reference"
    if reference.size == 0:
        return "empty on both sides: nothing to compare"
    for side, array in (("Paddle", port), ("reference", reference)):
        if not np.isfinite(array).all():
            return f"NaN or infinity on the {side} side"
    return None


def _fitting(key, values):
    """`values` itself, or of {pattern: value} the first that fits."""
    if not isinstance(values, dict):
        return values
    return next(value for pattern, value in values.items() if fnmatch.fnmatch(key, pattern))


@contextlib.contextmanager
def _logger_of_reprod_log(path):
    """reprod_log's logger with the handlers of this report only: screen and file, each once."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    for handler in before:
        root.removeHandler(handler)
    try:
        yield init_logger(str(path))
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
