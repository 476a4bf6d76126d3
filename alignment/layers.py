"""Where two models differ: every layer's input, output and gradients, compared in order.

The models are in float64 (`precision.to_float64`), so a layer either agrees to 1e-12 or does not.
"""

import difflib
import itertools
import os
import tempfile
from dataclasses import dataclass, field

import numpy as np
import paddle
import torch

from .files import CannotRun, read_json, shown, whole_file
from .paddle_internals import (
    RECURRENT,
    RENAMED,
    SETTINGS,
    STATISTICS,
    own_settings,
    rnn_activation,
)
from .pairing import counterpart
from .structure import flatten, is_tensor, to_array
from .thresholds import FORWARD_FLOAT64, GRADIENT_FLOAT64, TRAIN_FLOAT64

# Kinds of layers that have another name in Paddle: PyTorch's.
KINDS = {
    "conv1dtranspose": "convtranspose1d",
    "conv2dtranspose": "convtranspose2d",
    "conv3dtranspose": "convtranspose3d",
    "simplernn": "rnn",
    "simplernncell": "rnncell",
    "swish": "silu",
    "pad2d": "zeropad2d",
    "thresholdedrelu": "threshold",
    "nondynamicallyquantizablelinear": "linear",
}

SHOWN = 8  # lines on settings that differ: of another width, hundreds do


@dataclass
class Seen:
    """What one call of a layer took and gave, {path: array} of all tensors.

    `wants_gradient`: whether an output takes part in a backward pass.
    """

    layer: object
    inputs: dict
    outputs: dict = field(default_factory=dict)
    output_gradients: dict = field(default_factory=dict)
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


class Shelf:
    """Keeps arrays in memory up to a limit, and what comes after it in a temporary file.

    Args:
        limit: bytes; None: a quarter of the memory that is free.
    """

    def __init__(self, limit=None):
        if limit is None:
            limit = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
        self.free, self.file = limit, None

    def keep(self, array):
        """The array, or one of the same values that lies in the file."""
        self.free -= array.nbytes
        if self.free >= 0 or not array.size:
            return array
        self.file = self.file or tempfile.TemporaryFile()  # noqa: SIM115  (as long as the arrays)
        offset = self.file.seek(0, os.SEEK_END)
        array.tofile(self.file)
        self.file.flush()
        return np.memmap(self.file, array.dtype, "r", offset, array.shape)


def record(model, run, shelf=None, into=None):
    """Calls `run(model)` and returns {layer name: Seen} in the order in which layers finish.

    A layer that is called again is there again, as "name (call 2)". The model itself is "".

    Args:
        model: a paddle.nn.Layer or torch.nn.Module.
        run: does the forward pass and, if gradients are wanted, the backward pass.
        shelf: keeps the arrays.
        into: a dictionary that is filled, also where `run` raises.
    """
    is_paddle = isinstance(model, paddle.nn.Layer)
    layers = model.named_sublayers(include_self=True) if is_paddle else model.named_modules()
    shelf = shelf or Shelf(limit=2**62)
    finished = {} if into is None else into
    started, calls, hooks = {}, {}, []

    def arrays(value):
        return {
            path: shelf.keep(to_array(leaf))
            for path, leaf in flatten(value).items()
            if is_tensor(leaf)
        }

    def before(name):
        def hook(layer, args, kwargs):
            # By keyword or not is no difference.
            started.setdefault(name, []).append(Seen(layer, arrays([args, kwargs])))

        return hook

    def after(name):
        def hook(layer, args, kwargs, output):
            seen = started[name].pop()
            calls[name] = calls.get(name, 0) + 1
            number = f" (call {calls[name]})" if calls[name] > 1 else ""
            finished[f"{name}{number}"] = seen
            seen.outputs = arrays(output)
            for path, tensor in flatten(output).items():
                if is_tensor(tensor) and _wants_gradient(tensor):
                    seen.wants_gradient = True
                    tensor.register_hook(keep_gradient(seen, path))

        return hook

    def keep_gradient(seen, path):
        def hook(gradient):
            seen.output_gradients[path] = shelf.keep(to_array(gradient))

        return hook

    for name, layer in layers:
        pre = layer.register_forward_pre_hook
        post = layer.register_forward_post_hook if is_paddle else layer.register_forward_hook
        hooks += [pre(before(name), with_kwargs=True), post(after(name), with_kwargs=True)]
    try:
        run(model)
    finally:
        for hook in hooks:
            hook.remove()
    return finished


