"""Steps of an optimizer, each of both sides from one state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import paddle
import torch

from ..state import give_gradients_to_port, put
from ..training.comparison import shares_of_bounds
from ..training.steps import Side, Stepping
from .backward import Backward
from .base import NoGradient, counted

if TYPE_CHECKING:
    from ..training.comparison import Difference


LEARNING_RATE = 1e-3
OPTIMIZERS = {
    "sgd": (
        lambda p: paddle.optimizer.SGD(LEARNING_RATE, parameters=p),
        lambda p: torch.optim.SGD(p, LEARNING_RATE),
    ),
    "momentum": (
        lambda p: paddle.optimizer.Momentum(LEARNING_RATE, 0.9, parameters=p),
        lambda p: torch.optim.SGD(p, LEARNING_RATE, momentum=0.9),
    ),
    "adam": (
        lambda p: paddle.optimizer.Adam(LEARNING_RATE, parameters=p),
        lambda p: torch.optim.Adam(p, LEARNING_RATE),
    ),
    "adamw": (
        lambda p: paddle.optimizer.AdamW(LEARNING_RATE, parameters=p, weight_decay=0.01),
        lambda p: torch.optim.AdamW(p, LEARNING_RATE, weight_decay=0.01),
    ),
}


class Training(Backward):
    """Steps of an optimizer, each of both sides from one state."""

    def _training(self) -> str | None:
        if not self._has_float64():
            return None
        before = len(self.report.differences)
        if any(f.check == "backward" for f in self.report.differences):
            self.report.not_compared.append("training: gradients differ, so updates would too")
            return None
        if not hasattr(self, "train_mode"):
            self.train_mode = True
        if not any(p.requires_grad for p in self.reference.parameters()):
            self.report.not_compared.append("training: the reference has no parameter to train")
            return None
        make, make_reference = OPTIMIZERS[self.optimizer]
        trained = [p for p in self.port.parameters() if not p.stop_gradient]
        trained_ref = [p for p in self.reference.parameters() if p.requires_grad]
        stepping = Stepping(
            Side(self.port, optimizer=make(trained)),
            Side(self.reference, optimizer=make_reference(trained_ref)),
            self.table,
        )

        def gradients(where: str) -> list[Difference]:
            result = self._gradients()
            for row in [*result["loss"], *result["gradients"]]:
                row.where = where
            return [*result["dropout"], *result["loss"], *result["gradients"]]

        def update() -> None:
            give_gradients_to_port(self.port, self.reference, self.table)
            stepping.update()

        worst, compared = {}, []
        put(self.port, self.reference, self.table)
        for step in range(self.count):
            try:
                rows = stepping.step(f"step {step}", gradients, update, rates=False)
            except NoGradient as error:
                self.report.not_compared.append(f"training: {error}")
                return None
            compared += [row for row in rows if row.cause not in self.pair.accept]
            for row in rows:
                if np.isfinite(row.value) and row.cause not in self.pair.accept:
                    worst[row.kind] = max(worst.get(row.kind, 0.0), row.value)
            self._add_rows("training", rows)
            if len(self.report.differences) > before:
                break
            stepping.restart()
        if self.pair.details:
            self.report.data["quantities"] = shares_of_bounds(compared)
        found = self.report.differences[before:]
        if found:
            found[0].detail += self._settings_lines()
        shown_ = ", ".join(f"{kind} {value:.0e}" for kind, value in worst.items())
        return (
            f"{counted(self.count, 'step')} of {self.optimizer}, each from the same state; largest "
            f"difference: {shown_}"
        )
