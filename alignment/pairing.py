"""Which layer and parameter of the port is which of the reference, and which has no counterpart."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import CannotRun, read_json, shown
from .findings import SETTING, Finding

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TypeAlias


SHOWN = 4  # lines on parameters that do not fit, and on layers of another name


@dataclass(frozen=True)
class Piece:
    """A rule: the port's parameter is one of several that the reference packs into one.

    Attributes:
        index, parts: which, and of how many of one size.
        axis: in PyTorch's layout.
        transposed: the port's is transposed, as a Linear's weight is.
    """

    index: int
    parts: int
    axis: int = 0
    transposed: bool = False

    def __str__(self) -> str:
        return "split"


@dataclass(frozen=True)
class Joined:
    """A rule: the port's parameter is several of the reference, one behind the other."""

    axis: int = 0
    transposed: bool = False

    def __str__(self) -> str:
        return "concat"


# How entries of the reference become one of the port; {name: (the reference's name, how)}.
Layout: TypeAlias = str | Piece | Joined
Table: TypeAlias = dict[str, tuple[str | tuple[str, ...], Layout]]


def sources_of(source: str | tuple[str, ...]) -> tuple[str, ...]:
    """The reference's names of one entry of a table, as a tuple."""
    return source if isinstance(source, tuple) else (source,)


def to_port(arrays: Sequence[Any], rule: Layout) -> Any:
    """The reference's arrays of one entry, in the port's layout.

    Args:
        arrays: as many as `sources_of` names; None for one that there is not gives None.
        rule: as in `Pairing.table`.
    """
    if any(array is None for array in arrays):
        return None
    array = arrays[0]
    if isinstance(rule, Piece):
        size = array.shape[rule.axis] // rule.parts
        part = slice(rule.index * size, (rule.index + 1) * size)
        array = array[(slice(None),) * rule.axis + (part,)]
    elif isinstance(rule, Joined):
        array = np.concatenate(arrays, rule.axis)
    if rule == "flatten":
        return array.reshape(-1)
    return array.T if _transposes(rule) and array.ndim == 2 else array


def _transposes(rule: Layout) -> bool:
    return rule == "transpose" or getattr(rule, "transposed", False)


@dataclass
class Pairing:
    """The entries of two state_dicts, side by side.

    Attributes:
        table: {port's name: (reference's name or names, rule)} of what fits. A rule is "copy",
            "rename", "transpose", "flatten", a Piece or a Joined.
        renamed: {layer of the port: layer of the reference} that were paired by order and shape
            alone: neither their names nor a layer map say so. Holds for all that lies in a layer.
        misfits: [(port's name or None, its shape or None, the reference's or None)]; the name is
            the reference's where the port has none. Shapes are in the port's layout.
        layers: {layer of the port: layer of the reference}: a layer map's, and `renamed`.
        ignored: {name: why} of parameters that are not to be compared.
        unknown: [(name, kind of rule)] of parameters that a rule names and the port has not.
        tied: [(port's name, what it is in the port, in the reference)] of parameters that are one
            tensor with another on one side only.
        shapes: {port's name: shape}.
        counters: names of the reference that count batches, and that the port cannot have.
    """

    table: dict
    renamed: dict
    misfits: list
    layers: dict = field(default_factory=dict)
    ignored: dict = field(default_factory=dict)
    unknown: list = field(default_factory=list)
    tied: list = field(default_factory=list)
    shapes: dict = field(default_factory=dict)
    counters: list = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether both sides have the same entries, of the same shapes, under known names."""
        return not (self.renamed or self.misfits or self.tied)

    def verdict(self) -> str:
        rows = self.misfits
        found = [
            _count(sum(None not in row for row in rows), "parameter", "of another shape"),
            _count(sum(row[2] is None for row in rows), "parameter", "only in the port"),
            _count(sum(row[1] is None for row in rows), "parameter", "only in the reference"),
            _count(len(self.renamed), "layer", "of another name"),
            _count(len(self.tied), "parameter", "tied on one side only"),
        ]
        return "the port is built differently from the reference: " + ", ".join(filter(None, found))

    def findings(self) -> list[Finding]:
        """[Finding] of all that differs: entries, ties, names of layers."""
        return [finding for kind in self._findings_by_kind() for finding in kind]

    def _findings_by_kind(self) -> list[list[Finding]]:
        return [
            [Finding("structure", where, "", a, b, title=SETTING) for where, a, b in rows]
            for rows in (
                [(name, _shape(a), _shape(b)) for name, a, b in self.misfits],
                self.tied,
                [("the name of a layer", a, b) for a, b in self.renamed.items()],
            )
        ]

    def entries(self) -> list[dict[str, Any]]:
        """[{"port", "reference", "rule", "shape"}]: what became of each entry of both sides."""
        found = [
            _entry(name, ", ".join(sources_of(source)), str(rule), self.shapes.get(name))
            for name, (source, rule) in self.table.items()
        ]
        for name, mine, theirs in self.misfits:
            port = None if mine is None else name
            rule = "another shape" if None not in (mine, theirs) else "no counterpart"
            reference = None if theirs is None else name
            found.append(_entry(port, reference, rule, theirs if mine is None else mine))
        found += [_entry(name, None, "ignored", None) for name in self.ignored]
        return [*found, *(_entry(None, name, "ignored", None) for name in self.counters)]

    def lines(self, proposal: str | None = None) -> list[str]:
        """What differs, at most SHOWN parameters and SHOWN layers.

        Args:
            proposal: name of the file that holds `layers`, if it was written.
        """
        lines = []
        for findings in self._findings_by_kind():
            lines += [line for finding in findings[:SHOWN] for line in finding.lines()]
            if len(findings) > SHOWN:
                lines[-1] += f" (and {len(findings) - SHOWN} more)"
        if self.renamed:
            pairs = [f'"{a}": "{b}"' for a, b in self.renamed.items()]
            shown = ", ".join([*pairs[:SHOWN], *(["…"] if len(pairs) > SHOWN else [])])
            line = f"If these are the same layers, say so: --layer-map FILE with {{{shown}}}"
            lines.append(line + (f" (written to {proposal})" if proposal else ""))
        return lines


def _entry(port: str | None, reference: Any, rule: Any, shape: Any) -> dict[str, Any]:
    shape = list(map(int, shape or ()))
    return {"port": port, "reference": reference, "rule": rule, "shape": shape}


def _count(count: int, noun: str, what: str) -> str | None:
    """ "2 parameters of another shape"; None if there are none."""
    return f"{count} {noun if count == 1 else noun + 's'} {what}" if count else None


def _shape(shape: Any) -> Any:
    return "none" if shape is None else f"shape {list(shape)}"


def without_remarks(layer_map: dict[str, str]) -> dict[str, str]:
    """A layer map without what `alignment map` remarks on it: entries that begin with //."""
    return {name: other for name, other in layer_map.items() if not name.startswith("//")}


