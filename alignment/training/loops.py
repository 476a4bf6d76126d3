"""Both trainers in float64, each step from one state: all that a step leaves behind is compared."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch

from ..dropout import share_dropout
from ..paddle_internals import (
    optimizer_groups,
    scale_in_float64,
    scaler_works_on_cpu,
    set_good_steps,
)
from ..state import (
    give_gradients_to_reference,
    paddle_arrays,
    paddle_gradients,
    put,
    torch_arrays,
    torch_gradients,
)
from ..thresholds import LEARNING_RATE, TRAIN_FLOAT64
from .comparison import Comparison, Difference
from .quantities import (
    compare,
    compare_dropout,
    compare_forward,
    compare_gradients,
    compare_rates,
    optimizer_settings,
    why_no_gradient,
)
from .replay import why_images_differ
from .sides import Ended, Port, Reference
from .steps import Side, Stepping

if TYPE_CHECKING:
    import paddle

    from .pair import TrainingPair
    from .sides import Start


__all__ = ["Loops", "compare_reports"]

# What both trainers report, and how closely it has to agree.
REPORTED = {"loss": TRAIN_FLOAT64, "lr": LEARNING_RATE, "top1": 1e-12, "top5": 1e-12, "images": 0.0}


def compare_reports(mine: Any, theirs: Any) -> Iterator[tuple[str, str, float, float]]:
    """(kind of quantity, text, difference, bound) of each value that both loops have said.

    Args:
        mine, theirs: [(kind of line, {name: number})] of the port and of the reference, of as many
            lines of the same kinds.
    """
    for (kind, values), (_, values_ref) in zip(mine, theirs):
        for name, b in values_ref.items():
            bound = REPORTED.get(name.removeprefix("ema_"))
            if bound is not None:
                what = "evaluation" if kind == "val" else "log"
                what = "learning rate" if name == "lr" else what
                a = values.get(name, np.nan)
                yield what, f"{kind} {name} {a!r} | {b!r}", abs(a - b) / max(abs(b), 1.0), bound


def gradient_scaler(trainer: Any, original: Callable[..., Any]) -> Any:
    """The port's gradient scaler, as --amp gives it, at work on the CPU too."""
    args, trainer.args = trainer.args, SimpleNamespace(amp="O1", amp_dtype="float16")
    try:
        with scaler_works_on_cpu():
            return original(trainer)
    finally:
        trainer.args = args


BEFORE_GROWTH = 2  # steps


