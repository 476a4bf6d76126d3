"""Where two models part: every layer's input, output and gradients, compared in order.

The models are in float64 (`precision.to_float64`), so a layer either agrees to 1e-12 or does not.
"""

import difflib
from dataclasses import dataclass

import numpy as np
import paddle
import torch

from .files import CannotRun, read_json, shown, whole_file
from .pairing import counterpart
from .thresholds import FORWARD_FLOAT64, GRADIENT_FLOAT64, TRAIN_FLOAT64

# What can be read off a layer: its name here, Paddle's attribute, PyTorch's.
SETTINGS = [
    ("in_channels", "_in_channels", "in_channels"),
    ("out_channels", "_out_channels", "out_channels"),
    ("in_features", "_in_features", "in_features"),
    ("out_features", "_out_features", "out_features"),
    ("num_features", "_num_features", "num_features"),
    ("kernel_size", "_kernel_size", "kernel_size"),
    ("kernel_size", "ksize", "kernel_size"),
    ("stride", "_stride", "stride"),
    ("stride", "stride", "stride"),
    ("padding", "_padding", "padding"),
    ("padding", "padding", "padding"),
    ("dilation", "_dilation", "dilation"),
    ("groups", "_groups", "groups"),
    ("groups", "_num_groups", "num_groups"),
    ("output_size", "_output_size", "output_size"),
    ("epsilon", "_epsilon", "eps"),
    ("negative_slope", "_negative_slope", "negative_slope"),
    ("p", "p", "p"),
    ("reduction", "reduction", "reduction"),
    ("label_smoothing", "label_smoothing", "label_smoothing"),
    ("ignore_index", "ignore_index", "ignore_index"),
    ("step_size", "step_size", "step_size"),
    ("gamma", "gamma", "gamma"),
]


SHOWN = 8  # lines on settings that differ: of another width, hundreds do


@dataclass
class Seen:
    """What one call of a layer took and gave; arrays, or None where it was no tensor.

    `wants_gradient`: whether the output takes part in a backward pass.
    """

    layer: object
    input: np.ndarray | None
    output: np.ndarray | None = None
    output_gradient: np.ndarray | None = None
    wants_gradient: bool = False


@dataclass
class Row:
    """A layer of the port beside its counterpart; differences relative to the largest value."""

    name: str
    reference_name: str
    port: Seen
    reference: Seen
    input: float
    output: float
    output_gradient: float


def record(model, run):
    """Calls `run(model)` and returns {layer name: Seen} in the order in which layers finish.

    Args:
        model: a paddle.nn.Layer or torch.nn.Module.
        run: does the forward pass and, if gradients are wanted, the backward pass.
    """
    is_paddle = isinstance(model, paddle.nn.Layer)
    layers = model.named_sublayers() if is_paddle else model.named_modules()
    started, finished, hooks = {}, {}, []

    def array(value):
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        if not isinstance(value, (paddle.Tensor, torch.Tensor)):
            return None
        return np.array(value.detach().cpu().numpy())  # a copy: PyTorch's ReLU works in place

    def before(name):
        def hook(layer, inputs):
            started[name] = Seen(layer, array(inputs))

        return hook

    def after(name):
        def hook(layer, inputs, output):
            seen = started.pop(name)
            seen.output = array(output)
            finished.setdefault(name, seen)
            tensor = output[0] if isinstance(output, (tuple, list)) else output
            seen.wants_gradient = not tensor.stop_gradient if is_paddle else tensor.requires_grad
            if seen.wants_gradient:
                tensor.register_hook(lambda g: setattr(seen, "output_gradient", array(g)))

        return hook

    for name, layer in layers:
        if not name:
            continue
        pre = layer.register_forward_pre_hook
        post = layer.register_forward_post_hook if is_paddle else layer.register_forward_hook
        hooks += [pre(before(name)), post(after(name))]
    try:
        run(model)
    finally:
        for hook in hooks:
            hook.remove()
    return finished


