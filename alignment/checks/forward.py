"""Eval mode: outputs and layers, in float32 and float64, and at other sizes of the input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import paddle
import torch

from .. import layers, locate
from ..files import CannotRun, reason_of
from ..findings import Finding
from ..pairing import layer_of
from ..power import forward_power
from ..precision import default_float64, to_float64
from ..structure import flatten, is_tensor
from ..thresholds import FORWARD_FLOAT64, IMPRECISE
from .base import (
    Base,
    PortBroken,
    ReferenceBroken,
    counted,
    does_not_take,
    is_float,
    leaves,
    some,
)

if TYPE_CHECKING:
    from ..inputs import Inputs
    from ..settings import Layer
    from .base import Leaves


FLOAT64_OVER_FLOAT32 = np.finfo(np.float64).eps / np.finfo(np.float32).eps
FLOAT32_BOUND = 1e-4  # where float64 cannot be had
SAMPLES = 1e-3  # float32's error in a model that does not sample: 1e-6, with extreme weights 1e-4
SAME_AGAIN = 1e-9  # a sum in another order gives 1e-16, times what a network amplifies


class Forward(Base):
    """Eval mode: outputs and layers, in float32 and float64, and at other sizes of the input."""

    def _forward(self) -> str | None:
        port, reference = self.port.eval(), self.reference.eval()
        port.eval()
        try:
            with torch.no_grad():
                first = leaves(self._call("reference", reference))
        except ReferenceBroken as error:
            raise CannotRun(does_not_take(error)) from error
        self._require_values(first)
        broken = None
        try:
            with paddle.no_grad():
                mine = leaves(self._call("port", port))
        except PortBroken as error:
            broken = error
        else:
            for name in sorted(self.changed["port"] - self.changed["reference"]):
                self._differs(
                    "forward", name, "changed in place by the port, and not by the reference",
                    hint="Look for operations that end in _ or for inplace=True: what the caller "
                    "holds is another tensor afterwards",
                )  # fmt: skip
            for path, a, b in layers.pair_leaves(mine.arrays, first.arrays):
                if a is not None and b is not None and a.dtype != b.dtype:
                    self._differs("forward", f"output{path}", "dtype", a.dtype, b.dtype)
        self.report.notes += to_float64(port, reference, self._exact())
        self.float64_now = True
        shelves = layers.Shelf(), layers.Shelf()
        outputs, seen, seen_reference = {}, {}, {}

        def run(side: str) -> Callable[[Any], None]:
            def forward(model: Layer) -> None:
                outputs[side] = self._call(side, model)

            return forward

        try:
            with default_float64(), torch.no_grad(), paddle.no_grad():
                with self._as_paddle():
                    layers.record(reference, run("reference"), shelves[0], seen_reference)
                layers.record(port, run("port"), shelves[1], seen)
        except (ReferenceBroken, PortBroken) as error:
            if broken is not None:
                self._where_broken(broken, seen, seen_reference)
            self._no_float64(error)
            return self._compare_float32(mine, first)
        if broken is not None:
            raise broken
        theirs64, mine64 = leaves(outputs["reference"]), leaves(outputs["port"])
        self._require_values(theirs64)
        pairs = [
            layers.relative(a, first.arrays[path])
            for path, a in theirs64.arrays.items()
            if path in first.arrays
        ]
        amplified = max((x for x in pairs if np.isfinite(x)), default=0.0)
        amplified = float(amplified * FLOAT64_OVER_FLOAT32)
        self.amplified = amplified
        # float32 and float64 of one model this far apart: as well it may sample random numbers.
        if amplified > SAMPLES * FLOAT64_OVER_FLOAT32 and self._differs_from_itself("reference"):
            raise CannotRun(
                "the reference gives another output each time it is run, in eval mode and with the "
                "same inputs. Take the random numbers out of it, or make them one of its inputs"
            )
        limit = self._bound(FORWARD_FLOAT64)
        worst = self._compare_outputs("forward", mine64, theirs64, limit)
        seen = self._comparable_layers(seen, seen_reference)
        rows = layers.compare(seen, seen_reference, self.layer_map, self.pair.channels_last)
        if self.pair.log_dir is not None:
            locate.write(rows, Path(self.pair.log_dir) / "compare_layers.log")
        if self.pair.details:
            self.report.data["layers"] = locate.layer_entries(rows, limit)
        different = [
            f
            for f in self.report.differences
            if f.check == "forward" and f.where.startswith("output")
        ]
        self._note_settings()
        if different:
            self._locate(different, rows, seen, seen_reference, limit)
            if self._differs_from_itself("port"):
                where = self.report.differences.index(different[0])
                first_ = self.report.differences[max(0, where - 1)]
                first_ = first_ if first_.detail else different[0]
                first_.hint = (
                    "The port gives another output each time it is run, in eval mode and with the "
                    "same inputs: it samples random numbers"
                )
        else:
            self._imprecise(mine, first, mine64, theirs64)
        count = sum(bool(row.name) for row in rows)
        layers_ = counted(count, "layer") if count else "no layer has a counterpart: outputs alone"
        summary = f"{counted(len(theirs64.arrays), 'output')}, {layers_}, float64: largest "
        summary += f"difference {worst:.0e}" if np.isfinite(worst) else "difference not a number"
        if not different:
            summary += self._other_sizes(limit)
            self._measure_power(limit, seen_reference)
        return summary

    def _measure_power(self, limit: float, seen: Any) -> None:
        """Notes how small a mistake in a weight would have been seen, and what would not."""

        def run(model: torch.nn.Module) -> list[torch.Tensor]:
            with default_float64(), self._as_paddle():
                found = flatten(self._call("reference", model)).values()
            return [each for each in found if is_tensor(each) and is_float(each)]

        try:
            power = forward_power(self.reference, run, limit, self.pair.seed)
        except (RuntimeError, ReferenceBroken) as error:  # as of a detached output
            self.report.notes.append(f"power: not measured: {reason_of(error)}")
            return
        self.report.power = power.line()
        self.report.notes += power.lines()
        # Of layers that were never called it is told already.
        unseen = [name for name in power.unseen if layer_of(name) in seen]
        if unseen:
            self.report.not_compared.append(
                f"parameters that have no effect on the outputs: {some(unseen)}"
            )

    def _differs_from_itself(self, side: str) -> bool:
        """Whether a model gives another output when it is run again."""
        model = self.port if side == "port" else self.reference
        with default_float64(), torch.no_grad(), paddle.no_grad():
            first, second = (leaves(self._call(side, model)).arrays for _ in range(2))
        return any(
            not np.array_equal(a, b, equal_nan=b.dtype.kind == "f")
            and layers.relative(a, b) > SAME_AGAIN
            for _, a, b in layers.pair_leaves(second, first)
            if a is not None and b is not None
        )

    def _where_broken(self, broken: Exception, seen: Any, seen_reference: Any) -> NoReturn:
        """The first layer that differs before the port breaks off; raises `broken`."""
        limit = self._bound(FORWARD_FLOAT64)
        seen = self._comparable_layers(seen, seen_reference, complete=False)
        rows = layers.compare(seen, seen_reference, self.layer_map, self.pair.channels_last)
        if self.pair.details:
            self.report.data["layers"] = locate.layer_entries(rows, limit)
        self._note_settings()
        self.report.differences.append(broken.args[0])
        if any(row.output > limit for row in rows):
            self._locate([broken.args[0]], rows, seen, seen_reference, limit)
        else:
            broken.args[0].detail += self._settings_lines()
        self.report.differences.remove(broken.args[0])
        raise broken

    def _no_float64(self, error: BaseException) -> None:
        side = "port" if isinstance(error, PortBroken) else "reference"
        finding = error.args[0]
        why = finding.quantity if isinstance(finding, Finding) else finding
        self.float64, self.float64_now = False, False
        port, reference = self.port, self.reference
        port.to(dtype="float32")
        reference.float()
        self.report.not_compared.append(
            f"float64: the {side} cannot be run in it ({why}). In float32 a mistake below "
            f"{FLOAT32_BOUND:g} cannot be told from rounding, and gradients were not compared"
        )

    def _compare_float32(self, mine: Leaves, theirs: Leaves) -> str | None:
        limit = max(self.pair.bound or 0.0, FLOAT32_BOUND)
        before = len(self.report.differences)
        worst = self._compare_outputs("forward", mine, theirs, limit)
        found = self.report.differences[before:]
        if found:
            self._note_settings()
            with torch.no_grad(), paddle.no_grad():
                seen_reference = layers.record(
                    self.reference, lambda model: self._call("reference", model)
                )
                seen = layers.record(self.port, lambda model: self._call("port", model))
            seen = self._comparable_layers(seen, seen_reference)
            rows = layers.compare(seen, seen_reference, self.layer_map, self.pair.channels_last)
            if self.pair.details:
                self.report.data["layers"] = locate.layer_entries(rows, limit)
            self._locate(found, rows, seen, seen_reference, limit)
        outputs = counted(len(theirs.arrays), "output")
        return f"{outputs}, in float32 alone: largest difference {worst:.0e}"

    def _imprecise(self, mine: Leaves, theirs: Leaves, mine64: Leaves, theirs64: Leaves) -> Any:
        """Whether the port's float32 is as good as PyTorch's."""
        for path, a, b in layers.pair_leaves(mine.arrays, theirs.arrays):
            a64, b64 = mine64.arrays.get(path), theirs64.arrays.get(path)
            if b64 is None or a64 is None or b is None or a is None or b.dtype.kind != "f":
                continue
            if not b.size or not np.isfinite(b64).all():
                continue
            floor = 4 * np.finfo(np.float32).eps * np.abs(b64).mean()
            ratio = np.abs(a - a64).mean() / max(np.abs(b - b64).mean(), floor, 1e-300)
            if ratio > IMPRECISE:
                self._differs(
                    "forward",
                    f"output{path}",
                    f"float32 error {ratio:.0f} times PyTorch's (bound {IMPRECISE:g})",
                    hint="In float64 they agree: is something on the way in half precision?",
                )

    def _other_sizes(self, limit: float) -> str:
        """Compares other sizes of the inputs; a text on them for the summary."""
        done, number = [], 0
        given = self.pair.inputs
        while len(done) + 1 < self.sizes:
            described = given.resized(number)
            number += 1
            if described is None:
                break
            inputs = described.make(np.random.default_rng(self.pair.seed))
            with default_float64(), torch.no_grad(), paddle.no_grad():
                try:
                    with self._as_paddle():
                        theirs = leaves(self._call("reference", self.reference, inputs))
                except ReferenceBroken:
                    continue
                if not all(np.isfinite(x).all() for x in theirs.arrays.values()):
                    continue  # as of a mask that leaves nothing
                shapes = [each.shape for each in described.leaves() if hasattr(each, "shape")]
                before_ = [each.shape for each in given.leaves() if hasattr(each, "shape")]
                shape = next(a for a, b in zip(shapes, before_) if a != b)
                text = "x".join(str(size) for size in shape)
                done.append(text)
                try:
                    mine = leaves(self._call("port", self.port, inputs))
                except PortBroken as broken:
                    finding = broken.args[0]
                    finding.quantity = f"at {text}: {finding.quantity}"
                    self.report.differences.append(finding)
                    continue
                before = len(self.report.differences)
                self._compare_outputs("forward", mine, theirs, limit)
                found = self.report.differences[before:]
                if found:
                    self._locate_at(inputs, found, limit, text)
        is_image = any(getattr(each, "is_image", False) for each in given.leaves())
        if self.sizes > 1 and not done and is_image:
            self.report.not_compared.append(
                "another size of image: the reference takes none of those tried"
            )
        return f"; also at {', '.join(done)}" if done else ""

    def _locate_at(self, inputs: Inputs, found: Any, limit: float, text: str) -> None:
        with self._as_paddle():
            seen_reference = layers.record(
                self.reference, lambda model: self._call("reference", model, inputs)
            )
        seen = layers.record(self.port, lambda model: self._call("port", model, inputs))
        rows = layers.compare(seen, seen_reference, self.layer_map, self.pair.channels_last)
        self._locate(found, rows, seen, seen_reference, limit)
        index = self.report.differences.index(found[0])
        first = self.report.differences[max(0, index - 1)]
        first = first if first.detail else found[0]
        first.detail.insert(0, f"This shows at a size of {text}, not at the first one")
