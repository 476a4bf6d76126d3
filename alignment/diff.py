"""reprod_log's comparison and report, without the ways in which it passes what differs.

`DiffHelper` is used as `reprod_log.ReprodDiffHelper` is, and writes the same lines. In reprod_log
1.0.1 a difference that is NaN passes, arrays of other shapes are broadcast or transposed until
they can be subtracted, a key that one side lacks ends in a traceback, each further report repeats
all lines before it, and loading a record can run code from the file.
"""

import contextlib
import fnmatch
import json
import logging

import numpy as np
from reprod_log import ReprodDiffHelper
from reprod_log.utils import check_print_diff, init_logger

from .files import CannotRun, load_record, shown, whole_file

# A difference can only be judged where the values are larger than the threshold allows them to
# differ. Logits of a freshly initialised MobileNetV3 (mean size 1.7e-10) fall short by a million.
SCALE_OVER_THRESHOLD = 100


def save(logger, path):
    """`ReprodLogger.save`, whole or not at all."""
    with whole_file(path) as temporary:
        logger.save(str(temporary))


class DiffHelper(ReprodDiffHelper):
    """Compares two records: `load_info` twice, `compare_info(reference, paddle)`, `report`."""

    def load_info(self, path):
        """{key: array}. Raises CannotRun where `path` is no record of reprod_log."""
        return load_record(path)

    def compare_info(self, reference, port):
        """Compares the records of both sides key by key; `report` then judges.

        Args:
            reference, port: {key: array}.
        """
        self.diff_dict, self.reasons, self.scales = {}, {}, {}
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

    def report(self, diff_method="mean", diff_threshold=1e-6, path="./diff.txt", hint=None):
        """Prints reprod_log's report, and under it the verdict; writes the report to `path`.

        Beside it, `path` with the suffix .json holds the verdict for other programs.

        Args:
            diff_method: "mean", "max" or "min" of the absolute difference.
            diff_threshold: the largest difference that passes; or {pattern of keys: threshold},
                the first pattern that fits counts.
            path: of the log.
            hint: what to look at if the verdict is "not aligned".

        Returns:
            bool, whether all keys are aligned.
        """
        thresholds = {key: _threshold_of(key, diff_threshold) for key in self.diff_dict}
        for key, scale in self.scales.items():
            if scale < SCALE_OVER_THRESHOLD * thresholds[key]:
                self.reasons[key] = (
                    f"{key}: values of mean size {scale:.2g} are too small for a threshold of "
                    f"{thresholds[key]:g} to tell anything: are the weights freshly initialised?"
                )

        if not self.diff_dict:
            raise CannotRun("there is nothing to compare: both records are empty")
        aligned = True
        with whole_file(path) as temporary, _logger_of_reprod_log(temporary) as logger:
            for key, diff in self.diff_dict.items():
                threshold = -1.0 if key in self.reasons else thresholds[key]
                aligned &= check_print_diff({key: diff}, diff_method, threshold, logger.info)
            logger.info("diff check passed" if aligned else "diff check failed")

        # What is furthest beyond its threshold; a threshold of 0 allows nothing.
        def excess(key):
            value = self.diff_dict[key][diff_method]
            return (key in self.reasons, value / thresholds[key] if thresholds[key] else value)

        worst = max(self.diff_dict, key=excess)
        value, threshold = self.diff_dict[worst][diff_method], thresholds[worst]
        if aligned:
            print(
                f"aligned: {len(self.diff_dict)} array{'s'[: len(self.diff_dict) > 1]}, "
                f"largest {diff_method} difference {value:.2g} ({worst}), threshold {threshold:g}"
            )
        else:
            measured = f"{worst}: {diff_method} difference {value:.2g}, threshold {threshold:g}"
            print(f"NOT ALIGNED: {self.reasons.get(worst, measured)}")
            print(f"Look at: {hint}" if hint else f"Details: {shown(path)}")
        summary = {
            "verdict": "aligned" if aligned else "not aligned",
            "compared": list(self.diff_dict),
            "worst": worst,
            "difference": float(value) if np.isfinite(value) else str(value),
            "threshold": threshold,
            "reason": self.reasons.get(worst),
        }
        with whole_file(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(summary, indent=2) + "\n")
        return aligned


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


def _threshold_of(key, thresholds):
    if not isinstance(thresholds, dict):
        return thresholds
    return next(value for pattern, value in thresholds.items() if fnmatch.fnmatch(key, pattern))


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
            handler.close() if isinstance(handler, logging.FileHandler) else handler.flush()
        for handler in before:
            root.addHandler(handler)
        root.setLevel(level)
