"""Which parameter is which, and the same weights on both sides."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import layers
from ..convert import pair_weights
from ..files import CannotRun, load_pdparams, shown
from ..findings import Finding
from ..pairing import layer_of
from ..state import put, torch_arrays_now
from ..weights import load_state, make_alive
from .base import Base, ReferenceBroken, does_not_take, some

if TYPE_CHECKING:
    import paddle
    import torch


class Structure(Base):
    """Which parameter is which, and the same weights on both sides."""

    def _structure(self) -> str | None:
        torch_file, paddle_file, own = self.pair.weights
        before = len(self.report.differences)
        require_layers(self.pair.layer_map, self.port, self.reference)
        if torch_file is not None:
            load_state(self.reference, torch_file)
        pairing = pair_weights(
            self.port, self.reference.state_dict(), self.pair.layer_map, self.pair.rules
        )
        self.pairing, self.table = pairing, pairing.table
        self.layer_map = dict(pairing.layers)
        if self.pair.details:
            self.report.data["weights"] = pairing.entries()
        for name, (source, rule) in self.table.items():
            if isinstance(source, str) and isinstance(rule, str):
                self.layer_map.setdefault(layer_of(name), layer_of(source))
        for name, why in pairing.ignored.items():
            self.report.not_compared.append(f"{name}: {why}")
        self.float64_now = False
        if torch_file is None and not own:
            self._make_weights()
        if paddle_file is None:
            put(self.port, self.reference, self.table)
        else:
            self._load_own(paddle_file)
        for name, mine, theirs in pairing.misfits:
            if mine is None or theirs is None:
                side, shape = ("reference", theirs) if mine is None else ("port", mine)
                self._differs("structure", name, f"only in the {side}, shape {list(shape)}")
            else:
                self._differs("structure", name, "shape", list(mine), list(theirs))
        for name, kind in pairing.unknown:
            text = f"named by Rule.{kind}, and the port has no such parameter"
            self._differs("structure", name, text)
        for name, *sides in pairing.tied:
            self._differs("structure", name, "parameter", *sides)
        renamed = pairing.renamed
        if renamed:
            shown_ = ", ".join(f"{a} is {b}" for a, b in list(renamed.items())[:3])
            more = ", …" if len(renamed) > 3 else ""
            self.report.notes.append(
                f"paired by order, kind and shape, as their names differ: {shown_}{more}"
            )
        self.parameters = sum(p.numel() for p in self.reference.parameters())
        if not self.table and len(self.report.differences) == before:
            self.report.not_compared.append("structure: neither side has a parameter")
            return None
        same = "1 entry paired" if len(self.table) == 1 else f"{len(self.table)} entries paired"
        if renamed:
            same += f", {len(renamed)} under other names"
        return f"{same}; the reference has {self.parameters:,} values in its parameters"

    def _make_weights(self) -> None:
        try:
            make_alive(
                self.reference,
                self.pair.seed,
                run=lambda model: self._call("reference", model),
            )
        except ReferenceBroken as error:
            raise CannotRun(does_not_take(error)) from error

    def _load_own(self, path: Any) -> None:
        """Loads the port's own weights, and compares them with the reference's."""
        state = load_pdparams(path)
        wanted = self.port.state_dict()
        expected = torch_arrays_now(self.reference, self.table)
        extra = [name for name in state if name not in wanted]
        if extra:
            self.report.not_compared.append(
                f"{shown(path)}: entries that the port does not have: {some(extra)}"
            )
        for name, target in wanted.items():
            if name not in state:
                if name in self.table:
                    self._differs("structure", name, f"the port's file {shown(path)} has none")
                continue
            array = np.asarray(state[name])
            if tuple(array.shape) != tuple(target.shape):
                sides = list(array.shape), list(target.shape)
                text = "shape {} in the port's file, {} in the port".format(*sides)
                self._differs("structure", name, text)
                continue
            target.set_value(array.astype(str(target.dtype).rpartition(".")[2]))
            if name in self.table:
                value = layers.relative(array.astype(np.float64), expected[name])
                if value > 1e-7:
                    self.report.differences.append(
                        Finding(
                            "structure", name, "value in the port's file", "", "", value, 1e-7,
                            hint="The port's file holds other numbers than the reference's: look "
                            "at the conversion of the weights",
                        )
                    )  # fmt: skip


def require_layers(
    layer_map: Mapping[str, str], port: paddle.nn.Layer, reference: torch.nn.Module
) -> None:
    """Raises CannotRun unless the layers that a map names are there."""
    known = {
        "port": {name for name, _ in port.named_sublayers()},
        "reference": {name for name, _ in reference.named_modules()},
    }
    for mine, theirs in layer_map.items():
        for name, side in ((mine, "port"), (theirs, "reference")):
            if name not in known[side]:
                near = difflib.get_close_matches(name, known[side], n=1)
                hint = f". Is {near[0]} meant?" if near else ""
                raise CannotRun(
                    f"the map names {name!r:.80}, and the {side} has no such layer{hint}"
                )
