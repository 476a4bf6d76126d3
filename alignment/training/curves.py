"""Both trainers in float32, each on its own: their curves, and how far these may diverge."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..dropout import share_dropout
from ..files import whole_file
from ..thresholds import LEARNING_RATE
from .comparison import Difference
from .sides import Ended, Port, Reference

if TYPE_CHECKING:
    from .pair import TrainingPair
    from .sides import Start


__all__ = [
    "UNITS",
    "Divergence",
    "compare_curves",
    "curves_entry",
    "divergence",
    "free_runs",
    "plot",
]

COPIES = 3  # of the reference, from starts that are moved
# by so many units of float32's last place. Paddle rounds in each operation of each step, up to ten
# times as coarsely as PyTorch (thresholds.IMPRECISE).
UNITS = 32
FURTHER = 3.0  # times that the port may be further away than the furthest copy
# Steps by which the port may be ahead of the copies: rounding grows by jumps, where an activation
# crosses a kink, and a copy may meet with its first one later.
AHEAD = 3
VALUES = ("loss", "lr")


def moved(start: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """{name: array} with each value moved up or down by UNITS of float32's last place."""
    rng = np.random.default_rng(seed)
    share = UNITS * np.finfo(np.float32).eps
    return {n: x * (1 + share * rng.choice((-1, 1), x.shape)) for n, x in start.items()}


def free_runs(
    pair: TrainingPair, args: argparse.Namespace, start: Start, steps: int
) -> dict[str, dict[str, np.ndarray]]:
    """Curves of the port, of the reference, and of COPIES of the reference; all draw the same.

    Args:
        pair: TrainingPair.
        args: of the port's command line.
        start: Start, in float32.
        steps: how many.

    Returns:
        {"port" | "reference" | "copy 1" ...: {"loss", "lr": (steps,) float64}}
    """
    references = [Reference(pair, args, start)]
    for seed in range(COPIES):
        weights = moved(start.weights, seed)
        references.append(Reference(pair, args, replace(start, weights=weights)))

    def one_step(images: Any, labels: Any) -> Any:
        going = [reference.go_on() for reference in references]
        if not all(going) or port.trainer.steps == steps:
            raise Ended
        result = port.step(images, labels)
        for reference in references:
            reference.step()
        return result

    def share_masks() -> None:
        for reference in references:
            share_dropout(port.trainer.model, reference.trainer.model)

    port = Port(pair, args, start, one_step)
    try:
        with without_evaluation(pair.port_trainer), without_evaluation(pair.reference_trainer):
            port.run(share_masks)
            for reference in references:
                reference.go_on()
    except Ended:
        pass
    finally:
        for reference in references:
            reference.leave()
    names = ["port", "reference", *(f"copy {n + 1}" for n in range(COPIES))]
    logs = [port.log.reports, *(reference.reports for reference in references)]
    lines = [[values for kind, values in log if kind == "train"] for log in logs]
    shortest = min(map(len, lines))
    return {
        name: {value: np.array([line[value] for line in found[:shortest]]) for value in VALUES}
        for name, found in zip(names, lines)
    }


def without_evaluation(trainer: ModuleType) -> Any:
    """Within, a trainer's loop evaluates nothing: that has been compared, step by step."""
    return mock.patch.object(trainer, "evaluate", lambda *arguments: 0.0)


class Divergence(NamedTuple):
    """Of the losses from the reference's, the largest up to each step; (steps,) float64 each."""

    port: np.ndarray
    copies: np.ndarray  # the furthest of them
    bound: np.ndarray  # for the port


def divergence(curves: Mapping[str, Mapping[str, np.ndarray]]) -> Divergence:
    """The Divergence of `free_runs`.

    Training is chaotic: rounding grows from step to step. How fast, the reference alone shows, in
    copies that begin UNITS of the last place away. The port may be as far off as FURTHER times
    the furthest of them is within the next AHEAD steps.
    """
    loss = curves["reference"]["loss"]
    copies = [curve["loss"] for name, curve in curves.items() if name.startswith("copy")]
    mine = np.maximum.accumulate(np.abs(curves["port"]["loss"] - loss))
    theirs = np.maximum.accumulate(np.max([np.abs(copy - loss) for copy in copies], axis=0))
    later = np.append(theirs[AHEAD:], np.full(min(AHEAD, len(theirs)), theirs[-1]))
    least = 8 * np.finfo(np.float32).eps * np.abs(loss)
    return Divergence(mine, theirs, np.maximum(FURTHER * later, least))


def compare_curves(curves: Mapping[str, Mapping[str, np.ndarray]]) -> list[Difference]:
    """[Difference] of each step of `free_runs`, the loss over its bound."""
    losses = divergence(curves)
    found = []
    for step, (value, bound) in enumerate(zip(losses.port, losses.bound)):
        where = f"float32, step {step}"
        port, reference = (curves[side] for side in ("port", "reference"))
        name = f"{port['loss'][step]!r} | {reference['loss'][step]!r}"
        found.append(Difference(where, "free run", name, float(value), float(bound)))
        rates = port["lr"][step], reference["lr"][step]
        name = f"{rates[0]!r} | {rates[1]!r}"
        value = float(abs(rates[0] - rates[1]))
        found.append(Difference(where, "learning rate", name, value, LEARNING_RATE))
    return found


def curves_entry(curves: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """The losses of `free_runs` for a report: of both sides, the copies, and the bound.

    The bound is that of the port's distance from the reference.
    """
    return {
        "port": curves["port"]["loss"].tolist(),
        "reference": curves["reference"]["loss"].tolist(),
        "copies": [curve["loss"].tolist() for n, curve in curves.items() if n.startswith("copy")],
        "bound": divergence(curves).bound.tolist(),
    }


def plot(curves: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """Both sides' losses, and how far they diverge, as a PNG file."""
    figure = Figure(figsize=(8, 3.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    steps = np.arange(len(curves["port"]["loss"]))
    losses = [curve["loss"] for name, curve in curves.items() if name != "port"]
    band = np.min(losses, axis=0), np.max(losses, axis=0)
    left.fill_between(steps, *band, color="0.8", label="PyTorch, starts moved")
    left.plot(steps, curves["reference"]["loss"], color="tab:orange", label="PyTorch")
    left.plot(steps, curves["port"]["loss"], color="tab:blue", ls="--", label="Paddle")
    left.set(xlabel="step", ylabel="loss", title="free run in float32")
    left.legend(fontsize=8)

    mine, theirs, bounds = divergence(curves)
    right.semilogy(steps, bounds, color="0.6", ls=":", label="bound")
    right.semilogy(
        steps,
        np.maximum(theirs, 1e-9),
        color="tab:orange",
        label=f"PyTorch, moved by {UNITS} units",
    )
    right.semilogy(steps, np.maximum(mine, 1e-9), color="tab:blue", ls="--", label="Paddle")
    right.set(xlabel="step", ylabel="loss, difference from PyTorch's", title="how far they differ")
    right.legend(fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
