"""Both trainers, each with its own loop, in one process: built from one start, and listened to."""

import contextlib
from dataclasses import dataclass
from types import SimpleNamespace
from unittest import mock

import numpy as np
import paddle
import torch

import paddle_mv3
import torch_ref
import torch_ref.train
from alignment.paddle_internals import optimizer_accumulators
from alignment.precision import round_attributes
from alignment.training.lockstep import Follower
from alignment.training.steps import OPTIMIZER_STATE, as_paddle
from Checkpoint6 import train
from Checkpoint6.logs import Log
from Checkpoint6.trainer import Stopped

__all__ = ["Parted", "Port", "Reference", "Start"]


class Parted(Exception):
    """Nothing more is to be compared: something differs, or the steps are done."""


class Watch:
    """Listens to what goes into a model, and turns it into the model's precision.

    Attributes:
        evaluated: [(images as an array, whether the model was in train mode)] of what it was asked
            outside of a training step.
        in_step: whether a step is being taken.
    """

    def __init__(self, dtype):
        self.dtype, self.evaluated, self.in_step = dtype, [], False

    def __call__(self, model, inputs):
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
    def in_port(self, name, watch):
        """Within, the port builds its model `name` so."""
        build = paddle_mv3.MODELS[name]

        def built(**arguments):
            network = build(**arguments, **self._rate())
            weights = {n: array.astype(self.dtype) for n, array in self.weights.items()}
            network.set_state_dict(weights)
            # A function: the moving average copies the model, and would copy an object.
            network.register_forward_pre_hook(lambda model, inputs: watch(model, inputs))
            return network

        default = paddle.get_default_dtype()
        paddle.set_default_dtype(self.dtype)
        try:
            with mock.patch.dict(paddle_mv3.MODELS, {name: built}):
                yield
        finally:
            paddle.set_default_dtype(default)

    @contextlib.contextmanager
    def in_reference(self, name, watch):
        build = torch_ref.MODELS[name]

        def built(**arguments):
            network = build(**arguments, **self._rate()).to(getattr(torch, self.dtype))
            if self.dtype == "float64":
                round_attributes(network)
            state = network.state_dict()
            for mine, (source, rule) in self.rules.items():
                array = np.array(as_paddle(self.weights[mine], rule))
                state[source].copy_(torch.from_numpy(array))
            network.register_forward_pre_hook(lambda model, inputs: watch(model, inputs))
            return network

        with mock.patch.dict(torch_ref.MODELS, {name: built}):
            yield

    def _rate(self):
        return {} if self.dropout is None else {"dropout": self.dropout}


class Kept(Log):
    """A log whose records are kept, and nothing else."""

    def __init__(self):
        super().__init__(rank=1)
        self.reports = []

    def record(self, kind, text, step, values):
        self.reports.append((kind, values))

    def warn(self, text):
        pass


class Reference:
    """The reference's training, by torch_ref/train.py's own loop, one step at a time.

    Attributes:
        images, labels: of the step that is next, as the loop got them from its loader.
        loss, output: of the step that was taken.
        reports: [(kind, values)] since they were last taken away.
    """

    def __init__(self, args, start, rank=0, world_size=1):
        self.watch, self.reports = Watch(start.dtype), []
        with start.in_reference(args.model, self.watch):
            arguments = _reference_arguments(args)
            self.trainer, *data = torch_ref.train.set_up(arguments, rank, world_size)
        self._step = self.trainer.step
        self.trainer.step = self._one_step
        self._follower = Follower(lambda: torch_ref.train.train(self.trainer, *data, self._report))
        self.leave = self._follower.leave

    def _report(self, kind, trainer, values):
        self.reports.append((kind, values))

    def _one_step(self, images, labels):
        self.images, self.labels = images, labels
        self._follower.pause()
        self.watch.in_step = True
        if labels.ndim == 2:
            labels = labels.to(getattr(torch, self.watch.dtype))
        self.loss, self.output = self._step(images, labels)
        self.watch.in_step = False
        self._follower.pause()
        return self.loss, self.output

    def go_on(self):
        """Runs up to the next step. Returns whether there is one."""
        return self._follower.resume()

    def step(self):
        self._follower.resume()


def _reference_arguments(args):
    """The same command line for torch_ref/train.py."""
    return SimpleNamespace(**{**vars(args), "device": torch.device("cpu"), "workers": 0})


class Port:
    """The port's training, by Checkpoint6/train.py's own loop, set up anew after each stop.

    Args:
        one_step: called in place of `Trainer.step`, with its arguments; calls `step` of this.
        rank, world_size: of this process.
    """

    def __init__(self, args, start, one_step, rank=0, world_size=1):
        self.args, self.start, self.one_step = args, start, one_step
        self.rank, self.world_size = rank, world_size
        self.watch = Watch(start.dtype)
        self.log, self.stop = Kept(), SimpleNamespace(signal=0)

    def run(self, prepare=lambda: None):
        """Trains until the end or until `self.stop.signal` is set. Returns whether it is the end.

        Args:
            prepare: called when the trainer is there, which may go on from a checkpoint.
        """
        self.stop.signal = 0
        with (
            self.start.in_port(self.args.model, self.watch),
            mock.patch.object(paddle_mv3.BatchSampler, "__iter__", self._listening()),
        ):
            share = self.rank, self.world_size
            self.trainer, *data = train.set_up(self.args, *share, self.log)
            self._step = self.trainer.step
            self.trainer.step = self.one_step
            prepare()
            try:
                train.train(self.stop, self.log, self.trainer, *data)
            except Stopped:
                self.args.resume = "auto"
                return False
        return True

    def _listening(self):
        original = paddle_mv3.BatchSampler.__iter__

        def iterate(batches):
            self.draws, self.first = [], batches.start
            for batch in original(batches):
                self.draws.append(list(batch))
                yield batch

        return iterate

    def batch_draws(self):
        """[Draw] of the batch of the step that is next."""
        return self.draws[self.trainer.iteration - self.first]

    def optimizer_states(self):
        """{"square_avg features.0.0.weight": array, ...}: PyTorch's names of the states."""
        names = {p.name: name for name, p in self.trainer.model.named_parameters()}
        return {
            f"{OPTIMIZER_STATE.get(kind, kind)} {names[name]}": tensor.numpy()
            for kind, tensors in optimizer_accumulators(self.trainer.optimizer).items()
            for name, tensor in tensors.items()
        }

    def step(self, images, labels):
        self.watch.in_step = True
        if labels.ndim == 2:
            labels = labels.astype(self.watch.dtype)
        result = self._step(images, labels)
        self.watch.in_step = False
        return result