def relative(port, reference):
    """Largest absolute difference over the reference's largest value; inf if not comparable."""
    if port is None or reference is None:
        return 0.0 if port is reference else np.inf
    if port.shape != reference.shape:
        return np.inf
    scale = np.abs(reference).max(initial=0.0)
    difference = np.abs(port - reference).max(initial=0.0) / (scale or 1.0)
    return float(difference) if np.isfinite(difference) else np.inf


def incomparable(port, reference):
    """Why two arrays cannot be subtracted, "port | reference"; "" if they can."""
    if port is None or reference is None:
        return f"none in the {'port' if port is None else 'reference'}"
    if port.shape != reference.shape:
        return f"shape {port.shape} | {reference.shape}"
    for side, array in (("port", port), ("reference", reference)):
        if not np.isfinite(array).all():
            return f"NaN or infinity in the {side}"
    return ""


def how_far(port, reference):
    """How far apart two arrays are, in words: "by 1.2e-03", or why that cannot be said."""
    return incomparable(port, reference) or f"by {relative(port, reference):.1e}"


def kind(layer):
    """The framework's own class behind a layer, in lower case: conv2d, batchnorm2d, …

    A class of the user's own that is built on none of these keeps its name.
    """
    for cls in type(layer).__mro__:
        if cls in (paddle.nn.Layer, torch.nn.Module):
            break
        if cls.__module__.startswith(("paddle.nn.layer", "torch.nn.modules")):
            return cls.__name__.lower()
    return type(layer).__name__.lower()


def match(port, reference, layer_map=None):
    """{name in the port: name in the reference}: as given, else equal names, else order and kind.

    Args:
        port, reference: {name: Seen} or {name: layer}, in order.
        layer_map: {layer of the port: layer of the reference} that the user knows better; it
            holds for all that lies in the layer.
    """
    mapped = {name: counterpart(name, layer_map or {}) for name in port}
    pairs = {a: b for a, b in mapped.items() if a != b and b in reference}
    taken = set(pairs.values())
    for name in port:
        if name not in pairs and name in reference and name not in taken:
            pairs[name] = name
            taken.add(name)
    waiting = {}
    for name, value in reference.items():
        layer = getattr(value, "layer", value)
        if name not in taken and not _is_container(layer):
            waiting.setdefault(kind(layer), []).append(name)
    for name, value in port.items():
        layer = getattr(value, "layer", value)
        if name not in pairs and not _is_container(layer) and waiting.get(kind(layer)):
            pairs[name] = waiting[kind(layer)].pop(0)
    return pairs


def read_layer_map(path, port, reference):
    """A JSON file {"layer of the port": "layer of the reference"}; {} if `path` is None.

    Args:
        port, reference: the paddle.nn.Layer and the torch.nn.Module, which must have these layers.

    Raises:
        CannotRun: it cannot be read, is something else, or names a layer that is not there.
    """
    if path is None:
        return {}
    pairs = read_json(path)
    if not isinstance(pairs, dict) or not all(isinstance(name, str) for name in pairs.values()):
        raise CannotRun(f'{shown(path)}: wanted {{"layer of the port": "layer of the reference"}}')
    known = {
        "port": [name for name, _ in port.named_sublayers()],
        "reference": [name for name, _ in reference.named_modules() if name],
    }
    for side, names in (("port", pairs), ("reference", pairs.values())):
        for name in names:
            if name not in known[side]:
                near = difflib.get_close_matches(name[:200], known[side], n=1)
                hint = f". Is {near[0]} meant?" if near else ""
                raise CannotRun(
                    f"{shown(path)} names {name!a:.80}, and the {side} has no such layer{hint}. "
                    "Give whole names, as features.0.0"
                )
    sources = {}
    for name in known["port"]:
        other = counterpart(name, pairs)
        if other in sources:
            raise CannotRun(
                f"{shown(path)} gives {sources[other]} and {name} of the port one and the same "
                f"layer, {other}: give each its own"
            )
        sources[other] = name
    return pairs


