"""Which layer and parameter of the port is which of the reference, and which has no counterpart."""

import difflib
from dataclasses import dataclass, field

SHOWN = 4  # lines on parameters that do not fit, and on layers of another name


@dataclass
class Pairing:
    """The entries of two state_dicts, side by side.

    Attributes:
        table: {port's name: (reference's name, "copy" | "rename" | "transpose")} of what fits.
        renamed: {layer of the port: layer of the reference} that were paired by order and shape
            alone: neither their names nor a layer map say so. Holds for all that lies in a layer.
        misfits: [(port's name or None, its shape or None, the reference's or None)]; the name is
            the reference's where the port has none. Shapes are in the port's layout.
        layers: {layer of the port: layer of the reference}: a layer map's, and `renamed`.
    """

    table: dict
    renamed: dict
    misfits: list
    layers: dict = field(default_factory=dict)

    @property
    def fits(self):
        """Whether both sides have the same entries, of the same shapes, under known names."""
        return not (self.renamed or self.misfits)

    def verdict(self):
        rows = self.misfits
        found = [
            _count(sum(None not in row for row in rows), "parameter", "of another shape"),
            _count(sum(row[2] is None for row in rows), "parameter", "only in the port"),
            _count(sum(row[1] is None for row in rows), "parameter", "only in the reference"),
            _count(len(self.renamed), "layer", "of another name"),
        ]
        return "the port is not built as the reference is: " + ", ".join(filter(None, found))

    def lines(self, proposal=None):
        """What differs, at most SHOWN parameters and SHOWN layers.

        Args:
            proposal: name of the file that holds `layers`, if it was written.
        """
        found = []
        for rows in (
            [f"{name}: {_shape(a)} | {_shape(b)}" for name, a, b in self.misfits],
            [f"the name of a layer: {a} | {b}" for a, b in self.renamed.items()],
        ):
            found += [f"Differs (port | reference): {row}" for row in rows[:SHOWN]]
            if len(rows) > SHOWN:
                found[-1] += f" (and {len(rows) - SHOWN} more)"
        if self.renamed:
            pairs = [f'"{a}": "{b}"' for a, b in self.renamed.items()]
            shown = ", ".join([*pairs[:SHOWN], *(["…"] if len(pairs) > SHOWN else [])])
            line = f"If these are the same layers, say so: --layer-map FILE with {{{shown}}}"
            found.append(line + (f"; it is in {proposal}" if proposal else ""))
        return found


def _count(count, noun, what):
    """ "2 parameters of another shape"; None if there are none."""
    return f"{count} {noun if count == 1 else noun + 's'} {what}" if count else None


def _shape(shape):
    return "none" if shape is None else f"shape {list(shape)}"


def counterpart(name, layer_map):
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


def renamed_prefixes(renamed):
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


def pair_entries(wanted, port, reference):
    """Pairs two state_dicts: by name, and what is left over by the order and shapes of layers.

    Args:
        wanted: {port's name: (the name that the reference should have, rule)}.
        port: {port's name: shape}.
        reference: {reference's name: shape}, without counters that the port cannot have.

    Returns:
        Pairing
    """
    table, misfits, taken = {}, {}, set()
    for name, (source, rule) in wanted.items():
        if source not in reference:
            continue
        taken.add(source)
        shape = in_port_layout(reference[source], rule)
        if tuple(port[name]) == shape:
            table[name] = source, rule
        else:
            misfits[name] = name, tuple(port[name]), shape

    left = [name for name in wanted if name not in table and name not in misfits]
    left_reference = [name for name in reference if name not in taken]
    paired_layers = {layer_of(source) for source in taken}
    mine = _layers(left, lambda name: wanted[name][0], exclude={layer_of(n) for n in table})
    theirs = _layers(left_reference, lambda name: name, exclude=paired_layers)
    port_shapes = {name: in_port_layout(port[name], wanted[name][1]) for name in left}

    def keys(layers, leaf_name, shapes):
        return [
            tuple(sorted((leaf_name(n).rpartition(".")[2], tuple(shapes[n])) for n in names))
            for names in layers.values()
        ]

    matcher = difflib.SequenceMatcher(
        a=keys(mine, lambda name: wanted[name][0], port_shapes),
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
            by_leaf = {name.rpartition(".")[2]: name for name in theirs[other]}
            for name in mine[layer]:
                source = by_leaf[wanted[name][0].rpartition(".")[2]]
                table[name] = source, wanted[name][1]
                taken.add(source)

    for name in wanted:
        if name not in table and name not in misfits:
            misfits[name] = name, tuple(port[name]), None
    rows = [misfits[name] for name in wanted if name in misfits]
    rows += [(n, None, tuple(shape)) for n, shape in reference.items() if n not in taken]
    ordered = {name: table[name] for name in wanted if name in table}
    return Pairing(ordered, renamed_prefixes(renamed), rows)


def in_port_layout(shape, rule):
    shape = tuple(shape)
    return shape[::-1] if rule == "transpose" and len(shape) == 2 else shape


def layer_of(name):
    return name.rpartition(".")[0]


def _layers(names, source, exclude):
    """{layer: [names]} of the layers of which nothing has a counterpart."""
    layers = {}
    for name in names:
        if layer_of(name) not in exclude and layer_of(source(name)) not in exclude:
            layers.setdefault(layer_of(name), []).append(name)
    return layers