def _wants_gradient(tensor):
    if isinstance(tensor, paddle.Tensor):
        return not tensor.stop_gradient
    return tensor.requires_grad


def relative(port, reference):
    """Largest absolute difference over the reference's largest value; inf if not comparable."""
    if port is None or reference is None:
        return 0.0 if port is reference else np.inf
    if port.shape != reference.shape:
        return np.inf
    if port.dtype == bool or reference.dtype == bool:
        return 0.0 if np.array_equal(port, reference) else np.inf
    port, reference = _without_masked(port, reference)
    scale = np.abs(reference).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        difference = np.abs(port - reference).max(initial=0.0) / (scale or 1.0)
    return float(difference) if np.isfinite(difference) else np.inf


def _without_masked(port, reference):
    """Two arrays without the places where both hold the same infinity, as a mask does, unless there
    is nothing else."""
    if reference.dtype.kind != "f":
        return port, reference
    masked = np.isinf(reference) & (port == reference)
    if not masked.any() or masked.all():
        return port, reference
    return port[~masked], reference[~masked]


def pair_leaves(port, reference):
    """[(path, port's array or None, reference's array or None)] of two {path: array}.

    By path where both sides have the same paths, else by order: a tuple of one may be a dictionary
    of the other.
    """
    if port.keys() == reference.keys():
        return [(path, port[path], reference[path]) for path in reference]
    return [
        (mine[0] if mine else theirs[0], mine and mine[1], theirs and theirs[1])
        for mine, theirs in itertools.zip_longest(port.items(), reference.items())
    ]


def arrange(port, reference, channels_last):
    """The port's array with its channels first, if it has them last and that fits better."""
    if not channels_last or port is None or reference is None or port.ndim < 3:
        return port
    moved = np.moveaxis(port, -1, 1)
    if moved.shape != reference.shape:
        return port
    if port.shape != reference.shape:
        return moved
    return min((port, moved), key=lambda each: relative(each, reference))


def arrange_axes(port, reference, channels_last=False):
    """The port's array with its axes in the order in which it fits the reference's best.

    For what lies within a model: channels last or time first on one side is no mistake, as long as
    what comes out of it is the same.
    """
    port = arrange(port, reference, channels_last)
    if port is None or reference is None or port.shape == reference.shape:
        return port
    if port.ndim < 3 or port.ndim > 5 or sorted(port.shape) != sorted(reference.shape):
        return port
    orders = [
        order
        for order in itertools.permutations(range(port.ndim))
        if tuple(port.shape[i] for i in order) == reference.shape
    ]
    moved = min(
        (port.transpose(order) for order in orders), key=lambda each: relative(each, reference)
    )
    return moved if relative(moved, reference) < 1e-3 else port


def relative_all(port, reference, channels_last=False):
    """The largest `relative` of two {path: array}; of two empty ones 0."""
    return max(
        (
            relative(arrange_axes(a, b, channels_last), b)
            for _, a, b in pair_leaves(port, reference)
        ),
        default=0.0,
    )


def relative_inputs(port, reference, channels_last=False):
    """`relative_all` of the floats of which both sides have one: masks differ by convention, and
    what is an argument here may be an attribute there."""
    floats = [
        [array for array in arrays.values() if array.dtype.kind == "f"]
        for arrays in (port, reference)
    ]
    return max(
        (relative(arrange_axes(a, b, channels_last), b) for a, b in zip(*floats)), default=0.0
    )


