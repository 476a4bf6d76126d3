"""Where two models differ: the first layer, with its settings and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle

from .files import whole_file
from .findings import SETTING, Compared, Finding, settings_found
from .layers import (
    Masks,
    common_outputs,
    compare,
    float_inputs,
    how_far_all,
    incomparable,
    match,
    output_gradients,
    record,
    relative,
)
from .paddle_internals import RENAMED, STATISTICS
from .settings import different_settings, is_container, settings
from .thresholds import FORWARD_FLOAT64, GRADIENT_FLOAT64, TRAIN_FLOAT64

if TYPE_CHECKING:
    import torch

    from .layers import Row, Seen
    from .settings import Layer


__all__ = [
    "compare_settings",
    "first_backward",
    "first_forward",
    "layer_entries",
    "locate_backward",
    "locate_forward",
    "locate_loss",
    "unpaired_between",
    "write",
]

SHOWN = 8  # settings that differ: of another width, hundreds do
MISSING_SHOWN = 3  # layers that only one side has
THE_MODEL = "the model"


def compare_settings(
    port_model: paddle.nn.Layer,
    reference_model: torch.nn.Module,
    layer_map: Mapping[str, str] | None = None,
) -> list[Finding]:
    """[Finding]: settings that differ, over all layers, and layers that only one side has."""
    port = dict(port_model.named_sublayers())
    reference = {name: module for name, module in reference_model.named_modules() if name}
    pairs = match(port, reference, layer_map)
    where = {}
    for name, other in pairs.items():
        for setting in different_settings(port[name], reference[other]):
            where.setdefault(setting, []).append(name)
    found = []
    for setting, names in where.items():
        also = f" and {len(names) - 1} more" if len(names) > 1 else ""
        found += settings_found("settings", f"{names[0]}{also}", [setting])
    paired = set(pairs.values())
    found += _missing([n for n in port if n not in pairs], port, "only in the port")
    found += _missing([n for n in reference if n not in paired], reference, "only in the reference")
    return found


def _missing(names: Iterable[str], layers: Mapping[str, Layer], side: str) -> list[Finding]:
    """[Finding] of layers that have no counterpart; one inside of another is no news."""
    top = [name for name in names if name.rpartition(".")[0] not in names]
    found = [
        Finding("settings", name, f"{type(layers[name]).__name__}, {side}", title=SETTING)
        for name in top[:MISSING_SHOWN]
    ]
    if len(top) > MISSING_SHOWN:
        more = f"… and {len(top) - MISSING_SHOWN} more layers {side}"
        found.append(Finding("settings", "", more, title=SETTING))
    return found


def _described(layer: Layer) -> str:
    shown = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in settings(layer).items()
    ]
    return f"{type(layer).__name__}({', '.join(shown)})"


def write(rows: Iterable[Row], path: Path, backward: bool = False) -> None:
    """Writes one line for each row to `path`."""
    width = max((len(row.name or THE_MODEL) for row in rows), default=0)
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        columns = "input    output" + ("   gradient" if backward else "")
        file.write("# differences in float64, relative to the largest value\n")
        file.write(f"{'layer':{width}}  {columns}   port | reference\n")
        for row in rows:
            values = [row.input, row.output, *([row.output_gradient] if backward else [])]
            numbers = " ".join(f"{x:<8.1e}" if np.isfinite(x) else "other   " for x in values)
            agree = row.output <= (TRAIN_FLOAT64 if backward else FORWARD_FLOAT64) and (
                not backward or row.output_gradient <= GRADIENT_FLOAT64
            )
            mark = "" if agree else "  <-- differs"
            sides = f"{_described(row.port.layer)} | {_described(row.reference.layer)}"
            file.write(f"{row.name or THE_MODEL:{width}}  {numbers}  {sides}{mark}\n")


def layer_entries(
    rows: Iterable[Row], bound: float = FORWARD_FLOAT64, gradient_bound: float | None = None
) -> list[dict[str, Any]]:
    """A dictionary for each row: the `layers` of a report, as docs/report.schema.json has them.

    Args:
        bound: of the outputs' differences.
        gradient_bound: of those of their gradients, where there was a backward pass.
    """
    found = []
    for row in rows:
        port, reference = row.port.layer, row.reference.layer
        sides = settings(port), settings(reference)
        names = [*sides[0], *(name for name in sides[1] if name not in sides[0])]
        gradient = None if gradient_bound is None else row.output_gradient
        agrees = row.output <= bound and (
            gradient_bound is None or row.output_gradient <= gradient_bound
        )
        shape = next((list(x.shape) for x in row.port.outputs.values()), [])
        found.append(
            {
                "name": row.name or THE_MODEL,
                "reference": row.reference_name or THE_MODEL,
                "port_kind": type(port).__name__,
                "reference_kind": type(reference).__name__,
                "settings": [[name, *(_value(side.get(name)) for side in sides)] for name in names],
                "differs": [setting.name for setting in different_settings(port, reference)],
                "input": row.input,
                "output": row.output,
                "gradient": gradient,
                "bound": bound,
                "gradient_bound": gradient_bound,
                "shape": shape,
                "statistics": {
                    "input": _both_statistics(row.port.inputs, row.reference.inputs),
                    "output": _both_statistics(row.port.outputs, row.reference.outputs),
                },
                "agrees": agrees,
            }
        )
    return found


def _value(setting: Any) -> str | None:
    """A setting as text; None stays None: that side has none."""
    if isinstance(setting, float):
        return f"{setting:.6g}"
    return None if setting is None else str(setting)


def _both_statistics(
    port: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> dict[str, list[float] | None]:
    return {"port": _statistics(port), "reference": _statistics(reference)}


def _statistics(arrays: Mapping[str, np.ndarray]) -> list[float] | None:
    """[mean, standard deviation, least, largest] of the first array of floats; None if none."""
    array = next((x for x in arrays.values() if x.dtype.kind == "f" and x.size), None)
    if array is None:
        return None
    with np.errstate(all="ignore"):
        values = array.mean(), array.std(), array.min(), array.max()
    return [float(f"{value:.6g}") for value in values]


def first_forward(
    rows: Sequence[Row],
    bound: float = FORWARD_FLOAT64,
    unpaired: Callable[[Row | None, Row], list[str]] | None = None,
    check: str = "forward",
) -> Finding | None:
    """Finding that names the first layer whose output differs; None if none does.

    Args:
        unpaired: function (row that agrees or None, row) -> lines on layers between these that only
            one side has.
    """
    agreed = None
    for row in rows:
        if row.output <= bound:
            agreed = row
            continue
        finding = Finding(check, row.name or THE_MODEL, "output", title="First layer that differs")
        if np.isfinite(row.output):
            finding.difference, finding.bound = row.output, bound
        else:
            outputs = common_outputs(row.port.outputs, row.reference.outputs)
            finding.quantity = f"output, {how_far_all(*outputs)}"
        finding.detail = [
            f"{_described(row.port.layer)} | {_described(row.reference.layer)}",
            _why(row, bound, agreed, unpaired),
            *_tensors_left_out(row),
            *different_weights(row.port.layer, row.reference.layer),
        ]
        return finding
    return None


def _why(
    row: Row,
    bound: float,
    agreed: Row | None,
    unpaired: Callable[[Row | None, Row], list[str]] | None,
) -> str:
    """A sentence on what the input of the first layer that differs says."""
    for arrays in float_inputs(row.port.inputs, row.reference.inputs):
        if (masks := Masks(*arrays)) and not masks.agree:
            how = "keeps what the reference's leaves out" if masks.inverted else "is another"
            return (
                f"Its mask {how}; kept are {masks}. Look at how it is made: True keeps a place in "
                "paddle.nn.MultiHeadAttention, and leaves it out in torch.nn.MultiheadAttention"
            )
    if row.input > bound:
        since = f"between {agreed.name} and this layer" if agreed else "before this layer"
        missing = unpaired(agreed, row) if unpaired else []
        what = f": {', '.join(missing)}" if missing else ", in a function call or a residual"
        how = f"by {row.input:.1e}" if np.isfinite(row.input) else _how_inputs(row)
        return f"Its input differs already, {how}: the mistake lies {since}{what}"
    agrees = f"Its input agrees ({row.input:.0e})"
    if row.port.layer.training != row.reference.layer.training:
        modes = ["train" if x.layer.training else "eval" for x in (row.port, row.reference)]
        return (
            f"{agrees}, its output does not: it is in {modes[0]} mode in the port and in "
            f"{modes[1]} mode in the reference"
        )
    if is_container(row.port.layer):
        return (
            f"{agrees} and so does each layer in it: the mistake is in what "
            f"{row.name or THE_MODEL} does with them (residual, function calls, a missing layer)"
        )
    return (
        f"{agrees}, its output does not: the mistake is in this layer, its settings or its weights"
    )


def _tensors_left_out(row: Row) -> list[str]:
    """A line, if one side calls the layer with more tensors than the other: a mask, a state."""
    port, reference = (
        [f"{array.dtype} {array.shape}" for array in seen.inputs.values()]
        for seen in (row.port, row.reference)
    )
    if len(port) == len(reference):
        return []
    fewer, more = sorted((port, reference), key=len)
    sides = ("reference", "port") if more is reference else ("port", "reference")
    return [
        f"The {sides[0]} gives it {len(more)} tensors, the {sides[1]} {len(fewer)}: "
        f"{', '.join(more[len(fewer) :])} may be a mask or a state that is left out"
    ]


def different_weights(port: paddle.nn.Layer, reference: torch.nn.Module) -> list[str]:
    """Lines on the weights of two leaf layers that are not the same numbers."""
    names = {new: old for each in RENAMED.values() for new, old in each.items()}
    lines = []
    if is_container(port):
        return lines
    tensors = dict(reference.state_dict())
    for name, tensor in port.state_dict().items():
        other = tensors.get(names.get(name, name))
        if other is None:
            continue
        a, b = tensor.numpy(), other.detach().cpu().numpy()
        a = a.T if isinstance(port, paddle.nn.Linear) and a.ndim == 2 else a
        # In train mode batch norm has moved its statistics away from what was converted.
        moved = name in STATISTICS and port.training != reference.training
        if a.shape == b.shape and relative(a, b) > 1e-6 and not moved:
            how = incomparable(a, b) or f"{relative(a, b):.1e}"
            lines.append(
                f"Its {name} is not the reference's {names.get(name, name)} ({how}): "
                "look at the conversion of the weights"
            )
    return lines


def _how_inputs(row: Row) -> str:
    """Why the inputs of a layer cannot be subtracted."""
    port, reference = (
        {path: array for path, array in seen.inputs.items() if array.dtype.kind == "f"}
        for seen in (row.port, row.reference)
    )
    return how_far_all(port, reference)


def first_backward(rows: Sequence[Row], bound: float = GRADIENT_FLOAT64) -> Finding | None:
    """Finding that names the first layer, from the loss back, whose output's gradient differs."""
    agreed = None
    for row in reversed(rows):
        if row.output_gradient <= bound:
            agreed = row
            continue
        finding = Finding("backward", row.name or THE_MODEL, "gradient of its output")
        finding.title = "First gradient that differs, from the loss back"
        finding.detail = [f"{_described(row.port.layer)} | {_described(row.reference.layer)}"]
        if row.reference.wants_gradient and not row.port.wants_gradient:
            finding.title = "First layer without a gradient, from the loss back"
            finding.quantity = "no gradient in the port"
            finding.detail.append(
                "Its output needs no gradient: its parameters are frozen (stop_gradient is True), "
                "or its input is detached"
            )
            return finding
        if not row.port.output_gradients:
            finding.quantity = "no gradient reaches it in the port"
        elif not row.reference.output_gradients:
            finding.quantity = "no gradient reaches it in the reference"
        elif np.isfinite(row.output_gradient):
            finding.difference, finding.bound = row.output_gradient, bound
        else:
            gradients = output_gradients(row.port, row.reference)
            finding.quantity += f", {how_far_all(*gradients)}"
        after = "between this layer and the loss"
        if agreed:
            after = f"between this layer and {agreed.name}, whose output's gradient still agrees"
        finding.detail.append(f"The mistake lies {after}")
        return finding
    return None


