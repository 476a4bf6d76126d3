"""Train mode: outputs, loss and gradients, with the same dropout masks on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import torch

from .. import layers, locate
from ..dropout import SharedDropout, without_inner_dropout
from ..files import CannotRun
from ..findings import Finding
from ..inputs import Inputs
from ..paddle_internals import RECURRENT
from ..pairing import counterpart
from ..precision import default_float64, to_float64
from ..settings import different_settings
from ..state import put, torch_gradients_now
from ..structure import flatten, is_tensor
from ..thresholds import GRADIENT_FLOAT64, TRAIN_FLOAT64
from ..training.comparison import Difference
from ..training.quantities import compare_gradients_now
from .base import (
    Base,
    NoGradient,
    PortBroken,
    ReferenceBroken,
    counted,
    does_not_take,
    floats,
    is_float,
    leaves,
    named_floats,
    told,
)

if TYPE_CHECKING:
    from ..settings import Layer


class Backward(Base):
    """Train mode: outputs, loss and gradients, with the same dropout masks on both sides."""

    def _backward(self) -> str | None:
        if not self._has_float64():
            return None
        parameters = [p for p in self.port.parameters() if not p.stop_gradient]
        if not parameters:
            self.report.not_compared.append("backward: the port has no parameter to be trained")
        self.train_mode = True
        self._compare_inner_dropout()
        try:
            return self._first_step()
        except NoGradient as error:
            self.report.not_compared.append(f"backward: {error}")
            return None

    def _compare_inner_dropout(self) -> None:
        """The rate of dropout inside of recurrent layers: all that can be compared of it."""
        theirs = dict(self.reference.named_modules())
        for name, layer in self.port.named_sublayers(include_self=True):
            if not isinstance(layer, RECURRENT):
                continue
            other = theirs.get(counterpart(name, self.layer_map))
            if isinstance(other, torch.nn.RNNBase) and abs(layer.dropout - other.dropout) > 1e-6:
                rates = f"{layer.dropout:.6g}", f"{other.dropout:.6g}"
                self._differs("backward", name, "dropout", *rates)

    def _has_float64(self) -> bool:
        if "forward" not in self.checks and self.float64 and not self.float64_now:
            self._run_both()  # what breaks off here does so in any dtype
            self.report.notes += to_float64(self.port, self.reference, self._exact())
            self.float64_now = True
            self._note_settings()
            try:
                with default_float64():
                    self._run_both()
            except PortBroken as error:
                self._no_float64(error)
            except CannotRun as error:
                if not isinstance(error.__cause__, ReferenceBroken):
                    raise
                self._no_float64(error.__cause__)
        return self.float64

    def _run_both(self) -> None:
        with torch.no_grad(), paddle.no_grad():
            try:
                self._require_values(leaves(self._call("reference", self.reference.eval())))
            except ReferenceBroken as error:
                raise CannotRun(does_not_take(error)) from error
            self.port.eval()
            self._call("port", self.port)

    def _first_step(self) -> str | None:
        """Compares outputs in train mode, loss and gradients."""
        result = self._gradients()
        limit = self._bound(TRAIN_FLOAT64)
        before = len(self.report.differences)
        worst = self._compare_outputs("backward", result["mine"], result["theirs"], limit)
        if len(self.report.differences) > before and self.train_mode and self._samples(result):
            del self.report.differences[before:]
            self.report.not_compared.append(
                "train mode: the reference samples random numbers other than dropout's, so both "
                "sides were compared in eval mode"
            )
            self.train_mode = False
            return self._first_step()
        rows = [*result["dropout"], *result["loss"], *result["gradients"]]
        rows.sort(key=lambda row: not row.reason)  # no gradient at all says more than another one
        found = self.report.differences[before:]
        if found:
            rows = [row for row in rows if row.kind != "loss"]
        self._add_rows("backward", rows)
        worst_gradient = max((r.value for r in rows if r.kind == "gradient"), default=0.0)
        if len(self.report.differences) > before:
            self._locate_backward(self.report.differences[before], limit, bool(found))
        count = sum(row.kind == "gradient" for row in rows)
        if count and not result["any_gradient"]:
            self.report.not_compared.append(
                "gradients: all are 0 in the reference, so they say nothing. Does the loss depend "
                "on the output?"
            )
        mode = "train" if self.train_mode else "eval"
        return (
            f"{mode} mode, {counted(count, 'gradient')}, float64: largest difference of outputs "
            f"{worst:.0e}, of gradients {worst_gradient:.0e}"
        )

    def _set_mode(self, train: bool) -> None:
        for model in (self.port, self.reference):
            if train:
                model.train()
            else:
                model.eval()

    def _gradients(self, record: bool = False) -> dict[str, Any]:
        """One forward and backward pass of both sides."""
        self._set_mode(self.train_mode)
        self.port.clear_gradients()
        self.reference.zero_grad(set_to_none=True)
        self.masks = masks = SharedDropout()
        result: dict[str, Any] = {}
        inputs: dict[str, Inputs] = {}

        def run(side: str) -> Callable[[Any], None]:
            def forward_and_backward(model: Layer) -> None:
                given = self._tensors(side, self.inputs)
                for tensor in floats(given):
                    if side == "port":
                        tensor.stop_gradient = False
                    else:
                        tensor.requires_grad_(True)
                inputs[side] = given
                try:
                    output = model(*given.positional, **given.named)
                    loss = self._loss(side, output)
                    if side == "reference" and not loss.requires_grad:
                        raise NoGradient(
                            "no gradient reaches anything in the reference: its output, or the "
                            "loss, is detached (detach, no_grad, inference_mode)"
                        )
                    loss.backward()
                except (CannotRun, NoGradient, PortBroken):
                    raise
                except (Exception, SystemExit) as error:
                    if side == "port":
                        finding = self._broken(error)
                        finding.check = "backward"
                        raise PortBroken(finding) from error
                    raise ReferenceBroken(told(error)) from error
                result[side] = output, loss

            return forward_and_backward

        before = self._statistics()
        with default_float64(), without_inner_dropout(self.port, self.reference) as lines:
            self.report.not_compared += lines
            with masks.of_port(self.port):
                if record:
                    result["seen"] = layers.record(self.port, run("port"), layers.Shelf())
                else:
                    run("port")(self.port)
            try:
                with self._as_paddle(masks), masks.of_reference(self.reference):
                    if record:
                        result["seen_reference"] = layers.record(
                            self.reference, run("reference"), layers.Shelf()
                        )
                    else:
                        run("reference")(self.reference)
            except ReferenceBroken as error:
                if not self.train_mode:
                    raise NoGradient(f"the reference has no backward pass: {error}") from error
                self.report.not_compared.append(
                    f"train mode: the reference cannot be run in it ({error}), so both sides were "
                    "compared in eval mode"
                )
                self.train_mode = False
                return self._gradients(record)
        result["before"] = before
        result["mine"], result["theirs"] = (leaves(result[s][0]) for s in ("port", "reference"))
        losses = [float(result[s][1].detach()) for s in ("port", "reference")]
        limit = self._bound(TRAIN_FLOAT64)
        difference = abs(losses[0] - losses[1]) / max(abs(losses[1]), self._loss_scale(result))
        result["loss"] = [
            Difference(
                "", "loss", f"{losses[0]!r} | {losses[1]!r}",
                difference if np.isfinite(difference) else np.inf, limit,
            )
        ]  # fmt: skip
        result["dropout"] = [
            Difference(each.where, "dropout", each.text, 0.0 if each.agrees else np.inf, 0.0)
            for each in masks.checks
        ]
        rows = compare_gradients_now("", self.port, self.reference, self.table)
        rows += self._input_gradients(inputs)
        result["gradients"] = rows
        theirs = torch_gradients_now(self.reference, self.table)
        result["any_gradient"] = any(x is not None and np.any(x) for x in theirs.values())
        result["any_gradient"] |= any(
            x.grad is not None and bool(x.grad.any()) for x in floats(inputs["reference"])
        )
        return result

    def _loss_scale(self, result: Mapping[str, Any]) -> float:
        """The size of the terms of the loss: their sum may be near 0 by chance."""
        arrays = [x for x in result["theirs"].arrays.values() if x.dtype.kind == "f" and x.size]
        return 1e-3 * max((np.abs(x).max() for x in arrays), default=1.0) or 1e-30

    def _input_gradients(self, inputs: Any) -> list[Difference]:
        rows = []
        sides = [named_floats(inputs[side]) for side in ("port", "reference")]
        for name, theirs in sides[1].items():
            mine = sides[0][name].grad
            a = None if mine is None else mine.numpy()
            b = None if theirs.grad is None else theirs.grad.numpy()
            if a is None and b is None:
                continue
            reason = layers.incomparable(a, b)
            if reason.startswith("none in"):
                side = "port" if a is None else "reference"
                reason = f"no gradient reaches the input in the {side}"
            value = layers.relative(a, b)
            rows.append(Difference("", "gradient", name, value, GRADIENT_FLOAT64, reason))
        return rows

    def _loss(self, side: str, output: Any) -> Any:
        function = self.pair.loss[0 if side == "port" else 1]
        if function is not None:
            return self._given_loss(side, function, output)
        total = None
        rng = np.random.default_rng(self.pair.seed + 1)
        for tensor in flatten(output).values():
            if not is_tensor(tensor) or not is_float(tensor):
                continue
            shape = tuple(tensor.shape)
            numbers = rng.standard_normal(shape) / np.sqrt(max(1, int(np.prod(shape))))
            if side == "port":
                term = (tensor * paddle.to_tensor(numbers)).sum()
            else:
                term = (tensor * torch.from_numpy(np.asarray(numbers))).sum()
            total = term if total is None else total + term
        if (
            total is None
            and side == "port"
            and any(f.check == "forward" for f in self.report.differences)
        ):
            raise PortBroken(Finding("backward", "output", "the port returns no floats"))
        if total is None:
            raise NoGradient("the output holds no real floats. Give a loss (--loss)")
        return total

    def _given_loss(self, side: str, function: Callable[..., Any], output: Any) -> Any:
        targets = self._tensors(side, Inputs(self.targets, {})).positional
        try:
            value = function(output, *targets)
            wrong = ""
            if not is_tensor(value):
                wrong = f"it returns {value!r:.60}"
            elif int(np.prod(value.shape)) != 1:
                wrong = f"it returns a tensor of shape {list(value.shape)}"
        except (Exception, SystemExit) as error:
            wrong = told(error)
        if not wrong:
            return value
        text = f"the loss does not work with the output of the {side}: {wrong}"
        if side == "port" and any(f.check == "forward" for f in self.report.differences):
            raise PortBroken(Finding("backward", "", text, hint="The outputs differ already"))
        raise CannotRun(
            f"{text}. It is called with the output and the targets, and returns a tensor of one "
            "value, in both frameworks; or give each its own (--paddle-loss, --torch-loss)"
        )

    def _statistics(self) -> dict[str, torch.Tensor]:
        """Copies of the reference's buffers: running statistics, which train mode moves."""
        return {name: buffer.clone() for name, buffer in self.reference.named_buffers()}

    def _samples(self, result: Mapping[str, Any]) -> bool:
        """Whether the reference gives another output with the same masks."""
        with torch.no_grad():
            for name, buffer in self.reference.named_buffers():
                buffer.copy_(result["before"][name])
        self.masks.next = 0
        quiet = without_inner_dropout(self.port, self.reference)
        with default_float64(), torch.no_grad(), quiet, self._as_paddle(self.masks):
            again = leaves(self._call("reference", self.reference))
        pairs = layers.pair_leaves(again.arrays, result["theirs"].arrays)
        return any(layers.relative(a, b) > 1e-9 for _, a, b in pairs)

    def _locate_backward(self, first: Finding, limit: float, forward: Any) -> None:
        # The forward pass has moved running statistics: both from one state again.
        put(self.port, self.reference, self.table)
        result = self._gradients(record=True)
        seen = self._comparable_layers(result["seen"], result["seen_reference"])
        rows = layers.compare(
            seen, result["seen_reference"], self.layer_map, self.pair.channels_last
        )
        known = self.report.data.get("layers", [])
        if self.pair.details and all(layer["agrees"] for layer in known):  # now with gradients
            self.report.data["layers"] = locate.layer_entries(rows, limit, GRADIENT_FLOAT64)
        unpaired = locate.unpaired_between(seen, result["seen_reference"], rows)
        finding = locate.first_forward(rows, limit, unpaired, "backward")
        finding = finding or locate.first_backward(rows)
        located = [*(self._located(finding) if finding else []), *self._settings_lines()]
        row = next((row for row in rows if row.output > limit), None)
        if finding and forward and row is not None and row.input <= limit and row.name:
            finding.quantity = "output in train mode"
            own = different_settings(row.port.layer, row.reference.layer)
            if own:
                finding.quantity, finding.port, finding.reference = own[0]
            finding.detail, first.detail = [*first.detail, *located], []
            self.report.differences.insert(self.report.differences.index(first), finding)
        else:
            first.detail += located
