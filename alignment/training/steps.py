"""Training steps of two models side by side, in float64, both from one state.

What only training shows: gradients, updates, batch norm's running statistics, dropout, the
learning rate at the moment of its use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import torch
from reprod_log import ReprodLogger

from ..dropout import share_dropout
from ..locate import locate_backward
from ..settings import different_settings
from ..state import restart, torch_arrays
from ..torch_import import compiler_on_demand
from .comparison import Comparison
from .quantities import (
    compare_dropout,
    compare_forward,
    compare_gradients_now,
    compare_rates,
    compare_updates,
    optimizer_settings,
)

if TYPE_CHECKING:
    from ..findings import Compared
    from ..pairing import Table
    from .comparison import Difference


__all__ = [
    "Side",
    "Stepping",
    "compare_training",
    "locate_training",
    "rates_at_use",
    "record_losses",
]

compiler_on_demand()


@dataclass
class Side:
    """One framework's half of a training.

    `loop` is a generator that yields (loss, learning rate) when the gradients of an iteration are
    there, and None when they have been used.
    """

    model: Any
    criterion: Any = None
    optimizer: Any = None
    scheduler: Any = None
    loop: Any = None


class Stepping:
    """Two models that take their steps side by side, each step of both from one state.

    Who drives them says how a step is taken: a generator, a trainer's own loop, a plain function.
    All that a step leaves behind is compared here, in the order in which it comes into being.

    Args:
        port, reference: Side, in float64.
        rules: {Paddle name: (PyTorch name, rule)}, as in `Pairing.table`.
    """

    def __init__(self, port: Side, reference: Side, rules: Table) -> None:
        self.port, self.reference, self.rules = port, reference, rules

    @property
    def models(self) -> tuple[paddle.nn.Layer, torch.nn.Module]:
        return self.port.model, self.reference.model

    def step(
        self,
        where: str,
        gradients: Callable[[str], list[Difference]],
        update: Callable[[], object] | None = None,
        rates: bool = True,
    ) -> list[Difference]:
        """Has both sides take one step, and compares it.

        Args:
            where: of the step, in words: "iteration 0".
            gradients: called first, with `where`. Brings both sides to the gradients that their
                optimizers are given, and returns [Difference] of what it has compared.
            update: called then, without arguments: both optimizers take their step. None: they
                have taken it already, as in a trainer that does not stop on its way.
            rates: whether the learning rates are compared with which they take it.

        Returns:
            [Difference]: those of `gradients`, the learning rates in use, updates, running
            statistics, optimizer states.
        """
        before = torch_arrays(self.reference.model, self.rules)
        with rates_at_use(self.port.optimizer, self.reference.optimizer) as used:
            rows = list(gradients(where))
            if update is not None:
                used.clear()  # a step that came before its gradients was not this one
                update()
        if rates:
            sides = used.get("port"), used.get("reference")
            rows.append(compare_rates(where, *sides, at_use=True))
        return rows + compare_updates(where, self.port, self.reference, self.rules, before)

    def update(self) -> None:
        """Both optimizers take their step."""
        self.port.optimizer.step()
        self.reference.optimizer.step()

    def restart(self) -> None:
        """Both go on from one state, the reference's: rounding cannot build up."""
        restart(self.port, self.reference, self.rules)


def record_losses(side: Side, steps: int) -> ReprodLogger:
    """A ReprodLogger with `loss_i` and `lr_i` of `steps` iterations."""
    log = ReprodLogger()
    for i in range(steps):
        loss, lr = next(side.loop)
        log.add(f"loss_{i}", np.array(loss.numpy()))
        log.add(f"lr_{i}", np.array([lr]))
        next(side.loop)
    return log


def compare_training(port: Side, reference: Side, rules: Table, steps: int) -> Comparison:
    """Runs `steps` iterations of both sides in turn.

    Each iteration of the port starts from the reference's weights, statistics and optimizer
    state, so rounding cannot build up: what differs was made in that very iteration. Dropout masks
    are drawn by the port and used by both.

    Args:
        port, reference: Side, in float64.
        rules: {Paddle name: (PyTorch name, "copy" | "rename" | "transpose")}.
        steps: iterations.

    Returns:
        Comparison.
    """
    stepping = Stepping(port, reference, rules)
    training = Comparison(optimizer_settings(port, reference))
    scheduler = different_settings(port.scheduler, reference.scheduler)
    training.settings += [f"schedule: {setting}" for setting in scheduler]
    dropouts = share_dropout(*stepping.models)
    outputs = _listen_to_outputs(*stepping.models)

    def gradients(where: str) -> list[Difference]:
        (loss, lr), (loss_ref, lr_ref) = next(port.loop), next(reference.loop)
        logits = outputs.get("port"), outputs.get("reference")
        return [
            *compare_dropout(where, dropouts),
            compare_rates(where, lr, lr_ref),
            *compare_forward(where, (float(loss), float(loss_ref)), logits),
            *compare_gradients_now(where, *stepping.models, rules),
        ]

    def update() -> None:
        next(port.loop)
        next(reference.loop)

    for i in range(steps):
        training.differences += stepping.step(f"iteration {i}", gradients, update)
        stepping.restart()
    return training


def _listen_to_outputs(
    port_model: paddle.nn.Layer, reference_model: torch.nn.Module
) -> dict[str, Any]:
    """A dictionary that holds what each model has given last, if that is a tensor."""
    outputs = {}

    def keep(side: str) -> Callable[..., None]:
        def hook(model: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, (paddle.Tensor, torch.Tensor)):
                outputs[side] = output.detach().cpu().numpy()

        return hook

    port_model.register_forward_post_hook(keep("port"))
    reference_model.register_forward_hook(keep("reference"))
    return outputs


@contextlib.contextmanager
def rates_at_use(
    port_optimizer: paddle.optimizer.Optimizer, reference_optimizer: torch.optim.Optimizer
) -> Iterator[dict[str, float]]:
    """Within, the learning rate with which each optimizer takes a step is noted.

    A rate that was read before or after may be another: a loop may set it in between.

    Yields:
        {"port": float, "reference": float}, filled as steps are taken.
    """
    used = {}
    take_step = port_optimizer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        used["port"] = float(port_optimizer.get_lr())
        return take_step(*args, **kwargs)

    def note(optimizer: Any, *_: Any) -> None:
        used["reference"] = float(optimizer.param_groups[0]["lr"])

    hook = reference_optimizer.register_step_pre_hook(note)
    port_optimizer.step = step
    try:
        yield used
    finally:
        del port_optimizer.step
        hook.remove()


def locate_training(
    port: Side, reference: Side, path: Path, layer_map: Mapping[str, str] | None = None
) -> Compared:
    """In which layer two trainings differ, in the first forward and backward pass: Compared.

    Args:
        port, reference: fresh Sides, as for `compare_training`.
    """
    reference.model.zero_grad()
    port.model.clear_gradients()
    return locate_backward(
        port.model,
        reference.model,
        lambda model: next(port.loop),
        lambda model: next(reference.loop),
        path,
        layer_map,
    )