def unpaired_between(
    port: Mapping[str, Seen], reference: Mapping[str, Seen], rows: Sequence[Row]
) -> Callable[[Row | None, Row], list[str]]:
    """Function for `first_forward`: which layers only one side has between two rows.

    Args:
        port, reference: {name: Seen} in the order in which layers finish.
    """
    paired = {row.name for row in rows}, {row.reference_name for row in rows}

    def between(agreed: Row | None, row: Row) -> list[str]:
        found = []
        for side, seen, known, ends in (
            ("port", port, paired[0], (agreed.name if agreed else "", row.name)),
            (
                "reference",
                reference,
                paired[1],
                (agreed.reference_name if agreed else "", row.reference_name),
            ),
        ):
            names = list(seen)
            start = names.index(ends[0]) + 1 if agreed else 0
            only = [n for n in names[start : names.index(ends[1])] if n not in known]
            # A layer finishes after those that lie in it: the outermost says it all.
            top = [n for n in only if not any(n.startswith(f"{other}.") for other in only)]
            found += [f"only the {side} has {name}" for name in top[:3]]
        return found

    return between


def locate_forward(
    port: paddle.nn.Layer,
    reference: torch.nn.Module,
    run_port: Callable[[Any], Any],
    run_reference: Callable[[Any], Any],
    path: Path,
    layer_map: Mapping[str, str] | None = None,
) -> Compared:
    """Where two models differ going forward; the whole trace goes to `path`.

    Args:
        port, reference: the models, in float64.
        run_port, run_reference: called with the model; do the forward pass.
        path: of the trace, one line for each layer.
        layer_map: {name in the port: name in the reference}.

    Returns:
        Compared; its first findings are settings that can be read off and differ.
    """
    seen, seen_reference = record(port, run_port), record(reference, run_reference)
    rows = compare(seen, seen_reference, layer_map)
    write(rows, path)
    first = first_forward(rows, unpaired=unpaired_between(seen, seen_reference, rows))
    entries = layer_entries(rows)
    return _located(port, reference, rows, entries, first, path, layer_map)


