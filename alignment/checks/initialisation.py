"""Are both initialised from the same distributions?"""

from __future__ import annotations

from ..stages.initialisation import FEW_SEEDS, SEEDS, compare_tensors, quantity_and_sides
from .base import Base, counted

ENOUGH_VALUES = 10_000_000  # of initialised parameters, over all seeds


class Initialisation(Base):
    """Are both initialised from the same distributions?"""

    def _initialisation(self) -> str | None:
        for side in (self.pair.port, self.pair.reference):
            if side.is_model:
                self.report.not_compared.append(
                    f"initialisation: the {side.name} was given as a model. Give its class, or a "
                    "function that makes it"
                )
                return None
        # Of a large model, one seed has as many values as eight of a small one.
        seeds = min(SEEDS, max(FEW_SEEDS, ENOUGH_VALUES // max(1, self.parameters)))
        rows, count, level = compare_tensors(
            self.pair.port.make, self._make_reference, lambda model: self.table, seeds
        )
        told = set()
        for name, test, values, p, agrees in rows:
            if not agrees and name not in told:
                told.add(name)
                self._differs(
                    "initialisation", name, *quantity_and_sides(test, values),
                    detail=[f"p {p:.0e}, bound {level:.0e}"],
                    hint="Look at how it is initialised: the distribution, fan-in or fan-out, a "
                    "default of Paddle's layer that was kept",
                )  # fmt: skip
        if not rows:
            self.report.not_compared.append("initialisation: no parameter has a counterpart")
            return None
        constants = len({row[0] for row in rows}) - count
        return f"{seeds} seeds: {counted(constants, 'constant')}, {counted(count, 'distribution')}"
