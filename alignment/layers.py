"""Where two models differ: every layer's input, output and gradients, compared in order.

The models are in float64 (`precision.to_float64`), so a layer either agrees to 1e-12 or does not.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import paddle

from .files import CannotRun, shown
from .pairing import counterpart, read_map
from .settings import is_container, kind
from .structure import flatten, is_tensor, to_array

if TYPE_CHECKING:
    import torch

    from .settings import Layer


LEFT_OUT = -1e4  # at most: what a mask adds where attention is not to look


@dataclass
class Seen:
    """What one call of a layer took and gave, {path: array} of all tensors.

    `wants_gradient`: whether an output takes part in a backward pass.
    """

    layer: Any
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

    def __init__(self, limit: int | None = None) -> None:
        if limit is None:
            limit = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
        self.free = limit
        self.file: BinaryIO | None = None

    def keep(self, array: np.ndarray) -> np.ndarray:
        """The array, or one of the same values that lies in the file."""
        self.free -= array.nbytes
        if self.free >= 0 or not array.size:
            return array
        self.file = self.file or tempfile.TemporaryFile()  # noqa: SIM115  (as long as the arrays)
        offset = self.file.seek(0, os.SEEK_END)
        array.tofile(self.file)
        self.file.flush()
        return np.memmap(self.file, array.dtype, "r", offset, array.shape)


def record(
    model: Layer,
    run: Callable[[Any], Any],
    shelf: Shelf | None = None,
    into: dict[str, Seen] | None = None,
) -> dict[str, Seen]:
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

    def arrays(value: Any) -> dict[str, np.ndarray]:
        return {
            path: shelf.keep(to_array(leaf))
            for path, leaf in flatten(value).items()
            if is_tensor(leaf)
        }

    def before(name: str) -> Callable[..., None]:
        def hook(layer: Layer, args: Any, kwargs: Any) -> None:
            # By keyword or not is no difference.
            started.setdefault(name, []).append(Seen(layer, arrays([args, kwargs])))

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
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

    def keep_gradient(seen: Seen, path: str) -> Callable[[Any], None]:
        def hook(gradient: Any) -> None:
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


def _wants_gradient(tensor: Any) -> bool:
    if isinstance(tensor, paddle.Tensor):
        return not tensor.stop_gradient
    return tensor.requires_grad


def relative(port: np.ndarray | None, reference: np.ndarray | None) -> float:
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


def _without_masked(port: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays without the places where both hold the same infinity, as a mask does, unless there
    is nothing else."""
    if reference.dtype.kind != "f":
        return port, reference
    masked = np.isinf(reference) & (port == reference)
    if not masked.any() or masked.all():
        return port, reference
    return port[~masked], reference[~masked]


def pair_leaves(
    port: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> list[tuple[str, Any, Any]]:
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


def arrange(port: np.ndarray, reference: np.ndarray, channels_last: bool) -> np.ndarray:
    """The port's array with its channels first, if it has them last and that fits better."""
    if not channels_last or port is None or reference is None or port.ndim < 3:
        return port
    moved = np.moveaxis(port, -1, 1)
    if moved.shape != reference.shape:
        return port
    if port.shape != reference.shape:
        return moved
    return min((port, moved), key=lambda each: relative(each, reference))


def arrange_axes(port: Any, reference: Any, channels_last: bool = False) -> Any:
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


def relative_all(
    port: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], channels_last: bool = False
) -> float:
    """The largest `relative` of two {path: array}; of two empty ones 0."""
    return max(
        (
            relative(arrange_axes(a, b, channels_last), b)
            for _, a, b in pair_leaves(port, reference)
        ),
        default=0.0,
    )


def relative_inputs(
    port: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], channels_last: bool = False
) -> float:
    """`relative_all` of the floats of which both sides have one: masks of truth values differ by
    convention, and what is an argument here may be an attribute there. Of two masks that are added
    counts which places they keep: 0.0 or inf."""
    return max(
        (
            (0.0 if masks.agree else np.inf)
            if (masks := Masks(a, b))
            else relative(arrange_axes(a, b, channels_last), b)
            for a, b in float_inputs(port, reference)
        ),
        default=0.0,
    )


