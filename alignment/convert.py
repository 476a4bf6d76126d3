"""Weights of a PyTorch model as those of a Paddle model, by what each layer is.

What becomes of an entry depends on its layer:

    Linear               weight is (in, out) in Paddle and (out, in) in PyTorch: transposed
    LayerNorm            over several axes, weight and bias are flat in Paddle: flattened
    BatchNorm            _mean, _variance are running_mean, running_var in PyTorch: renamed
    InstanceNorm         scale is weight: renamed
    PReLU                _weight is weight: renamed
    MultiHeadAttention   q_proj, k_proj, v_proj are the three thirds of in_proj: split, transposed
    LSTM, GRU, SimpleRNN one entry has two names in Paddle: taken once
    all else             copied

PyTorch's num_batches_tracked, a counter, has no counterpart: ignored, and 0 on the way back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import torch
from paddle import nn

from .files import CannotRun, load_pdparams, save_pdparams, shown, whole_file
from .paddle_internals import RECURRENT, RENAMED, buffers_of, flat_weight, parameters_of
from .pairing import Joined, Piece, counterpart, pair_entries, sources_of, to_port
from .weights import load_pth

if TYPE_CHECKING:
    from .pairing import Pairing, Table


__all__ = [
    "IGNORED",
    "Rule",
    "convert",
    "convert_entries",
    "convert_file",
    "pair_weights",
    "revert",
    "revert_file",
    "rules",
]

IGNORED = "num_batches_tracked"


@dataclass(frozen=True)
class Rule:
    """What layers and names cannot tell of a pair; made by the functions below.

    Parameters are named in full, as in `state_dict()`.
    """

    kind: str
    port: tuple = ()
    reference: tuple = ()
    axis: int = 0
    why: str = ""

    @classmethod
    def split(cls, reference: str, port: Sequence[str], axis: int = 0) -> Rule:
        """The reference's parameter holds those of the port, one behind the other.

        Args:
            reference: its name.
            port: names of the port's, in their order; all of one size along `axis`.
            axis: in PyTorch's layout.
        """
        return cls("split", tuple(port), (reference,), axis)

    @classmethod
    def concat(cls, port: str, reference: Sequence[str], axis: int = 0) -> Rule:
        """The port's parameter holds those of the reference, one behind the other.

        Args:
            port: its name.
            reference: names of the reference's, in their order.
            axis: in PyTorch's layout.
        """
        return cls("concat", (port,), tuple(reference), axis)

    @classmethod
    def tie(cls, port: str, reference: str) -> Rule:
        """The port's parameter is the reference's of that name, as its layer says (transposed if
        it is a Linear's)."""
        return cls("tie", (port,), (reference,))

    @classmethod
    def transpose(cls, port: str) -> Rule:
        """The port's parameter is the reference's transposed; if it was so already, it is not."""
        return cls("transpose", (port,))

    @classmethod
    def layout(cls, data_format: str) -> Rule:
        """The port's tensors have their channels last: data_format "NHWC", "NLC" or "NDHWC"."""
        if data_format not in ("NHWC", "NLC", "NDHWC"):
            raise CannotRun(f"Rule.layout({data_format!r:.40}): give NHWC, NLC or NDHWC")
        return cls("layout", why=data_format)

    @classmethod
    def ignore(cls, name: str, why: str) -> Rule:
        """The parameter or buffer of that name, on either side, is not compared; `why` is told."""
        return cls("ignore", (name,), why=why)


def apply_rules(
    table: Table,
    given: Sequence[Rule],
    port_names: Mapping[str, Any],
    reference_names: Mapping[str, Any],
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Puts the Rules of a user into the table of `rules`.

    Returns:
        ({name: why} of what is ignored, [(name, kind of rule)] of what the port has not)

    Raises:
        CannotRun: a name is unknown in the reference.
    """
    ignored, unknown = {}, []
    for rule in given:
        for name in rule.reference:
            if name not in reference_names:
                raise CannotRun(
                    f"Rule.{rule.kind} names {name!r:.80}, and the reference has no such "
                    "parameter. Give whole names, as in state_dict()"
                )
        known = {*port_names, *reference_names} if rule.kind == "ignore" else port_names
        lacking = [(name, rule.kind) for name in rule.port if name not in known]
        if lacking:
            unknown += lacking
            continue
        if rule.kind == "ignore":
            ignored[rule.port[0]] = rule.why
            table.pop(rule.port[0], None)
        elif rule.kind == "split":
            for i, name in enumerate(rule.port):
                transposed = table[name][1] == "transpose"
                piece = Piece(i, len(rule.port), rule.axis, transposed)
                table[name] = rule.reference[0], piece
        elif rule.kind == "concat":
            transposed = table[rule.port[0]][1] == "transpose"
            table[rule.port[0]] = rule.reference, Joined(rule.axis, transposed)
        elif rule.kind == "tie":
            table[rule.port[0]] = rule.reference[0], table[rule.port[0]][1]
        elif rule.kind == "transpose":
            source, before = table[rule.port[0]]
            table[rule.port[0]] = source, "copy" if before == "transpose" else "transpose"
    return ignored, unknown


def rules(model: paddle.nn.Layer, layer_map: Mapping[str, str] | None = None) -> Table:
    """{Paddle name: (PyTorch name, rule)} for a paddle.nn.Layer.

    A rule is "copy", "rename", "transpose", "flatten", or a `Piece` of one that PyTorch packs.

    Args:
        layer_map: {layer of the port: layer of the reference}, where their names differ.
    """
    found: Table = {}
    wanted = model.state_dict()
    aliases = _aliases(model)
    packed = {}  # projections of attention: {layer: (attention, number of the projection)}
    for prefix, layer in model.named_sublayers(include_self=True):
        renamed = next((names for kind, names in RENAMED.items() if isinstance(layer, kind)), {})
        other = counterpart(prefix, layer_map or {})
        if isinstance(layer, nn.MultiHeadAttention):
            packed |= _projections(prefix, layer)
        for name in [*parameters_of(layer), *buffers_of(layer)]:
            paddle_name = f"{prefix}.{name}" if prefix else name
            # A bias that is None, a buffer that is not saved, an RNN's second name of an entry.
            if paddle_name not in wanted or paddle_name in aliases:
                continue
            torch_name = f"{other}.{renamed.get(name, name)}" if other else renamed.get(name, name)
            if prefix in packed:
                attention, number = packed[prefix]
                attention = counterpart(attention, layer_map or {})
                torch_name = f"{attention}.in_proj_{name}" if attention else f"in_proj_{name}"
                found[paddle_name] = torch_name, Piece(number, 3, 0, name == "weight")
            elif isinstance(layer, nn.Linear) and name == "weight":
                found[paddle_name] = torch_name, "transpose"
            elif flat_weight(layer):
                found[paddle_name] = torch_name, "flatten"
            else:
                found[paddle_name] = torch_name, "rename" if name in renamed else "copy"
    return found


def _projections(prefix: str, layer: paddle.nn.Layer) -> dict[str, tuple[str, int]]:
    """{layer: (attention, 0 to 2)} of the projections that PyTorch packs into one."""
    if not (layer.embed_dim == layer.kdim == layer.vdim):
        return {}
    names = ("q_proj", "k_proj", "v_proj")
    return {f"{prefix}.{n}" if prefix else n: (prefix, i) for i, n in enumerate(names)}


def _aliases(model: paddle.nn.Layer) -> set[str]:
    """Names under which an RNN of Paddle has its parameters a second time: lstm.0.cell.weight_ih"""
    found = set()
    for prefix, layer in model.named_sublayers(include_self=True):
        if not isinstance(layer, RECURRENT):
            continue
        own = {id(parameter) for parameter in parameters_of(layer).values()}
        for below, cell in layer.named_sublayers():
            for name, parameter in parameters_of(cell).items():
                if id(parameter) in own:
                    found.add(".".join(filter(None, (prefix, below, name))))
    return found


def pair_weights(
    model: paddle.nn.Layer,
    torch_state: Mapping[str, torch.Tensor],
    layer_map: Mapping[str, str] | None = None,
    given: Sequence[Rule] = (),
) -> Pairing:
    """The Pairing of a paddle.nn.Layer with a PyTorch state_dict {name: tensor}.

    Args:
        given: Rules.
    """
    layer_map = layer_map or {}
    table = rules(model, layer_map)
    for layer, other in layer_map.items():
        mine = [source for name, (source, _) in table.items() if name.startswith(f"{layer}.")]
        if mine and not any(source in torch_state for source in mine):
            raise CannotRun(
                f"the layer map says that {layer} is the reference's {other}, and that has no such "
                "parameters"
            )
    state = model.state_dict()
    port = {name: tensor.shape for name, tensor in state.items()}
    reference = {name: x.shape for name, x in torch_state.items() if not name.endswith(IGNORED)}
    ignored, unknown = apply_rules(table, given, port, reference)
    # A tensor of several names is compared under those that the other side knows.
    one = {name: id(tensor) for name, tensor in state.items()}
    one_reference = {name: (x.data_ptr(), x.shape, x.stride()) for name, x in torch_state.items()}
    wanted = {name for source, _ in table.values() for name in sources_of(source)}
    kept = _of_several_names(reference, one_reference, lambda name: name in wanted)
    reference = {name: reference[name] for name in kept if name not in ignored}
    table = {
        name: table[name]
        for name in _of_several_names(
            table, one, lambda name: all(n in reference for n in sources_of(table[name][0]))
        )
    }
    pairing = pair_entries(table, port, reference)
    pairing.layers = {**layer_map, **pairing.renamed}
    pairing.ignored, pairing.unknown = ignored, unknown
    pairing.counters = [name for name in torch_state if name.endswith(IGNORED)]
    pairing.tied = _tied_on_one_side(pairing.table, one, one_reference)
    return pairing


def _of_several_names(
    names: Iterable[str], tensor: Mapping[str, Any], is_known: Callable[[str], bool]
) -> list[str]:
    """Of the names of one tensor those that are known; if none is, the first.

    Args:
        tensor: {name: what tells one tensor from another}.
    """
    groups = {}
    for name in names:
        groups.setdefault(tensor[name], []).append(name)
    kept = set()
    for group in groups.values():
        kept.update([name for name in group if is_known(name)] or group[:1])
    return [name for name in names if name in kept]


def _tied_on_one_side(
    table: Table, tensor: Mapping[str, Any], tensor_reference: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """[(name, what it is in the port, in the reference)] of what is tied on one side only."""
    found, first, first_reference = [], {}, {}
    for name, (source, rule) in table.items():
        if isinstance(source, tuple) or isinstance(rule, Piece):
            continue
        mine, theirs = tensor[name], tensor_reference[source]
        other, other_reference = first.get(mine), first_reference.get(theirs)
        if other is not None and other_reference is None:
            found.append((name, f"is {other}", "is a parameter of its own"))
        elif other_reference is not None and other is None:
            found.append((name, "is a parameter of its own", f"is {other_reference}"))
        first.setdefault(mine, name)
        first_reference.setdefault(theirs, name)
    return found


def convert(
    torch_state: dict[str, torch.Tensor],
    model: paddle.nn.Layer,
    layer_map: Mapping[str, str] | None = None,
) -> dict[str, paddle.Tensor]:
    """A PyTorch state_dict as the state_dict of the Paddle `model`; takes the entries out of it.

    Args:
        torch_state: {name: tensor}. Emptied as it goes, so that memory is not needed twice.
        model: paddle.nn.Layer, for its layers' kinds, names, shapes and dtypes.
        layer_map: {layer of the port: layer of the reference}, where their names differ.

    Returns:
        {name: paddle.Tensor} on the CPU.

    Raises:
        CannotRun: an entry is missing, unknown, or of another shape or dtype.
    """
    table = rules(model, layer_map)
    sources = {name for source, _ in table.values() for name in sources_of(source)}
    unknown = [n for n in torch_state if n not in sources and not n.endswith(IGNORED)]
    missing = [n for n in sources if n not in torch_state]
    _require_same_names(unknown, sorted(missing))
    return convert_entries(torch_state, model, table)


def convert_entries(
    torch_state: dict[str, torch.Tensor], model: paddle.nn.Layer, table: Table
) -> dict[str, paddle.Tensor]:
    """`convert` of those entries that `table` names, as `rules` or `Pairing.table` gives it."""
    state, uses = {}, Counter(n for source, _ in table.values() for n in sources_of(source))
    for name, target in model.state_dict().items():
        if name not in table:
            continue
        source, rule = table[name]
        left = {each: uses.get(each, 0) - 1 for each in sources_of(source)}
        uses.update(left)
        tensors = [
            (torch_state[each] if left[each] > 0 else torch_state.pop(each)).detach()
            for each in sources_of(source)
        ]
        for each, tensor in zip(sources_of(source), tensors):
            _require_same_dtype(each, tensor, name, target)
        array = to_port([tensor.cpu().numpy() for tensor in tensors], rule)
        _require_same_shape(" + ".join(sources_of(source)), array, name, target)
        state[name] = paddle.to_tensor(np.asarray(array, order="C"), place=paddle.CPUPlace())
    return state


def revert(
    paddle_state: dict[str, np.ndarray],
    model: paddle.nn.Layer,
    layer_map: Mapping[str, str] | None = None,
) -> dict[str, torch.Tensor]:
    """The inverse of `convert`: {name: array} of the Paddle `model` as a PyTorch state_dict.

    Raises:
        CannotRun: an entry is missing, unknown, or of another shape or dtype.
    """
    table = rules(model, layer_map)
    known = model.state_dict()
    _require_same_names(
        [n for n in paddle_state if n not in known], [n for n in table if n not in paddle_state]
    )
    state, pieces = {}, {}
    for name, target in model.state_dict().items():
        if name not in table:  # the second name of an RNN's entry
            continue
        source, rule = table[name]
        assert isinstance(source, str)  # `rules` joins none
        array = np.asarray(paddle_state.pop(name))
        _require_same_shape(name, array, name, target)
        _require_same_dtype(name, array, name, target)
        if isinstance(rule, Piece):
            array = array.T if rule.transposed else array
            pieces.setdefault(source, {})[rule.index] = array
            if len(pieces[source]) < rule.parts:
                continue
            array = np.concatenate([x for _, x in sorted(pieces[source].items())], rule.axis)
        else:
            array = array.T if rule == "transpose" else array
        state[source] = torch.from_numpy(np.array(array, order="C"))
        if name.endswith("_variance"):
            state[source.replace("running_var", IGNORED)] = torch.tensor(0)
    return state


def _require_same_names(unknown: Sequence[str], missing: Sequence[str]) -> None:
    if unknown or missing:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})"
            for what, names in (("entries missing", missing), ("entries unknown", unknown))
            if names
        ]
        raise CannotRun(
            "these are weights of another model, or the port is built differently: "
            + "; ".join(parts)
        )


def _require_same_shape(source: Any, value: Any, name: str, target: Any) -> None:
    shape, wanted = list(value.shape), list(target.shape)
    if shape != wanted:
        raise CannotRun(
            "these are weights of another model, or the port is built differently: "
            f"{source} fits {shape}, "
            f"the model's {name} is {wanted}"
        )


def _require_same_dtype(source: Any, value: Any, name: str, target: Any) -> None:
    dtype, wanted = (str(x.dtype).rpartition(".")[2] for x in (value, target))
    if dtype != wanted:
        raise CannotRun(
            f"{source} is {dtype}, the model's {name} is {wanted}: "
            f"convert it to {wanted} in the framework that saved it"
        )


def convert_file(
    source: Path, target: Path, model: paddle.nn.Layer, layer_map: Mapping[str, str] | None = None
) -> None:
    """PyTorch checkpoint `source` -> Paddle state_dict file `target`. Raises CannotRun."""
    try:
        state = convert(load_pth(source), model, layer_map)
    except CannotRun as error:
        raise CannotRun(_with_file(error, source)) from error
    save_pdparams(state, target)


def revert_file(
    source: Path, target: Path, model: paddle.nn.Layer, layer_map: Mapping[str, str] | None = None
) -> None:
    """Paddle state_dict file `source` -> PyTorch state_dict file `target`. Raises CannotRun."""
    try:
        state = revert(load_pdparams(source), model, layer_map)
    except CannotRun as error:
        raise CannotRun(_with_file(error, source)) from error
    with whole_file(target) as temporary:
        torch.save(state, temporary)


def _with_file(error: Exception, path: Path) -> str:
    return str(error) if shown(path) in str(error) else f"{shown(path)}: {error}"