class Loops:
    """Both trainings, in float64, each step of both from one state.

    Args:
        pair: TrainingPair.
        args: of the port's command line.
        start: Start, in float64.
        batch: list that holds the Draws of the reference's newest batch; see Draws.replayed.
        steps: how many to compare.
        overflow: number of the step in which a gradient is made infinite: both gradient scalers
            have to leave that step out. They are at work from that step on.
        stop: number of the step after which the port is stopped, saves, and goes on from its
            checkpoint in a new Trainer; and soon after that the loss scale grows.
    """

    def __init__(
        self,
        pair: TrainingPair,
        args: argparse.Namespace,
        start: Start,
        batch: list[Any],
        steps: int,
        overflow: Any,
        stop: Any,
    ) -> None:
        self.pair = pair
        self.args, self.rules, self.batch = args, start.rules, batch
        self.steps, self.overflow, self.stop = steps, overflow, stop
        self.reference = Reference(pair, args, start)
        self.reference.trainer.scaler = torch.amp.GradScaler("cpu")
        self.port = Port(pair, args, start, self._step)
        self.images = pair.port.ImageFolder(args.data_path / "train")
        self.comparison = Comparison()
        self.found = self.comparison.differences
        self.number, self.resumed = 0, False
        self.before: dict[str, Any] = {}  # of the last step
        self.masks = {}  # of dropout, in all steps
        self.checked = 0  # of `found`, how many agree
        self.lines = []  # on what differs, beside the comparison

    def run(self) -> None:
        """Trains both to the end, or to the first step that differs."""
        recorded = []

        def recorded_instead(top1: float, trainer: Any, *data: Any) -> Path:
            recorded.append(top1)
            return trainer.args.result_dir

        try:
            loop = self.pair.port_trainer
            original = loop.Trainer.gradient_scaler
            scaler = partialmethod(gradient_scaler, original=original)
            with (
                mock.patch.object(loop.Trainer, "gradient_scaler", scaler),
                mock.patch.object(loop, "record", recorded_instead),
            ):
                while not self.port.run(self._prepare):
                    self.resumed = True
            going = self.reference.go_on()
            self.where = "the end"
            self._compare_reports()
            trainer = self.reference.trainer
            name = f"ended | goes on with epoch {trainer.epoch}, iteration {trainer.iteration}"
            self._note("loop", name if going else "ended | ended", np.inf if going else 0.0)
            name = f"recorded top1 {recorded[0]!r} | {trainer.top1!r}"
            self._note("evaluation", name, abs(recorded[0] - trainer.top1), REPORTED["top1"])
        except Ended:
            if self.resumed:
                self.lines.append("Everything before agrees: what is missing from the checkpoint?")
        finally:
            self.reference.leave()

    def _prepare(self) -> None:
        mine, theirs = self.port.trainer, self.reference.trainer
        scale_in_float64(mine.scaler)
        port = Side(mine.model, optimizer=mine.optimizer)
        reference = Side(theirs.model, optimizer=theirs.optimizer)
        self.stepping = Stepping(port, reference, self.rules)
        if not self.resumed:
            self.comparison.settings += optimizer_settings(port, reference)
            self.comparison.settings += self._decays()
        self.dropouts = share_dropout(mine.model, theirs.model)

    def _decays(self) -> list[str]:
        """Lines on parameters whose groups have another weight decay."""
        mine, theirs = (
            {id(p): group["weight_decay"] for group in groups for p in group["params"]}
            for groups in (
                optimizer_groups(self.port.trainer.optimizer),
                self.reference.trainer.optimizer.param_groups,
            )
        )
        others = dict(self.reference.trainer.model.named_parameters())
        found = {}
        for name, parameter in self.port.trainer.model.named_parameters():
            other = others.get(self.rules[name][0])
            pair = mine.get(id(parameter)), theirs.get(id(other))
            # Some of Paddle's optimizers tell no decay of their groups.
            if None not in pair and pair[0] != pair[1]:
                found.setdefault(pair, []).append(name)
        return [
            f"weight decay of {names[0]} (and {len(names) - 1} more): {a} | {b}"
            for (a, b), names in found.items()
        ]

    def _note(self, kind: str, name: str, value: float, bound: float = 0.0) -> None:
        value = value if np.isfinite(value) else np.inf
        self.found.append(Difference(self.where, kind, name, float(value), bound))

    def _note_values(
        self, kind: str, mine: Any, theirs: Any, bound: float = 0.0, scale: float | None = None
    ) -> None:
        """Two numbers; relative to the reference's unless `scale` is given."""
        scale = max(abs(theirs), 1e-30) if scale is None else scale
        self._note(kind, f"{mine!r} | {theirs!r}", abs(mine - theirs) / scale, bound)

    def _require_agreement(self) -> None:
        """Raises Ended if something has been found to differ."""
        if not all(row.agrees for row in self.found[self.checked :]):
            raise Ended
        self.checked = len(self.found)

    def _step(
        self, images: paddle.Tensor, labels: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        port, reference = self.port, self.reference
        self.where = f"the time before step {self.number}"
        going = reference.go_on()
        mine, theirs = port.trainer, reference.trainer
        self._compare_reports()
        if self.number == self.steps:
            raise Ended
        places = [(t.epoch, t.iteration) for t in (mine, theirs)]
        name = "epoch {}, iteration {} | ".format(*places[0])
        name += "epoch {}, iteration {}".format(*places[1]) if going else "ended"
        self._note("loop", name, 0.0 if going and places[0] == places[1] else np.inf)
        self._require_agreement()
        self.where = f"step {self.number}, epoch {mine.epoch}, iteration {mine.iteration}"
        if self.resumed:
            self.where += ", the first after going on from a checkpoint"
        self._compare_batch(images, labels)
        self._require_agreement()
        if self.before:
            self._compare_states()
        rates = mine.optimizer.get_lr(), theirs.optimizer.param_groups[0]["lr"]
        self.found.append(compare_rates(self.where, *rates))
        self._compare_scales()
        self._require_agreement()
        if self.number == self.stop + 1:
            self._bring_growth_near()

        before_ema = self._averages()[1]
        self.found += self.stepping.step(
            self.where,
            lambda where: self._take_steps(where, images, labels),
            # Paddle's scaler calls the optimizer in a step that overflowed, and stops it within.
            rates=self.number != self.overflow,
        )
        if mine.model_ema:
            self._compare_averages(before_ema)
        self._compare_scales()
        self._require_agreement()

        self.stepping.restart()
        if mine.model_ema:
            put(mine.model_ema.module, theirs.model_ema.module, self.rules)
        self.before = self._state()
        self.resumed = False
        if self.number == self.stop:
            port.stop.signal = 15
        self.number += 1
        return port.loss, port.output

    def _take_steps(
        self, where: str, images: paddle.Tensor, labels: paddle.Tensor
    ) -> list[Difference]:
        """Both trainers take a step, as a whole. [Difference] of what led up to the updates."""
        mine, theirs = self.port.trainer, self.reference.trainer
        hooks, self.theirs = [], {}
        if self.number == self.overflow:
            hooks += self._make_infinite()
        scalers = mine.scaler, theirs.scaler
        if self.number < self.overflow:
            mine.scaler = theirs.scaler = None  # as without --amp
        with contextlib.redirect_stdout(None):  # Paddle says that there was an overflow
            self.port.step(images, labels)
        hooks.append(self._give_gradients())
        self.reference.step()
        mine.scaler, theirs.scaler = scalers
        for hook in hooks:
            hook.remove()
        sides = self.port, self.reference
        rows = compare_dropout(where, self.dropouts, self.masks)
        losses, logits = [float(x.loss) for x in sides], [x.output.numpy() for x in sides]
        rows += compare_forward(where, losses, logits)
        if self.number != self.overflow:
            rows += self._compare_gradients(where)
        return rows

    def _compare_reports(self) -> None:
        """What both loops have said, and evaluated, since the last step."""
        mine, theirs = self.port.log.reports, self.reference.reports
        kinds = [[kind for kind, _ in reports] for reports in (mine, theirs)]
        text = " | ".join(" and ".join(names) or "nothing" for names in kinds)
        self._note(
            "loop", f"said since the last step: {text}", 0.0 if kinds[0] == kinds[1] else np.inf
        )
        self._require_agreement()
        if "val" in kinds[0]:
            self._compare_evaluations()
        for row in compare_reports(mine, theirs):
            self._note(*row)
        mine.clear()
        theirs.clear()
        self._require_agreement()

    def _compare_evaluations(self) -> None:
        mine, theirs = (side.watch.evaluated for side in (self.port, self.reference))
        modes = ["train" if any(mode for _, mode in x) else "eval" for x in (mine, theirs)]
        text = "model in {} mode | in {} mode".format(*modes)
        self._note("evaluation", text, 0.0 if modes[0] == modes[1] else np.inf)
        counts = [sum(len(images) for images, _ in x) for x in (mine, theirs)]
        text = "{} images | {}".format(*counts)
        self._note("evaluation", text, 0.0 if counts[0] == counts[1] else np.inf)
        if counts[0] == counts[1]:
            a, b = (np.concatenate([images for images, _ in x]) for x in (mine, theirs))
            same = a.shape == b.shape
            difference = np.abs(a - b).max(initial=0.0) if same else np.inf
            text = "the images" if same else f"images of shape {a.shape[1:]} | {b.shape[1:]}"
            self._note("evaluation", text, difference)
        mine.clear()
        theirs.clear()

    def _compare_batch(self, images: paddle.Tensor, labels: paddle.Tensor) -> None:
        pairs = zip(self.port.batch_draws(), self.batch)
        for place, (mine, theirs) in enumerate(pairs):
            name = f"place {place} of the batch: {_described(mine)} | {_described(theirs)}"
            self._note("order", name, 0.0 if mine == theirs else np.inf)
        sizes = len(images), len(self.reference.images)
        self._note("order", "{} images | {}".format(*sizes), float(sizes[0] != sizes[1]))
        self._require_agreement()
        for what, mine, theirs in (
            ("images", images, self.reference.images),
            ("labels", labels, self.reference.labels),
        ):
            mine, theirs = mine.numpy(), theirs.numpy()
            same = mine.shape == theirs.shape and mine.dtype == theirs.dtype
            for place in range(len(theirs)):
                if same:
                    name = f"{what[:-1]} {place}, {self._file(place)}"
                    self._note(what, name, np.abs(mine[place] - theirs[place]).max(initial=0.0))
            if not same:
                text = f"{mine.dtype} {mine.shape} | {theirs.dtype} {theirs.shape}"
                self._note(what, text, np.inf)
        if not all(row.agrees for row in self.found[self.checked :] if row.kind == "images"):
            self.lines += why_images_differ(self.pair, self.args, self.port.trainer.epoch)

    def _file(self, place: Any) -> str:
        path, _ = self.images.samples[self.batch[place].index]
        return path.removeprefix(f"{self.images.root}/")

    def _state(self) -> dict[str, Any]:
        """{name: array or number} of all that the port goes on from, but the schedule."""
        trainer = self.port.trainer
        state = {f"model {n}": x for n, x in paddle_arrays(trainer.model).items()}
        if trainer.model_ema:
            ema = paddle_arrays(trainer.model_ema.module)
            state |= {f"average {name}": x for name, x in ema.items()}
            state["average's count of updates"] = np.array(trainer.model_ema.n_averaged)
        return state | self.port.optimizer_states()

    def _compare_states(self) -> None:
        """Whether what was there after the last step is there still."""
        now = self._state()
        for name, then in self.before.items():
            if name not in now and self.resumed:
                continue  # Paddle makes an optimizer's states in its first step
            same = name in now and np.array_equal(now[name], then)
            difference = np.abs(now[name] - then).max() if name in now else np.inf
            self._note("between steps", name, 0.0 if same else difference)

    def _compare_scales(self) -> None:
        states = [t.scaler.state_dict() for t in (self.port.trainer, self.reference.trainer)]
        self._note_values("loss scale", float(states[0]["scale"][0]), states[1]["scale"])
        counts = states[0]["incr_count"], states[1]["_growth_tracker"]
        self._note_values("loss scale", *counts, scale=1.0)

    def _bring_growth_near(self) -> None:
        """Sets both counters forward, so that the loss scale grows BEFORE_GROWTH steps from now.

        It does so after 2000 steps without overflow: more than are compared.
        """
        mine, theirs = self.port.trainer.scaler, self.reference.trainer.scaler
        count = theirs.get_growth_interval() - BEFORE_GROWTH
        set_good_steps(mine, count)
        theirs.load_state_dict({**theirs.state_dict(), "_growth_tracker": count})

    def _make_infinite(self) -> list[Any]:
        """Lets one gradient of both models overflow, as in float16."""
        mine, theirs = (
            dict(side.trainer.model.named_parameters()) for side in (self.port, self.reference)
        )
        pairs = ((x, theirs.get(self.rules[name][0])) for name, x in mine.items())
        pair = next((x, y) for x, y in pairs if y is not None)
        return [parameter.register_hook(lambda grad: grad * float("inf")) for parameter in pair]

    def _give_gradients(self) -> Any:
        """Lets the reference's optimizer, too, use the gradients that the port's has used.

        AdamW makes a step of a gradient's sign: where a gradient is zero in theory, and so noise,
        two right updates are opposite. Gradients are compared by themselves, the reference's as
        they were before.
        """
        port, reference = self.stepping.models

        def give(optimizer: Any, *_: Any) -> None:
            self.theirs = torch_gradients(reference, self.rules)
            give_gradients_to_reference(port, reference, self.rules)

        return self.reference.trainer.optimizer.register_step_pre_hook(give)

    def _compare_gradients(self, where: str) -> list[Difference]:
        """As the optimizers get them: unscaled, clipped."""
        models = self.stepping.models
        mine = paddle_gradients(models[0], self.rules)
        reasons = why_no_gradient(*models, self.rules)
        return compare_gradients(where, mine, self.theirs, reasons=reasons)

    def _averages(self) -> Any:
        trainers = self.port.trainer, self.reference.trainer
        if not trainers[0].model_ema:
            return None, None
        return (
            paddle_arrays(trainers[0].model_ema.module),
            torch_arrays(trainers[1].model_ema.module, self.rules),
        )

    def _compare_averages(self, before: Any) -> None:
        counts = (
            self.port.trainer.model_ema.n_averaged,
            int(self.reference.trainer.model_ema.n_averaged),
        )
        name = "{} updates | {}".format(*counts)
        self._note("moving average", name, float(counts[0] != counts[1]))
        mine, theirs = ({n: x[n] - before[n] for n in before} for x in self._averages())
        lost = {n: 4 * np.finfo(np.float64).eps * np.abs(x).max() for n, x in before.items()}
        self.found += compare(self.where, "moving average", mine, theirs, lost)


def _described(draw: Any) -> str:
    text = f"image {draw.index} in epoch {draw.epoch}"
    return f"{text}, repetition {draw.repetition}" if draw.repetition else text