def read_map(path: Path | None) -> dict[str, str]:
    """{layer of the port: layer of the reference} of a JSON file, without remarks; {} of None.

    Raises:
        CannotRun: it cannot be read, or is something else.
    """
    if path is None:
        return {}
    pairs = read_json(path)
    if not isinstance(pairs, dict) or not all(isinstance(name, str) for name in pairs.values()):
        raise CannotRun(f'{shown(path)}: wanted {{"layer of the port": "layer of the reference"}}')
    return without_remarks(pairs)


def counterpart(name: str, layer_map: Mapping[str, str]) -> str:
    """The reference's name of a layer or parameter: by the longest layer of the map it lies in.

    Args:
        name: "stem.0.weight"
        layer_map: {"stem": "features.0"}; gives "features.0.0.weight".
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        layer = ".".join(parts[:length])
        if layer in layer_map:
            return ".".join([layer_map[layer], *parts[length:]])
    return name


def renamed_prefixes(renamed: Mapping[str, str]) -> dict[str, str]:
    """{"stem.0": "features.0.0", "stem.1": "features.0.1"} -> {"stem": "features.0"}"""
    prefixes = {}
    for port, reference in renamed.items():
        a, b = port.split("."), reference.split(".")
        while len(a) > 1 and len(b) > 1 and a[-1] == b[-1] and a[:-1] != b[:-1]:
            a, b = a[:-1], b[:-1]
        prefixes.setdefault(".".join(a), ".".join(b))
    # A prefix has to speak for all that lies in it.
    if all(counterpart(port, prefixes) == reference for port, reference in renamed.items()):
        return prefixes
    return dict(renamed)


def pair_entries(wanted: Table, port: Mapping[str, Any], reference: Mapping[str, Any]) -> Pairing:
    """Pairs two state_dicts: by name, and what is left over by the order and shapes of layers.

    Args:
        wanted: {port's name: (the name that the reference should have, rule)}.
        port: {port's name: shape}.
        reference: {reference's name: shape}, without counters that the port cannot have.

    Returns:
        Pairing
    """
    table: Table = {}
    misfits: dict[str, tuple[Any, Any, Any]] = {}
    taken = set()
    for name, (source, rule) in wanted.items():
        sources = sources_of(source)
        if not all(each in reference for each in sources):
            continue
        taken.update(sources)
        shape = in_port_layout([reference[each] for each in sources], rule)
        if tuple(port[name]) == shape:
            table[name] = source, rule
        else:
            misfits[name] = name, tuple(port[name]), shape

    # What is left is paired layer by layer, by the reference's own names of the entries in it.
    left = [n for n in wanted if n not in table and n not in misfits and _is_single(wanted[n])]
    left_reference = [name for name in reference if name not in taken]
    paired_layers = {layer_of(source) for source in taken}
    mine = _layers(left, wanted.get, exclude={layer_of(n) for n in table})
    theirs = _layers(left_reference, lambda name: (name, "copy"), exclude=paired_layers)
    shapes = {name: _reference_shape(port[name], wanted[name][1]) for name in left}

    def keys(
        layers: Mapping[str, list[str]], source: Callable[[str], Any], shapes: Mapping[str, Any]
    ) -> list[Any]:
        return [
            tuple(sorted({(leaf_of(source(n)), tuple(shapes[n])) for n in names}))
            for names in layers.values()
        ]

    matcher = difflib.SequenceMatcher(
        a=keys(mine, lambda name: wanted[name][0], shapes),
        b=keys(theirs, lambda name: name, reference),
        autojunk=False,
    )
    layers, layers_reference = list(mine), list(theirs)
    renamed = {}
    for start, start_reference, size in matcher.get_matching_blocks():
        for offset in range(size):
            layer, other = layers[start + offset], layers_reference[start_reference + offset]
            # Where shapes differ too, as of a block that is missing, equal shapes elsewhere say
            # little: then at least as deep in the model.
            if misfits and layer.count(".") != other.count("."):
                continue
            renamed[layer] = other
            by_leaf = {leaf_of(name): name for name in theirs[other]}
            for name in mine[layer]:
                source = by_leaf[leaf_of(sources_of(wanted[name][0])[0])]
                table[name] = source, wanted[name][1]
                taken.add(source)
    if not misfits:
        known = {layer_of(name): layer_of(source) for name, source in _singles(table)}
        renamed |= _pair_single_entries(wanted, port, reference, table, taken, known)

    for name in wanted:
        if name not in table and name not in misfits:
            misfits[name] = name, tuple(port[name]), None
    rows: list[tuple[Any, Any, Any]] = [misfits[name] for name in wanted if name in misfits]
    rows += [(n, None, tuple(shape)) for n, shape in reference.items() if n not in taken]
    ordered = {name: table[name] for name in wanted if name in table}
    shapes = {name: tuple(shape) for name, shape in port.items()}
    return Pairing(ordered, renamed_prefixes(renamed), rows, shapes=shapes)


def _pair_single_entries(
    wanted: Table,
    port: Mapping[str, Any],
    reference: Mapping[str, Any],
    table: Table,
    taken: set[str],
    known: Mapping[str, str],
) -> dict[str, str]:
    """Pairs parameters of another name in layers that are paired, by order and shape.

    Adds to `table` and `taken`.

    Args:
        known: {layer of the port: layer of the reference}.

    Returns:
        {port's name: reference's name}
    """
    renamed = {}
    known = {"": "", **known}
    for layer, other in known.items():
        mine = [n for n in wanted if n not in table and layer_of(n) == layer]
        mine = [n for n in mine if _is_single(wanted[n])]
        theirs = [n for n in reference if n not in taken and layer_of(n) == other]
        matcher = difflib.SequenceMatcher(
            a=[_reference_shape(port[n], wanted[n][1]) for n in mine],
            b=[tuple(reference[n]) for n in theirs],
            autojunk=False,
        )
        for start, start_reference, size in matcher.get_matching_blocks():
            for name, source in zip(mine[start:], theirs[start_reference:][:size]):
                table[name] = source, wanted[name][1]
                taken.add(source)
                renamed[name] = source
    return renamed


def _is_single(entry: tuple[str | tuple[str, ...], Layout]) -> bool:
    return not isinstance(entry[0], tuple)


def _singles(table: Table) -> list[tuple[str, str]]:
    return [(name, source) for name, (source, _) in table.items() if isinstance(source, str)]


def in_port_layout(shapes: Sequence[Any], rule: Layout) -> tuple[int, ...]:
    """The shape in the port's layout of what `to_port` makes of arrays of these shapes."""
    shape = list(shapes[0])
    if isinstance(rule, Piece):
        if shape[rule.axis] % rule.parts:
            return tuple(shape)
        shape[rule.axis] //= rule.parts
    elif isinstance(rule, Joined):
        shape[rule.axis] = sum(each[rule.axis] for each in shapes)
    elif rule == "flatten":
        return (int(np.prod(shape)),)
    return tuple(shape[::-1] if _transposes(rule) and len(shape) == 2 else shape)


def _reference_shape(shape: Sequence[int], rule: Layout) -> tuple[int, ...]:
    """The shape of the reference's parameter of which the port has this one."""
    shape = list(shape)
    shape = shape[::-1] if _transposes(rule) and len(shape) == 2 else shape
    if isinstance(rule, Piece):
        shape[rule.axis] *= rule.parts
    return tuple(shape)


def layer_of(name: str) -> str:
    return name.rpartition(".")[0]


def leaf_of(name: str) -> str:
    return name.rpartition(".")[2]


def _layers(
    names: Iterable[str], entry: Callable[[str], Any], exclude: Collection[str]
) -> dict[str, list[str]]:
    """{layer: [names]} of the layers of which nothing has a counterpart.

    Args:
        entry: function name -> (source, rule). A Piece lies in the layer above: PyTorch's attention
            packs into its own parameters what lies in the projections of Paddle's.
    """
    layers = {}
    for name in names:
        source, rule = entry(name)
        layer = layer_of(layer_of(name)) if isinstance(rule, Piece) else layer_of(name)
        if layer not in exclude and layer_of(source) not in exclude:
            layers.setdefault(layer, []).append(name)
    return layers
