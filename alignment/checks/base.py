"""What all checks of a pair share: how models are run, compared, and where they differ."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import torch

from .. import layers, locate
from ..files import CannotRun, place_of, reason_of
from ..findings import SETTING, Finding, Report
from ..known import ACCEPTED, CURES, AsPaddle
from ..paddle_internals import RECURRENT
from ..pairing import layer_of
from ..settings import different_settings, is_of_framework, is_one, kind
from ..structure import SHALLOW, flatten, is_tensor, to_array
from ..thresholds import AMPLIFICATION

if TYPE_CHECKING:
    from ..compare import Pair
    from ..dropout import SharedDropout
    from ..inputs import Inputs
    from ..pairing import Table
    from ..settings import Layer
    from ..training.comparison import Difference


SMALL = 1e-5  # of this size are differences by a constant that one side rounds
SETTINGS_SHOWN = 8


def told(error: BaseException) -> str:
    """An exception of the user's code in one line, with where it was raised."""
    return f"{type(error).__name__}: {reason_of(error)}{place_of(error)}"


class PortBroken(Exception):
    """The port cannot be run; holds a Finding."""


class ReferenceBroken(Exception):
    """The reference cannot be run."""


class NoGradient(Exception):
    """There is no gradient to compare; says why."""


@dataclass
class Leaves:
    """What a model has returned."""

    arrays: dict
    others: dict


def leaves(output: Any) -> Leaves:
    flat = flatten(output)
    return Leaves(
        {path: to_array(leaf) for path, leaf in flat.items() if is_tensor(leaf)},
        {path: leaf for path, leaf in flat.items() if not is_tensor(leaf)},
    )


def named_leaves(given: Inputs) -> dict[str, Any]:
    flat = {f"input {i}{path}": leaf for i, x in enumerate(given.positional)
            for path, leaf in flatten(x).items()}  # fmt: skip
    flat |= {f"input {name}{path}": leaf for name, x in given.named.items()
             for path, leaf in flatten(x).items()}  # fmt: skip
    return flat


def named_tensors(given: Inputs) -> dict[str, Any]:
    return {name: leaf for name, leaf in named_leaves(given).items() if is_tensor(leaf)}


def named_arrays(given: Inputs) -> dict[str, np.ndarray]:
    return {n: leaf for n, leaf in named_leaves(given).items() if isinstance(leaf, np.ndarray)}


def named_floats(given: Inputs) -> dict[str, Any]:
    return {name: leaf for name, leaf in named_tensors(given).items() if is_float(leaf)}


def floats(given: Inputs) -> Collection[Any]:
    return named_floats(given).values()


def is_float(tensor: Any) -> bool:
    return tensor.is_floating_point()


def some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)})" if len(names) > most else "")


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def in_recurrent(model: paddle.nn.Layer, name: str) -> bool:
    """Whether a layer lies in an LSTM, GRU or SimpleRNN, which calls a kernel in its place."""
    names = dict(model.named_sublayers(include_self=True))
    parents = [layer_of(name)]
    while parents[-1]:
        parents.append(layer_of(parents[-1]))
    return any(isinstance(names.get(parent), RECURRENT) for parent in parents)


def does_not_take(why: object) -> str:
    return (
        f"the reference cannot be run with these inputs: {why}. Give the shapes, dtypes, ranges "
        "and names that it takes (--input)"
    )