def incomparable(port, reference):
    """Why two arrays cannot be subtracted, "port | reference"; "" if they can."""
    if port is None or reference is None:
        return f"none in the {'port' if port is None else 'reference'}"
    if port.shape != reference.shape:
        return f"shape {port.shape} | {reference.shape}"
    if (port.dtype.kind in "iu") != (reference.dtype.kind in "iu"):
        return f"dtype {port.dtype} | {reference.dtype}"
    port, reference = _without_masked(port, reference)
    for side, array in (("port", port), ("reference", reference)):
        if not np.isfinite(array).all():
            return f"NaN or infinity in the {side}"
    return ""


def how_far(port, reference):
    """How far apart two arrays are, in words: "by 1.2e-03", or why that cannot be said."""
    return incomparable(port, reference) or f"by {relative(port, reference):.1e}"


def how_far_all(port, reference, channels_last=False):
    """The same of two {path: array}: of the first that cannot be compared, or of the worst."""
    rows = [(path, arrange(a, b, channels_last), b) for path, a, b in pair_leaves(port, reference)]
    several = len(rows) > 1
    for path, a, b in rows:
        reason = incomparable(a, b)
        if reason:
            return f"{path}: {reason}" if several else reason
    path, a, b = max(rows, key=lambda row: relative(row[1], row[2]), default=("", None, None))
    if a is None:
        return "no tensors"
    return f"{how_far(a, b)} in {path}" if several and path else how_far(a, b)


def kind(layer):
    """The framework's own class behind a layer, in lower case: conv2d, batchnorm2d, …

    A class of the user's own that is built on none of these keeps its name.
    """
    for cls in type(layer).__mro__:
        if cls in (paddle.nn.Layer, torch.nn.Module):
            break
        if cls.__module__.startswith(("paddle.nn.layer", "torch.nn.modules")):
            name = cls.__name__.lower()
            return KINDS.get(name, name)
    return type(layer).__name__.lower()


def is_of_framework(layer):
    """Whether a layer is one of Paddle's or PyTorch's own, or built on one."""
    for cls in type(layer).__mro__:
        if cls in (paddle.nn.Layer, torch.nn.Module):
            return False
        if cls.__module__.startswith(("paddle.nn.layer", "torch.nn.modules")):
            return True
    return False


def match(port, reference, layer_map=None):
    """{name in the port: name in the reference}: as given, else equal names, else order and kind.

    Args:
        port, reference: {name: Seen} or {name: layer}, in order.
        layer_map: {layer of the port: layer of the reference} that the user knows better; it
            holds for all that lies in the layer.
    """
    mapped = {name: _counterpart_of_call(name, layer_map or {}) for name in port}
    pairs = {a: b for a, b in mapped.items() if a != b and b in reference}
    taken = set(pairs.values())
    for name in port:
        if name not in pairs and name in reference and name not in taken:
            pairs[name] = name
            taken.add(name)
    # What is left lies between what is paired: both sides in order, with the pairs as landmarks.
    landmarks = {other: name for name, other in pairs.items()}
    names, tokens = _in_order(port, lambda name: name if name in pairs else None)
    names_reference, tokens_reference = _in_order(reference, landmarks.get)
    matcher = difflib.SequenceMatcher(a=tokens, b=tokens_reference, autojunk=False)
    for start, other, size in matcher.get_matching_blocks():
        for i in range(size):
            if names[start + i] not in pairs:
                pairs[names[start + i]] = names_reference[other + i]
                taken.add(names_reference[other + i])
    _pair_containers(port, reference, pairs, taken)
    return pairs