def locate_backward(
    port: paddle.nn.Layer,
    reference: torch.nn.Module,
    run_port: Callable[[Any], Any],
    run_reference: Callable[[Any], Any],
    path: Path,
    layer_map: Mapping[str, str] | None = None,
) -> Compared:
    """The same going forward and back: `run_port`, `run_reference` end with the backward pass."""
    seen, seen_reference = record(port, run_port), record(reference, run_reference)
    rows = compare(seen, seen_reference, layer_map)
    write(rows, path, backward=True)
    unpaired = unpaired_between(seen, seen_reference, rows)
    first = first_forward(rows, TRAIN_FLOAT64, unpaired, "backward") or first_backward(rows)
    entries = layer_entries(rows, TRAIN_FLOAT64, GRADIENT_FLOAT64)
    passes = ", forward and backward"
    return _located(port, reference, rows, entries, first, path, layer_map, passes)


def locate_loss(
    port: Any, reference: Any, path: Path, layer_map: Mapping[str, str] | None = None
) -> Compared:
    """The same for a loss on top of a model: is it the model or the loss?

    Args:
        port, reference: (model, criterion, run), as for `locate_forward`.
    """
    located = locate_forward(port[0], reference[0], port[2], reference[2], path, layer_map)
    if all(finding.title == SETTING for finding in located.findings):
        settings_ = different_settings(port[1], reference[1])
        located.findings += settings_found("loss", "loss", settings_)
        located.summary += ". The logits agree too: if the loss differs, the mistake is in the loss"
    return located


def _located(
    port: Any,
    reference: Any,
    rows: Sequence[Row],
    entries: Any,
    first: Finding | None,
    path: Path,
    layer_map: Mapping[str, str] | None,
    passes: str = "",
) -> Compared:
    found = compare_settings(port, reference, layer_map)
    if len(found) > SHOWN:
        more = f"… and {len(found) - SHOWN} more settings"
        found[SHOWN:] = [Finding("settings", "", more, title=SETTING)]
    count = sum(bool(row.name) for row in rows)
    summary = "" if first else f"All {count} layers agree{passes}"
    findings = [*found, *([first] if first else [])]
    return Compared("layers", summary, findings, path, {"layers": entries})