class Base:
    """What is compared, and what has been found; see `alignment.check` for the arguments."""

    # Set as the checks go on.
    port: paddle.nn.Layer
    reference: torch.nn.Module
    table: Table
    layer_map: dict[str, str]
    inputs: Inputs
    targets: tuple
    parameters: int
    float64_now: bool
    # Of the other checks, with which one class is made of them all.
    _make_reference: Callable[[], torch.nn.Module]
    _no_float64: Callable[[BaseException], None]

    def __init__(
        self, pair: Pair, checks: Sequence[str], sizes: int, count: int, optimizer: str, stop: bool
    ) -> None:
        self.pair, self.checks, self.sizes, self.count = pair, checks, sizes, count
        self.optimizer, self.stop = optimizer, stop
        self.report = Report()
        self.float64 = True
        self.amplified = 0.0
        self.cures = set()  # of known.CURES, for functions that the reference calls
        self.settings = []
        self.changed = {"port": set(), "reference": set()}

    def _tensors(self, side: str, inputs: Inputs) -> Inputs:
        dtype = "float64" if self.float64_now else None

        def tensor(array: np.ndarray) -> Any:
            if array.dtype.kind == "f" and dtype:
                array = array.astype(dtype)
            if side == "port":
                return paddle.to_tensor(np.asarray(array, order="C"))
            return torch.from_numpy(np.array(array))

        return inputs.map(tensor)

    def _call(self, side: str, model: Layer, inputs: Inputs | None = None) -> Any:
        """The output of a model, on fresh tensors of its inputs."""
        given = self._tensors(side, inputs or self.inputs)
        try:
            output = model(*given.positional, **given.named)
        except (Exception, SystemExit) as error:
            if side == "port":
                raise PortBroken(self._broken(error)) from error
            raise ReferenceBroken(told(error)) from error
        self._note_changed_inputs(side, given, inputs or self.inputs)
        return output

    def _note_changed_inputs(self, side: str, given: Inputs, inputs: Inputs) -> None:
        """Remembers which inputs a model has changed in place."""
        before = named_arrays(inputs)
        for name, tensor in named_tensors(given).items():
            after = to_array(tensor)
            same = after.shape == before[name].shape and np.array_equal(
                after, before[name].astype(after.dtype), equal_nan=after.dtype.kind == "f"
            )
            if not same:
                self.changed[side].add(name)

    def _broken(self, error: BaseException) -> Finding:
        return Finding(
            "forward",
            "",
            f"the port breaks off: {told(error)}",
            hint="The reference runs with the same inputs, so the port has to",
        )

    def _exact(self) -> Any:
        """Modules of the reference whose counterpart in the port is no layer of Paddle.

        What somebody has written by hand holds its constants as they are.
        """
        if not hasattr(self, "exact"):
            port = dict(self.port.named_sublayers())
            reference = {name: module for name, module in self.reference.named_modules() if name}
            pairs = layers.match(port, reference, self.layer_map)
            self.exact = {
                reference[other] for name, other in pairs.items() if not is_of_framework(port[name])
            }
        return self.exact

    @contextlib.contextmanager
    def _as_paddle(self, dropout: SharedDropout | None = None) -> Iterator[None]:
        functions = AsPaddle(self.pair.accept, dropout, self._exact())
        with functions.running(self.reference):
            yield
        self.report.known += list(functions.lines)
        self.cures |= functions.cures

    def _differs(
        self,
        check_: str,
        where: str,
        quantity: str,
        port: Any = "",
        reference: Any = "",
        **more: Any,
    ) -> None:
        self.report.differences.append(
            Finding(check_, where, quantity, str(port), str(reference), **more)
        )

    def _require_values(self, leaves: Leaves) -> None:
        """Raises CannotRun if what the reference returns is nothing that can be compared."""
        arrays = leaves.arrays
        if not arrays:
            kinds = ", ".join(sorted({type(each).__name__ for each in leaves.others.values()}))
            raise CannotRun(
                f"the reference returns no tensor ({kinds or 'an empty structure'}): there is "
                "nothing to compare. Give a class or function whose model returns tensors"
            )
        if not any(array.size for array in arrays.values()):
            shape = list(next(iter(arrays.values())).shape)
            raise CannotRun(
                f"the reference returns an empty tensor, shape {shape}: give inputs with which "
                "there is something in it"
            )
        for path, array in arrays.items():
            if not array.size:
                self.report.not_compared.append(f"output{path}: empty, shape {list(array.shape)}")
            if array.dtype.kind in "fc" and np.isnan(array).any():
                raise CannotRun(
                    f"the reference's output{path} holds NaNs with these weights and inputs, and "
                    "NaNs cannot be compared. Give other inputs, or weights that fit them "
                    "(--torch-weights, --own-weights)"
                )

    def _bound(self, least: float) -> float:
        if self.pair.bound is not None:
            return self.pair.bound
        return max(least, AMPLIFICATION * self.amplified)

    def _compare_outputs(self, check_: str, mine: Leaves, theirs: Leaves, limit: float) -> float:
        """The largest difference; what is above the limit becomes a Finding."""
        worst = 0.0
        for path, a, b in layers.pair_leaves(mine.arrays, theirs.arrays):
            a = layers.arrange(a, b, self.pair.channels_last)
            name = f"output{path}"
            value = layers.relative(a, b)
            worst = max(worst, value)
            if value <= limit:
                continue
            reason = layers.incomparable(a, b)
            if reason.startswith(("shape", "dtype")):
                quantity, _, sides = reason.partition(" ")
                self._differs(check_, name, quantity, *sides.split(" | "))
            elif reason:
                self._differs(check_, name, reason)
            else:
                finding = Finding(check_, name, "output", "", "", value, limit)
                self.report.differences.append(finding)
        for path, a, b in layers.pair_leaves(mine.others, theirs.others):
            if isinstance(a, SHALLOW) and isinstance(b, SHALLOW):
                if a != b:
                    self._differs(check_, f"output{path}", "value", repr(a), repr(b))
            else:
                kinds = " | ".join(type(x).__name__ for x in (a, b))
                self.report.not_compared.append(f"output{path}: no tensor ({kinds})")
        return worst

    def _comparable_layers(
        self, seen: dict[str, Any], seen_reference: dict[str, Any], complete: bool = True
    ) -> dict[str, Any]:
        """`seen` without the layers of parameters that have no counterpart; notes on all such.

        Args:
            complete: the port has run to its end.
        """
        before = len(self.report.not_compared)
        paired = {
            layer_of(name)
            for name, (source, rule) in self.table.items()
            if isinstance(source, str) and isinstance(rule, str)
        }
        never = [
            name
            for name, layer in self.port.named_sublayers()
            if name not in seen and not list(layer.children()) and not in_recurrent(self.port, name)
        ]
        if never:
            self.report.not_compared.append(
                f"layers of the port that were never called: {some(never)}"
            )
        never = [
            name
            for name, module in self.reference.named_modules()
            if name
            and name not in seen_reference
            and not list(module.children())
            and not name.endswith("out_proj")
        ]
        if never:
            self.report.not_compared.append(
                f"layers of the reference that were never called: {some(never)}"
            )
        kept, lost = {}, []
        if not complete:
            del self.report.not_compared[before:]
        for name, each in seen.items():
            plain = name.partition(" (call")[0]
            own = [p for p in each.layer.parameters(include_sublayers=False)]
            if own and plain and plain not in paired and not list(each.layer.children()):
                lost.append(name)
            else:
                kept[name] = each
        matched = layers.match(kept, seen_reference, self.layer_map)
        lost += [name for name in kept if name and name not in matched]
        # What lies in attention or a recurrent layer is compared with it.
        whole = [name for name in matched if is_one(seen[name].layer)]
        lost = [n for n in lost if not any(n.startswith(f"{name}.") for name in whole)]
        others = set(matched.values())
        lost_reference = [name for name in seen_reference if name and name not in others]
        for names, side in ((lost, "port"), (lost_reference, "reference")):
            if names and complete:
                self.report.not_compared.append(
                    f"{counted(len(names), 'layer')} of the {side} without a counterpart (what "
                    f"comes after them is compared): {some(names)}"
                )
        return kept

    def _note_settings(self) -> None:
        """Sets `self.settings`: lines on what can be read off paired layers and differs."""
        port = dict(self.port.named_sublayers())
        reference = {name: module for name, module in self.reference.named_modules() if name}
        packed = {layer_of(n) for n, entry in self.table.items() if not isinstance(entry[1], str)}
        found = {}
        for name, other in layers.match(port, reference, self.layer_map).items():
            if name in packed:  # split, or joined from several
                continue
            for setting in different_settings(port[name], reference[other]):
                if setting.name != "type":
                    found.setdefault(setting, []).append(name)
        self.settings = [
            f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {setting}"
            for setting, names in found.items()
        ]

    def _locate(
        self,
        findings: list[Finding],
        rows: Sequence[layers.Row],
        seen: dict[str, Any],
        seen_reference: dict[str, Any],
        limit: float,
    ) -> None:
        """Puts the first layer that differs before the outputs that do."""
        unpaired = locate.unpaired_between(seen, seen_reference, rows)
        row = next((row for row in rows if row.output > limit), None)
        if row is None:
            findings[0].detail = ["All layers agree: the mistake is in what is done with them"]
            return
        finding = locate.first_forward(rows, limit, unpaired)
        assert finding is not None  # of `row`, or of what is before it
        located = [*self._located(finding), *self._settings_lines()]
        if not row.name:  # the model itself: what comes out of it is told already
            findings[0].detail = located
            findings[0].hint = self._cure(row.output)
            return
        # Where its input differs already, the mistake lies before it.
        own = different_settings(row.port.layer, row.reference.layer) if row.input <= limit else []
        if own:
            finding.quantity, finding.port, finding.reference = own[0]
        else:
            finding.hint = CURES.get(kind(row.port.layer), "") or self._cure(row.output)
        finding.detail = located
        self.report.differences.insert(self.report.differences.index(findings[0]), finding)

    def _located(self, finding: Finding) -> list[str]:
        """Lines on where two models differ; its title moves into them."""
        title, finding.title = finding.title, ""
        return [f"{title}: {finding.text()}", *finding.detail]

    def _settings_lines(self) -> list[str]:
        return [f"{SETTING}: {line}" for line in self.settings[:SETTINGS_SHOWN]]

    def _settings_of(self, name: str) -> list[str]:
        """Lines on what can be read off a layer of the port and its counterpart and differs."""
        port = dict(self.port.named_sublayers())
        reference = {n: module for n, module in self.reference.named_modules() if n}
        other = layers.match(port, reference, self.layer_map).get(name)
        if other is None:
            return []
        found = different_settings(port[name], reference[other])
        return [f"{SETTING}: {name}: {setting}" for setting in found]

    def _cure(self, difference: float) -> str:
        """What to do about a small difference, if a function that was called is known for it."""
        if difference > SMALL:
            return ""
        return "; ".join(CURES[name] for name in sorted(self.cures))

    def _add_rows(self, check_: str, rows: Sequence[Difference]) -> None:
        """Turns rows of a training that differ into Findings."""
        for row in rows:
            if row.agrees or row.value <= (self.pair.bound or 0.0):
                continue
            if row.cause in self.pair.accept:
                self.report.known.append(ACCEPTED[row.cause])
                continue
            hint = CURES[row.cause] if row.cause else row.hint
            finding = Finding(check_, row.name, row.kind, hint=hint)
            if row.reason:
                finding.quantity += f": {row.reason}"
            elif np.isfinite(row.value):
                finding.difference, finding.bound = row.value, row.bound
            if row.kind in ("loss", "dropout"):
                finding.where, finding.quantity = "", row.kind
                finding.port, _, finding.reference = row.name.partition(" | ")
            if row.kind == "dropout":
                finding.where, finding.bound = row.where, None
                finding.detail += self._settings_of(row.where)
            elif row.where:
                finding.detail.append(f"in {row.where}")
            self.report.differences.append(finding)