def _in_order(layers, landmark):
    """([name], [what stands for it]) of the layers that hold no others, in order.

    Args:
        landmark: function name -> the name in the port of a layer that is paired, or None.
    """
    names, tokens = [], []
    for name, value in layers.items():
        layer = getattr(value, "layer", value)
        mark = landmark(name)
        if mark is not None or not _is_container(layer):
            names.append(name)
            tokens.append(("pair", mark) if mark is not None else ("kind", kind(layer)))
    return names, tokens


def _counterpart_of_call(name, layer_map):
    """`counterpart` of a layer's name, which may end in " (call 2)"."""
    layer, call, number = name.partition(" (call ")
    return counterpart(layer, layer_map) + call + number


def _pair_containers(port, reference, pairs, taken):
    """Pairs layers that hold others, if what lies in the one and in the other is paired, all of it.

    An activation on one side only does not count: it may be a function on the other. Where a layer
    of the reference holds nothing but another, as a residual block does the chain of its layers,
    the same lies in both. The one whose output is nearest is then the counterpart.
    """
    for name in port:
        if name in pairs or not name:
            continue
        inside = {other for mine, other in pairs.items() if mine.startswith(f"{name}.")}
        common = _common_layer({other.rpartition(".")[0] for other in inside}) if inside else ""
        candidates = []
        while common and inside == {x for x in pairs.values() if x.startswith(f"{common}.")}:
            if common in reference and common not in taken:
                candidates.append(common)
            common = common.rpartition(".")[0]
        if candidates:
            nearest = min(candidates, key=lambda each: _distance(port[name], reference[each]))
            pairs[name] = nearest
            taken.add(nearest)


def _distance(port, reference):
    """How far apart the outputs of two layers are; 0 where they were not run."""
    both_seen = isinstance(port, Seen) and isinstance(reference, Seen)
    return relative_all(port.outputs, reference.outputs) if both_seen else 0.0


def _common_layer(names):
    """The layer in which all of these lie; "" if there is none but the model."""
    levels = zip(*(name.split(".") for name in names))
    same = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    return ".".join(level[0] for level in same)


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
    pairs = {name: other for name, other in pairs.items() if not name.startswith("//")}  # remarks
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
    if hasattr(layer, "children") and _is_container(layer) and not is_one(layer):
        return found
    for name, paddle_name, torch_name in SETTINGS:
        value = getattr(layer, paddle_name if is_paddle else torch_name, None)
        if value is not None and name not in found and not callable(value):
            found[name] = _plain(value)
    found.update(own_settings(layer, found) if is_paddle else _torch_settings(layer, found))
    if "scale_factor" in found:
        found["scale_factor"] = _as_floats(found["scale_factor"])
    for name, value in list(found.items()):
        if value is None:
            del found[name]
    if hasattr(layer, "bias") and not isinstance(layer, torch.nn.modules.rnn.RNNBase):
        found["bias"] = layer.bias is not None and layer.bias is not False
    return found


def is_one(layer):
    """Whether a layer that holds others is one to its user."""
    return isinstance(
        layer,
        (
            paddle.nn.MultiHeadAttention,
            RECURRENT,
            torch.nn.MultiheadAttention,
            torch.nn.RNNBase,
        ),
    )


def _as_floats(value):
    if isinstance(value, (list, tuple)):
        return _plain([float(each) for each in value])
    return None if value is None else float(value)


def _torch_settings(layer, found):
    """The same of a layer of PyTorch."""
    nn, own = torch.nn, {}
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        # None is PyTorch's cumulative average.
        is_batch_norm = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        own["momentum"] = (
            None if layer.momentum is None or not is_batch_norm else (1 - layer.momentum)
        )
        own["frozen"] = False if is_batch_norm else None
    if isinstance(layer, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)):
        own["count_include_pad"] = layer.count_include_pad
    if isinstance(layer, nn.GELU):
        own["approximate"] = layer.approximate
    if isinstance(layer, nn.Embedding):
        own["padding_idx"] = "none" if layer.padding_idx is None else layer.padding_idx
    if isinstance(layer, nn.RNNBase):
        own["bidirectional"], own["batch_first"] = layer.bidirectional, layer.batch_first
        own["dropout"], own["activation"] = layer.dropout, rnn_activation(layer)
    if isinstance(layer, nn.MultiheadAttention):
        own["dropout"] = layer.dropout
    if isinstance(layer, nn.Upsample):
        own["interpolation"] = layer.mode
        own["align_corners"] = bool(layer.align_corners)
        own["scale_factor"] = layer.scale_factor
    if isinstance(layer, nn.Dropout):
        own["scaling"] = "upscale_in_train"
    return own