def _is_container(layer):
    return next(iter(layer.children()), None) is not None


def settings(layer):
    """{name: value} of what can be read off a layer, in the same terms for both frameworks."""
    is_paddle = isinstance(layer, paddle.nn.Layer)
    found = {}
    if hasattr(layer, "children") and _is_container(layer):
        return found
    for name, paddle_name, torch_name in SETTINGS:
        value = getattr(layer, paddle_name if is_paddle else torch_name, None)
        if value is not None and name not in found:
            found[name] = _plain(value)
    norm = (
        paddle.nn.layer.norm._BatchNormBase if is_paddle else torch.nn.modules.batchnorm._NormBase
    )
    if isinstance(layer, norm):
        # The share of the old statistics that is kept; None is PyTorch's cumulative average.
        momentum = layer._momentum if is_paddle else layer.momentum
        found["momentum"] = momentum if is_paddle or momentum is None else 1 - momentum
        found["frozen"] = bool(is_paddle and layer._use_global_stats)
    if isinstance(layer, paddle.nn.Linear):
        found["in_features"], found["out_features"] = layer.weight.shape
    if hasattr(layer, "bias"):
        found["bias"] = layer.bias is not None
    return found


def _plain(value):
    """Numbers and tuples that compare equal where they mean the same: (3, 3) and 3."""
    if isinstance(value, (list, tuple)):
        value = tuple(value)
        return value[0] if value and all(part == value[0] for part in value) else value
    return value


def different_settings(port, reference):
    """["epsilon 1e-05 | 0.001", …]: what can be read off two layers and differs."""
    a, b = settings(port), settings(reference)
    found = []
    are_leaves = all(hasattr(x, "children") and not _is_container(x) for x in (port, reference))
    if are_leaves and kind(port) != kind(reference):
        found.append(f"type {type(port).__name__} | {type(reference).__name__}")
    for name in a:
        if name not in b:
            continue
        x, y = a[name], b[name]
        both_numbers = all(isinstance(v, float) for v in (x, y))
        same = abs(x - y) <= 1e-6 * abs(y) if both_numbers else x == y
        if not same:
            shown = (f"{v:.6g}" if isinstance(v, float) else str(v) for v in (x, y))
            found.append(" ".join([name, " | ".join(shown)]))
    if isinstance(port, paddle.nn.Layer) and isinstance(reference, torch.nn.Module):
        found += _different_states(port, reference)
    return found


def _different_states(port, reference):
    """What two layers were left in: train or eval mode, which of their parameters are frozen."""
    found = []
    if port.training != reference.training:
        modes = ("train" if layer.training else "eval" for layer in (port, reference))
        found.append("mode " + " | ".join(modes))
    trained = dict(reference.named_parameters(recurse=False))
    for name, parameter in port.named_parameters(include_sublayers=False):
        other = trained.get(name)
        if other is not None and parameter.stop_gradient == other.requires_grad:
            settings = f"stop_gradient={parameter.stop_gradient}"
            found.append(f"{name} {settings} | requires_grad={other.requires_grad}")
    return found


def compare_settings(port_model, reference_model, layer_map=None):
    """["name: epsilon 1e-05 | 0.001", …] over all layers, and layers that only one side has."""
    port = dict(port_model.named_sublayers())
    reference = {name: module for name, module in reference_model.named_modules() if name}
    pairs = match(port, reference, layer_map)
    lines = {}
    for name, other in pairs.items():
        for difference in different_settings(port[name], reference[other]):
            lines.setdefault(difference, []).append(name)
    found = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {difference}"
        for difference, names in lines.items()
    ]
    for names, side in (
        ([name for name in port if name not in pairs], "only in the port"),
        ([name for name in reference if name not in pairs.values()], "only in the reference"),
    ):
        layers = port if side == "only in the port" else reference
        # A layer inside of one that is missing is no news.
        top = [n for n in names if n.rpartition(".")[0] not in names]
        found += [f"{name}: {type(layers[name]).__name__}, {side}" for name in top[:3]]
        if len(top) > 3:
            found.append(f"… and {len(top) - 3} more layers {side}")
    return found


