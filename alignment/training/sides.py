"""Both trainers, each with its own loop, in one process: built from one start, and listened to."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import paddle
import torch

from ..paddle_internals import optimizer_accumulators
from ..precision import round_attributes
from ..state import OPTIMIZER_STATE, as_paddle
from .lockstep import Follower

if TYPE_CHECKING:
    from .pair import TrainingPair


__all__ = ["Ended", "Port", "Reference", "Start"]


class Ended(Exception):
    """Nothing more is to be compared: something differs, or the steps are done."""


class Watch:
    """Listens to what goes into a model, and turns it into the model's precision.

    Attributes:
        evaluated: [(images as an array, whether the model was in train mode)] of what it was asked
            outside of a training step.
        in_step: whether a step is being taken.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype, self.evaluated, self.in_step = dtype, [], False

    def __call__(self, model: Any, inputs: tuple) -> Any:
        if not self.in_step:
            self.evaluated.append((inputs[0].numpy(), model.training))
        if isinstance(inputs[0], torch.Tensor):
            return inputs[0].to(getattr(torch, self.dtype))
        return inputs[0].astype(self.dtype)


@dataclass
class Start:
    """What both sides build their models with.

    Attributes:
        weights: {name of the port: array}
        rules: {Paddle name: (PyTorch name, rule)}.
        dtype: "float32" or "float64".
        dropout: rate in place of the model's own.
    """

    weights: dict
    rules: dict
    dtype: str
    dropout: float | None = None

    @contextlib.contextmanager
    def in_port(self, models: dict[str, Any], name: str, watch: Watch) -> Iterator[None]:
        """Within, the port builds its model `name` so; `models` is its MODELS."""
        build = models[name]

        def built(**arguments: Any) -> paddle.nn.Layer:
            network = build(**arguments, **self._rate())
            weights = {n: array.astype(self.dtype) for n, array in self.weights.items()}
            network.set_state_dict(weights)
            # A function: the moving average copies the model, and would copy an object.
            network.register_forward_pre_hook(lambda model, inputs: watch(model, inputs))
            return network

        default = paddle.get_default_dtype()
        paddle.set_default_dtype(self.dtype)
        try:
            with mock.patch.dict(models, {name: built}):
                yield
        finally:
            paddle.set_default_dtype(default)

    @contextlib.contextmanager
    def in_reference(self, models: dict[str, Any], name: str, watch: Watch) -> Iterator[None]:
        """Within, the reference builds its model `name` so; `models` is its MODELS."""
        build = models[name]

        def built(**arguments: Any) -> torch.nn.Module:
            network = build(**arguments, **self._rate()).to(getattr(torch, self.dtype))
            if self.dtype == "float64":
                round_attributes(network)
            state = network.state_dict()
            for mine, (source, rule) in self.rules.items():
                array = np.array(as_paddle(self.weights[mine], rule))
                state[source].copy_(torch.from_numpy(array))
            network.register_forward_pre_hook(lambda model, inputs: watch(model, inputs))
            return network

        with mock.patch.dict(models, {name: built}):
            yield

    def _rate(self) -> dict[str, float]:
        return {} if self.dropout is None else {"dropout": self.dropout}


def kept(log: Any) -> Any:
    """The log of a rank that writes nothing, made to keep its records, and nothing else."""
    log.reports = []
    log.record = lambda kind, text, step, values: log.reports.append((kind, values))
    log.warn = lambda text: None
    return log