def _plain(value):
    """Numbers and tuples that compare equal where they mean the same: (3, 3) and 3."""
    if isinstance(value, (list, tuple)):
        value = tuple(value)
        return value[0] if value and all(each == value[0] for each in value) else value
    return value


def different_settings(port, reference):
    """["epsilon 1e-05 | 0.001", …]: what can be read off two layers and differs."""
    a, b = settings(port), settings(reference)
    found = []
    are_leaves = all(
        hasattr(x, "children") and (is_one(x) or not _is_container(x)) for x in (port, reference)
    )
    if are_leaves and kind(port) != kind(reference):
        found.append(f"type {type(port).__name__} | {type(reference).__name__}")
    for name in a:
        if name not in b:
            continue
        x, y = a[name], b[name]
        both_numbers = all(isinstance(v, float) for v in (x, y))
        if name == "axis" and all(isinstance(v, int) for v in (x, y)) and (x < 0) != (y < 0):
            continue  # which is the same depends on what comes in
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


def _shared(port, reference):
    """Of two {path: array} the tensors that both have, if each has one: attention returns its
    weights as well or does not."""
    if port.keys() == reference.keys() or not port or not reference:
        return port, reference
    count = min(len(port), len(reference))
    return dict(list(port.items())[:count]), dict(list(reference.items())[:count])


def _gradients(port, reference):
    """Both sides' {path: gradient}; one that a side lacks, as nobody uses that output, is 0."""
    mine, theirs = _shared(port.outputs, reference.outputs)
    if not port.output_gradients or not reference.output_gradients:
        return port.output_gradients, reference.output_gradients
    found = {}, {}
    for path, other in zip(mine, theirs):
        a = port.output_gradients.get(path)
        b = reference.output_gradients.get(other)
        if a is None and b is None:
            continue
        found[0][path] = np.zeros_like(mine[path]) if a is None else a
        found[1][path] = np.zeros_like(theirs[other]) if b is None else b
    return found


def compare(port, reference, layer_map=None, channels_last=False):
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
                relative_inputs(a.inputs, b.inputs, channels_last),
                relative_all(*_shared(a.outputs, b.outputs), channels_last),
                relative_all(*_gradients(a, b), channels_last),
            )
        )
    order = {name: i for i, name in enumerate(port)}
    return sorted(rows, key=lambda row: order[row.name])


def describe(row):
    return (
        f"{row.name or THE_MODEL}: {_describe(row.port.layer)} | {_describe(row.reference.layer)}"
    )


THE_MODEL = "the model"


def _describe(layer):
    shown = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in settings(layer).items()
    ]
    return f"{type(layer).__name__}({', '.join(shown)})"


def write(rows, path, backward=False):
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
            sides = describe(row).partition(": ")[2]
            file.write(f"{row.name or THE_MODEL:{width}}  {numbers}  {sides}{mark}\n")


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
                f"Its input differs already, by {row.input:.1e}: the mistake lies {since}{what}"
                if np.isfinite(row.input)
                else f"Its input differs already, {_how_inputs(row)}: the mistake lies "
                f"{since}{what}"
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
                f"in what {row.name or THE_MODEL} does with them (residual, function calls, a "
                "missing layer)"
            )
        else:
            how = f"{row.output:.1e}"
            if not np.isfinite(row.output):
                how = how_far_all(*_shared(row.port.outputs, row.reference.outputs))
            lines.append(
                f"Its input agrees ({row.input:.0e}), its output does not ({how}): "
                "the mistake is in this layer, its settings or its weights"
            )
        weights = different_weights(row.port.layer, row.reference.layer)
        return lines + weights
    return []