def compare(port, reference, layer_map=None):
    """Rows of the layers that both sides have, in the order in which the port's finish."""
    rows = []
    for name, other in match(port, reference, layer_map).items():
        a, b = port[name], reference[other]
        rows.append(
            Row(
                name,
                other,
                a,
                b,
                relative(a.input, b.input),
                relative(a.output, b.output),
                relative(a.output_gradient, b.output_gradient),
            )
        )
    order = {name: i for i, name in enumerate(port)}
    return sorted(rows, key=lambda row: order[row.name])


def describe(row):
    return f"{row.name}: {_describe(row.port.layer)} | {_describe(row.reference.layer)}"


def _describe(layer):
    shown = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in settings(layer).items()
    ]
    return f"{type(layer).__name__}({', '.join(shown)})"


def write(rows, path, backward=False):
    """Writes one line for each row to `path`."""
    width = max((len(row.name) for row in rows), default=0)
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
            sides = describe(row).partition(": ")[2]
            file.write(f"{row.name:{width}}  {numbers}  {sides}{mark}\n")


def first_forward(rows, bound=FORWARD_FLOAT64, unpaired=None):
    """Lines that name the first layer whose output differs; [] if none does.

    Args:
        unpaired: function (row that agrees or None, row) -> lines on layers between these that only
            one side has.
    """
    agreed = None
    for row in rows:
        if row.output <= bound:
            agreed = row
            continue
        lines = [f"First layer to part: {describe(row)}"]
        if row.input > bound:
            since = f"between {agreed.name} and it" if agreed else "before it"
            missing = unpaired(agreed, row) if unpaired else []
            what = f": {', '.join(missing)}" if missing else ", in a function call or a residual"
            lines.append(
                f"Its input differs already, {how_far(row.port.input, row.reference.input)}: the "
                f"mistake lies {since}{what}"
            )
        elif row.port.layer.training != row.reference.layer.training:
            modes = ["train" if x.layer.training else "eval" for x in (row.port, row.reference)]
            lines.append(
                f"Its input agrees ({row.input:.0e}), its output does not: it is in {modes[0]} "
                f"mode in the port and in {modes[1]} mode in the reference"
            )
        elif _is_container(row.port.layer):
            lines.append(
                f"Its input agrees ({row.input:.0e}) and so does each layer in it: the mistake is "
                f"in what {row.name} does with them (residual, function calls, a missing layer)"
            )
        else:
            outputs = row.port.output, row.reference.output
            how = incomparable(*outputs) or f"{row.output:.1e}"
            lines.append(
                f"Its input agrees ({row.input:.0e}), its output does not ({how}): "
                "the mistake is in this layer, its settings or its weights"
            )
        weights = different_weights(row.port.layer, row.reference.layer)
        return lines + weights
    return []


def different_weights(port, reference):
    """Lines on the weights of two leaf layers that are not the same numbers."""
    names = {"_mean": "running_mean", "_variance": "running_var", "scale": "weight"}
    lines = []
    if _is_container(port):
        return lines
    tensors = dict(reference.state_dict())
    for name, tensor in port.state_dict().items():
        other = tensors.get(names.get(name, name))
        if other is None:
            continue
        a, b = tensor.numpy(), other.detach().cpu().numpy()
        a = a.T if isinstance(port, paddle.nn.Linear) and a.ndim == 2 else a
        # In train mode batch norm has moved its statistics away from what was converted.
        moved = name in ("_mean", "_variance") and port.training != reference.training
        if a.shape == b.shape and relative(a, b) > 1e-6 and not moved:
            how = incomparable(a, b) or f"{relative(a, b):.1e}"
            lines.append(
                f"Its {name} is not the reference's {names.get(name, name)} ({how}): "
                "look at the conversion of the weights"
            )
    return lines


