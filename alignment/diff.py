"""reprod_log's comparison and report, without the ways in which it passes what differs.

`DiffHelper` is used as `reprod_log.ReprodDiffHelper` is, and writes the same lines. In reprod_log
1.0.1 a difference that is NaN passes, arrays of other shapes are broadcast or transposed until
they can be subtracted, a key that one side lacks ends in a traceback, each further report repeats
all lines before it, and loading a record can run code from the file.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from reprod_log import ReprodDiffHelper

from .files import load_record, whole_file
from .layers import incomparable, relative
from .thresholds import AMPLIFICATION, FORWARD_FLOAT64, IMPRECISE

if TYPE_CHECKING:
    from reprod_log import ReprodLogger


__all__ = ["VERDICTS", "DiffHelper", "Verdict", "save"]

# A difference can only be judged where the values are larger than the threshold allows them to
# differ. Logits of a freshly initialised MobileNetV3 (mean size 1.7e-10) fall short by a million.
SCALE_OVER_THRESHOLD = 100

FLOAT64_OVER_FLOAT32 = np.finfo(np.float64).eps / np.finfo(np.float32).eps

# From good to bad.
VERDICTS = ("aligned", "rounding", "imprecise", "misaligned")


class Verdict(NamedTuple):
    name: str
    text: str
    difference: float  # in float32, absolute
    threshold: float
    float64: float | None  # relative
    excess: float  # over what is allowed, to find the worst
    bound64: float | None = None  # of `float64`


def save(logger: ReprodLogger, path: Path) -> None:
    """`ReprodLogger.save`, whole or not at all."""
    with whole_file(path) as temporary:
        logger.save(str(temporary))


class DiffHelper(ReprodDiffHelper):
    """Compares two records: `load_info` twice, `compare_info(reference, paddle)`, `report`."""

    scale_over_threshold = SCALE_OVER_THRESHOLD

    def load_info(self, path: str | Path) -> dict[str, np.ndarray]:
        """{key: array}. Raises CannotRun where `path` is no record of reprod_log."""
        return load_record(path)

    def compare_info(
        self,
        reference: Mapping[str, np.ndarray],
        port: Mapping[str, np.ndarray],
        reference64: Mapping[str, np.ndarray] | None = None,
        port64: Mapping[str, np.ndarray] | None = None,
    ) -> None:
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
            if reference64 is not None and port64 is not None:
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
        diff_method: str = "mean",
        diff_threshold: float | Mapping[str, float] = 1e-6,
        path: str | Path = "./diff.txt",
    ) -> bool:
        """Prints reprod_log's report and the verdict under it; writes both to `path`.

        Beside it, `path` with the suffix .json holds the verdict for other programs.

        Args: as for `judge`; `path` is that of the log.

        Returns:
            bool, whether all keys are aligned.
        """
        from .step import StepReport

        return StepReport(self, Path(path), diff_threshold, diff_method=diff_method).finish()

    def judge(
        self,
        diff_method: str = "mean",
        diff_threshold: float | Mapping[str, float] = 1e-6,
        bound: float | Mapping[str, float] = FORWARD_FLOAT64,
    ) -> dict[str, Verdict]:
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

    def float64_bound(self, key: str, bound: float = FORWARD_FLOAT64) -> float:
        """The largest difference of a record that passes in float64, relative to its largest value.

        It grows with how much the network itself amplifies rounding.
        """
        return max(bound, AMPLIFICATION * float(self.amplified.get(key, 0.0)))

    def _judge(self, key: str, diff_method: str, threshold: float, bound: float) -> Verdict:
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
        bound = self.float64_bound(key, bound)
        if difference > bound:
            text = f"{key}: differs in float64 by {difference:.1e} (relative, bound {bound:.0e})"
            if not np.isfinite(difference):
                text = f"{key}: in float64, {self.incomparable64[key]}"
            excess = difference / bound
            return Verdict("misaligned", text, value, threshold, difference, excess, bound)
        agreed = f"agrees in float64 to {difference:.1e} (relative)"
        if within:
            text = f"{measured}; {agreed}"
            return Verdict("aligned", text, value, threshold, difference, excess, bound)
        name = "rounding" if ratio <= IMPRECISE else "imprecise"
        text = f"{measured}; {agreed}, Paddle's float32 error is {ratio:.1f} times PyTorch's"
        return Verdict(name, text, value, threshold, difference, excess, bound)


def _why_not_comparable(reference: np.ndarray | None, port: np.ndarray | None) -> str | None:
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


def _fitting(key: str, values: float | Mapping[str, float]) -> float:
    """`values` itself, or of {pattern: value} the first that fits."""
    if not isinstance(values, Mapping):
        return values
    return next(value for pattern, value in values.items() if fnmatch.fnmatch(key, pattern))