class Reference:
    """The reference's training, by its own loop, one step at a time.

    Args:
        pair: TrainingPair.
        args: of the port's command line.
        start: Start.
        rank, world_size: of this process.

    Attributes:
        images, labels: of the step that is next, as the loop got them from its loader.
        loss, output: of the step that was taken.
        reports: [(kind, values)] since they were last taken away.
    """

    def __init__(
        self,
        pair: TrainingPair,
        args: argparse.Namespace,
        start: Start,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.watch, self.reports = Watch(start.dtype), []
        loop = pair.reference_trainer
        with start.in_reference(pair.reference.MODELS, args.model, self.watch):
            arguments = _reference_arguments(args)
            self.trainer, *data = loop.set_up(arguments, rank, world_size)
        self._step = self.trainer.step
        self.trainer.step = self._one_step
        self._follower = Follower(lambda: loop.train(self.trainer, *data, self._report))
        self.leave = self._follower.leave

    def _report(self, kind: str, trainer: Any, values: Any) -> None:
        self.reports.append((kind, values))

    def _one_step(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.images, self.labels = images, labels
        self._follower.pause()
        self.watch.in_step = True
        if labels.ndim == 2:
            labels = labels.to(getattr(torch, self.watch.dtype))
        self.loss, self.output = self._step(images, labels)
        self.watch.in_step = False
        self._follower.pause()
        return self.loss, self.output

    def go_on(self) -> bool:
        """Runs up to the next step. Returns whether there is one."""
        return self._follower.resume()

    def step(self) -> None:
        self._follower.resume()


def _reference_arguments(args: argparse.Namespace) -> SimpleNamespace:
    """The same command line for the reference's trainer."""
    return SimpleNamespace(**{**vars(args), "device": torch.device("cpu"), "workers": 0})


class Port:
    """The port's training, by its own loop, set up anew after each stop.

    Args:
        pair: TrainingPair.
        args: of its command line.
        start: Start.
        one_step: called in place of `Trainer.step`, with its arguments; calls `step` of this.
        rank, world_size: of this process.

    Attributes:
        loss, output: of the step that was taken.
    """

    def __init__(
        self,
        pair: TrainingPair,
        args: argparse.Namespace,
        start: Start,
        one_step: Callable[[Any, Any], Any],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.pair, self.args, self.start, self.one_step = pair, args, start, one_step
        self.rank, self.world_size = rank, world_size
        self.watch = Watch(start.dtype)
        self.log, self.stop = kept(pair.port_trainer.Log(rank=1)), SimpleNamespace(signal=0)

    def run(self, prepare: Callable[[], object] = lambda: None) -> bool:
        """Trains until the end or until `self.stop.signal` is set. Returns whether it is the end.

        Args:
            prepare: called when the trainer is there, which may go on from a checkpoint.
        """
        self.stop.signal = 0
        port, loop = self.pair.port, self.pair.port_trainer
        with (
            self.start.in_port(port.MODELS, self.args.model, self.watch),
            mock.patch.object(port.BatchSampler, "__iter__", self._listening()),
        ):
            share = self.rank, self.world_size
            self.trainer, *data = loop.set_up(self.args, *share, self.log)
            self._step = self.trainer.step
            self.trainer.step = self.one_step
            prepare()
            try:
                loop.train(self.stop, self.log, self.trainer, *data)
            except loop.Stopped:
                self.args.resume = "auto"
                return False
        return True

    def _listening(self) -> Any:
        original = self.pair.port.BatchSampler.__iter__

        def iterate(batches: Any) -> Iterator[Any]:
            self.draws, self.first = [], batches.start
            for batch in original(batches):
                self.draws.append(list(batch))
                yield batch

        return iterate

    def batch_draws(self) -> list[Any]:
        """[Draw] of the batch of the step that is next."""
        return self.draws[self.trainer.iteration - self.first]

    def optimizer_states(self) -> dict[str, np.ndarray]:
        """{"square_avg features.0.0.weight": array, ...}: PyTorch's names of the states."""
        names = {p.name: name for name, p in self.trainer.model.named_parameters()}
        return {
            f"{OPTIMIZER_STATE.get(kind, kind)} {names[name]}": tensor.numpy()
            for kind, tensors in optimizer_accumulators(self.trainer.optimizer).items()
            for name, tensor in tensors.items()
        }

    def step(
        self, images: paddle.Tensor, labels: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        self.watch.in_step = True
        if labels.ndim == 2:
            labels = labels.astype(self.watch.dtype)
        self.loss, self.output = self._step(images, labels)
        self.watch.in_step = False
        return self.loss, self.output