def first_backward(rows, bound=GRADIENT_FLOAT64):
    """Lines that name the first layer, from the loss back, whose output's gradient differs."""
    agreed = None
    for row in reversed(rows):
        if row.output_gradient <= bound:
            agreed = row
            continue
        gradients = row.port.output_gradient, row.reference.output_gradient
        if row.reference.wants_gradient and not row.port.wants_gradient:
            return [
                f"First layer without a gradient, from the loss back: {describe(row)}",
                f"The port's output of {row.name} needs none: its parameters are frozen "
                "(stop_gradient is True), or its input is detached",
            ]
        if gradients[0] is None:
            how = f"No gradient reaches {row.name} in the port"
        elif gradients[1] is None:
            how = f"No gradient reaches {row.reference_name} in the reference"
        else:
            how = f"It differs, {how_far(*gradients)}"
        after = "between it and the loss"
        if agreed:
            after = f"between it and {agreed.name}, whose output's gradient still agrees"
        return [
            f"First gradient to part, from the loss back: that of the output of {describe(row)}",
            f"{how}: the mistake lies {after}",
        ]
    return []


def unpaired_between(port, reference, rows):
    """Function for `first_forward`: which layers only one side has between two rows.

    Args:
        port, reference: {name: Seen} in the order in which layers finish.
    """
    paired = {row.name for row in rows}, {row.reference_name for row in rows}

    def between(agreed, row):
        found = []
        for side, seen, known, ends in (
            ("port", port, paired[0], (agreed and agreed.name, row.name)),
            (
                "reference",
                reference,
                paired[1],
                (agreed and agreed.reference_name, row.reference_name),
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


def locate_forward(port, reference, run_port, run_reference, path, layer_map=None):
    """Lines that say where two models part going forward; the whole trace goes to `path`.

    Args:
        port, reference: the models, in float64.
        run_port, run_reference: called with the model; do the forward pass.
        path: of the trace, one line for each layer.
        layer_map: {name in the port: name in the reference}.
    """
    seen, seen_reference = record(port, run_port), record(reference, run_reference)
    rows = compare(seen, seen_reference, layer_map)
    write(rows, path)
    unpaired = unpaired_between(seen, seen_reference, rows)
    lines = first_forward(rows, unpaired=unpaired) or [f"All {len(rows)} layers agree"]
    return [*_settings_lines(port, reference, layer_map), *lines, f"Layers: {shown(path)}"]


def locate_backward(port, reference, run_port, run_reference, path, layer_map=None):
    """The same going forward and back: `run_port`, `run_reference` end with the backward pass."""
    seen, seen_reference = record(port, run_port), record(reference, run_reference)
    rows = compare(seen, seen_reference, layer_map)
    write(rows, path, backward=True)
    unpaired = unpaired_between(seen, seen_reference, rows)
    lines = first_forward(rows, TRAIN_FLOAT64, unpaired) or first_backward(rows)
    lines = lines or [f"All {len(rows)} layers agree, forward and backward"]
    return [*_settings_lines(port, reference, layer_map), *lines, f"Layers: {shown(path)}"]


def locate_loss(port, reference, path, layer_map=None):
    """The same for a loss on top of a model: is it the model or the loss?

    Args:
        port, reference: (model, criterion, run), as for `locate_forward`.
    """
    lines = locate_forward(port[0], reference[0], port[2], reference[2], path, layer_map)
    if not any(line.startswith("First layer") for line in lines):
        found = different_settings(port[1], reference[1])
        lines += [f"Differs (port | reference): loss: {line}" for line in found]
        lines.append("The logits agree: if the loss does not, the mistake is in the loss")
    return lines


def _settings_lines(port, reference, layer_map):
    found = compare_settings(port, reference, layer_map)
    lines = [f"Differs (port | reference): {line}" for line in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"Differs (port | reference): … and {len(found) - SHOWN} more settings")
    return lines