def different_weights(port, reference):
    """Lines on the weights of two leaf layers that are not the same numbers."""
    names = {new: old for each in RENAMED.values() for new, old in each.items()}
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
        moved = name in STATISTICS and port.training != reference.training
        if a.shape == b.shape and relative(a, b) > 1e-6 and not moved:
            how = incomparable(a, b) or f"{relative(a, b):.1e}"
            lines.append(
                f"Its {name} is not the reference's {names.get(name, name)} ({how}): "
                "look at the conversion of the weights"
            )
    return lines


def _how_inputs(row):
    """Why the inputs of a layer cannot be subtracted."""
    floats = [
        {path: array for path, array in seen.inputs.items() if array.dtype.kind == "f"}
        for seen in (row.port, row.reference)
    ]
    return how_far_all(*floats)


def first_backward(rows, bound=GRADIENT_FLOAT64):
    """Lines that name the first layer, from the loss back, whose output's gradient differs."""
    agreed = None
    for row in reversed(rows):
        if row.output_gradient <= bound:
            agreed = row
            continue
        gradients = row.port.output_gradients, row.reference.output_gradients
        if row.reference.wants_gradient and not row.port.wants_gradient:
            return [
                f"First layer without a gradient, from the loss back: {describe(row)}",
                f"The port's output of {row.name or THE_MODEL} needs none: its parameters are "
                "frozen (stop_gradient is True), or its input is detached",
            ]
        if not gradients[0]:
            how = f"No gradient reaches {row.name or THE_MODEL} in the port"
        elif not gradients[1]:
            how = f"No gradient reaches {row.reference_name or THE_MODEL} in the reference"
        else:
            how = f"It differs, {how_far_all(*_gradients(row.port, row.reference))}"
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
    return _trace_forward(port, reference, run_port, run_reference, path, layer_map)[0]


def _trace_forward(port, reference, run_port, run_reference, path, layer_map):
    """(lines of `locate_forward`, whether a layer differs)"""
    seen, seen_reference = record(port, run_port), record(reference, run_reference)
    rows = compare(seen, seen_reference, layer_map)
    write(rows, path)
    unpaired = unpaired_between(seen, seen_reference, rows)
    count = sum(bool(row.name) for row in rows)
    first = first_forward(rows, unpaired=unpaired)
    lines = first or [f"All {count} layers agree"]
    lines = [*_settings_lines(port, reference, layer_map), *lines, f"Layers: {shown(path)}"]
    return lines, bool(first)


def locate_backward(port, reference, run_port, run_reference, path, layer_map=None):
    """The same going forward and back: `run_port`, `run_reference` end with the backward pass."""
    seen, seen_reference = record(port, run_port), record(reference, run_reference)
    rows = compare(seen, seen_reference, layer_map)
    write(rows, path, backward=True)
    unpaired = unpaired_between(seen, seen_reference, rows)
    lines = first_forward(rows, TRAIN_FLOAT64, unpaired) or first_backward(rows)
    count = sum(bool(row.name) for row in rows)
    lines = lines or [f"All {count} layers agree, forward and backward"]
    return [*_settings_lines(port, reference, layer_map), *lines, f"Layers: {shown(path)}"]


def locate_loss(port, reference, path, layer_map=None):
    """The same for a loss on top of a model: is it the model or the loss?

    Args:
        port, reference: (model, criterion, run), as for `locate_forward`.
    """
    models, runs = (port[0], reference[0]), (port[2], reference[2])
    lines, differs = _trace_forward(*models, *runs, path, layer_map)
    if not differs:
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