def float_inputs(
    port: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(port's array, reference's array)] of the floats of which both sides have one, in order."""
    floats = [
        [array for array in arrays.values() if array.dtype.kind == "f"]
        for arrays in (port, reference)
    ]
    return list(zip(*floats))


class Masks:
    """Two arrays, if both are masks that attention adds to its scores: 0 keeps a place, and
    -infinity or a large negative number leaves it out. False, if they are something else.

    Attributes:
        agree: whether they keep the same places, whatever their axes of one: (batch, keys) is
            (batch, 1, 1, keys).
    """

    def __init__(self, port: np.ndarray, reference: np.ndarray) -> None:
        self.arrays = port, reference

    def __bool__(self) -> bool:
        if not any(array.min(initial=0.0) <= LEFT_OUT for array in self.arrays):
            return False  # as nearly always
        return all(((array == 0) | (array <= LEFT_OUT)).all() for array in self.arrays)

    @property
    def kept(self) -> list[np.ndarray]:
        """bool, of each: the places that it keeps."""
        return [array == 0 for array in self.arrays]

    @property
    def agree(self) -> bool:
        without_ones = [
            kept.reshape([n for n in kept.shape[:-1] if n > 1] + [*kept.shape[-1:]])
            for kept in self.kept
        ]
        smaller, larger = sorted(without_ones, key=lambda kept: kept.ndim)
        # (queries, keys) is for the whole batch, (batch, keys) for all queries.
        spread = [smaller, smaller[:, None]] if smaller.ndim == 2 < larger.ndim else [smaller]
        for kept in spread:
            with contextlib.suppress(ValueError):  # it does not fit
                if np.array_equal(np.broadcast_to(kept, larger.shape), larger):
                    return True
        return False

    @property
    def inverted(self) -> bool:
        """Whether the port keeps what the reference leaves out."""
        return Masks(np.where(self.kept[0], -np.inf, 0.0), self.arrays[1]).agree

    def __str__(self) -> str:
        port, reference = (f"{kept.sum()} of {kept.size} places" for kept in self.kept)
        shapes = " | ".join(str(array.shape) for array in self.arrays)
        return f"{port} | {reference}, shape {shapes}"


def incomparable(port: np.ndarray | None, reference: np.ndarray | None) -> str:
    """Why two arrays cannot be subtracted, "port | reference"; "" if they can."""
    if port is None or reference is None:
        return f"none in the {'port' if port is None else 'reference'}"
    if port.shape != reference.shape:
        return f"shape {port.shape} | {reference.shape}"
    if (port.dtype.kind in "iu") != (reference.dtype.kind in "iu"):
        return f"dtype {port.dtype} | {reference.dtype}"
    if np.isfinite(port).all() and np.isfinite(reference).all():
        return ""
    port, reference = _without_masked(port, reference)
    for side, array in (("port", port), ("reference", reference)):
        if not np.isfinite(array).all():
            return f"NaN or infinity in the {side}"
    return ""


def how_far(port: np.ndarray | None, reference: np.ndarray | None) -> str:
    """How far apart two arrays are, in words: "by 1.2e-03", or why that cannot be said."""
    return incomparable(port, reference) or f"by {relative(port, reference):.1e}"


def how_far_all(
    port: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], channels_last: bool = False
) -> str:
    """The same of two {path: array}: of the first that cannot be compared, or of the worst."""
    rows: list[tuple[str, Any, Any]] = [
        (path, arrange(a, b, channels_last), b) for path, a, b in pair_leaves(port, reference)
    ]
    several = len(rows) > 1
    for path, a, b in rows:
        reason = incomparable(a, b)
        if reason:
            return f"{path}: {reason}" if several else reason
    path, a, b = max(rows, key=lambda row: relative(row[1], row[2]), default=("", None, None))
    if a is None:
        return "no tensors"
    return f"{how_far(a, b)} in {path}" if several and path else how_far(a, b)


def match(
    port: Mapping[str, Layer],
    reference: Mapping[str, Layer],
    layer_map: Mapping[str, str] | None = None,
) -> dict[str, str]:
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


def _in_order(
    layers: Mapping[str, Layer], landmark: Callable[[str], Any]
) -> tuple[list[str], list[Any]]:
    """([name], [what stands for it]) of the layers that hold no others, in order.

    Args:
        landmark: function name -> the name in the port of a layer that is paired, or None.
    """
    names, tokens = [], []
    for name, value in layers.items():
        layer = getattr(value, "layer", value)
        mark = landmark(name)
        if mark is not None or not is_container(layer):
            names.append(name)
            tokens.append(("pair", mark) if mark is not None else ("kind", kind(layer)))
    return names, tokens


def _counterpart_of_call(name: str, layer_map: Mapping[str, str]) -> str:
    """`counterpart` of a layer's name, which may end in " (call 2)"."""
    layer, call, number = name.partition(" (call ")
    return counterpart(layer, layer_map) + call + number


def _pair_containers(
    port: Mapping[str, Layer],
    reference: Mapping[str, Layer],
    pairs: dict[str, str],
    taken: set[str],
) -> None:
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


def _distance(port: Seen, reference: Seen) -> float:
    """How far apart the outputs of two layers are; 0 where they were not run."""
    both_seen = isinstance(port, Seen) and isinstance(reference, Seen)
    return relative_all(port.outputs, reference.outputs) if both_seen else 0.0


def _common_layer(names: Iterable[str]) -> str:
    """The layer in which all of these lie; "" if there is none but the model."""
    levels = zip(*(name.split(".") for name in names))
    same = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    return ".".join(level[0] for level in same)


def read_layer_map(
    path: Path | None, port: paddle.nn.Layer, reference: torch.nn.Module
) -> dict[str, str]:
    """A JSON file {"layer of the port": "layer of the reference"}; {} if `path` is None.

    Args:
        port, reference: the paddle.nn.Layer and the torch.nn.Module, which must have these layers.

    Raises:
        CannotRun: it cannot be read, is something else, or names a layer that is not there.
    """
    if path is None:
        return {}
    pairs = read_map(path)
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


def common_outputs(
    port: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Of two {path: array} the tensors that both have, if each has one: attention returns its
    weights as well or does not."""
    if port.keys() == reference.keys() or not port or not reference:
        return port, reference
    count = min(len(port), len(reference))
    return dict(list(port.items())[:count]), dict(list(reference.items())[:count])


def output_gradients(
    port: Seen, reference: Seen
) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Both sides' {path: gradient}; one that a side lacks, as nobody uses that output, is 0."""
    mine, theirs = common_outputs(port.outputs, reference.outputs)
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


def compare(
    port: dict[str, Seen],
    reference: dict[str, Seen],
    layer_map: Mapping[str, str] | None = None,
    channels_last: bool = False,
) -> list[Row]:
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
                relative_all(*common_outputs(a.outputs, b.outputs), channels_last),
                relative_all(*output_gradients(a, b), channels_last),
            )
        )
    order = {name: i for i, name in enumerate(port)}
    return sorted(rows, key=lambda row: order[row.name])
