"""Both trainers, each with its own loop, in one process: built from one start, and listened to."""

import contextlib
from types import SimpleNamespace
from unittest import mock

import numpy as np
import paddle
import torch

import paddle_mv3
import torch_ref
import torch_ref.train
from alignment.lockstep import Follower
from alignment.precision import round_attributes
from alignment.training import Side, as_paddle
from Checkpoint6 import train
from Checkpoint6.logs import Log
from Checkpoint6.trainer import Stopped

__all__ = ["Port", "Reference", "Watch", "both_built"]


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


@contextlib.contextmanager
def both_built(model, start, rules, dtype, watches, dropout=None):
    """Within, both sides build their models with the weights `start`, in `dtype`.

    Args:
        start: {name of the port: array}, or a list of such for each model that the reference
            builds.
        rules: {Paddle name: (PyTorch name, rule)}.
        watches: called with the side, "port" or "reference", gives the Watch of a new model.
        dropout: rate in place of the model's own.
    """
    build, build_ref = paddle_mv3.MODELS[model], torch_ref.MODELS[model]
    starts = iter(start[1:]) if isinstance(start, list) else None
    first = start[0] if starts else start
    rate = {} if dropout is None else {"dropout": dropout}

    def port(**arguments):
        network = build(**arguments, **rate)
        network.set_state_dict({name: array.astype(dtype) for name, array in first.items()})
        listen(network, watches("port"), "register_forward_pre_hook")
        return network

    def reference(**arguments):
        network = build_ref(**arguments, **rate).to(getattr(torch, dtype))
        if dtype == "float64":
            round_attributes(network)
        arrays = first if starts is None else next(starts)
        state = network.state_dict()
        for name, (source, rule) in rules.items():
            state[source].copy_(torch.from_numpy(np.array(as_paddle(arrays[name], rule))))
        listen(network, watches("reference"), "register_forward_pre_hook")
        return network

    default = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    try:
        with (
            mock.patch.dict(paddle_mv3.MODELS, {model: port}),
            mock.patch.dict(torch_ref.MODELS, {model: reference}),
        ):
            yield
    finally:
        paddle.set_default_dtype(default)


def listen(network, watch, register):
    # A function: the moving average copies the model, and would copy an object that listens.
    getattr(network, register)(lambda model, inputs: watch(model, inputs))


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

    def __init__(self, args, watch, rank=0, world_size=1):
        self.trainer, *data = torch_ref.train.set_up(_reference_arguments(args), rank, world_size)
        self.watch, self.reports = watch, []
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
        """Runs to the next step, with all that the loop does before. Returns whether there is one."""
        return self._follower.resume()

    def step(self):
        self._follower.resume()

    @property
    def side(self):
        t = self.trainer
        return Side(t.model, t.criterion, t.optimizer, t.schedule, None)


def _reference_arguments(args):
    """The same command line for torch_ref/train.py."""
    return SimpleNamespace(**{**vars(args), "device": torch.device("cpu"), "workers": 0})


class Port:
    """The port's training, by Checkpoint6/train.py's own loop, set up anew after each stop.

    Args:
        one_step: called in place of `Trainer.step`, with its arguments; calls `step` of this.
        rank, world_size: of this process.
    """

    def __init__(self, args, watch, one_step, rank=0, world_size=1):
        self.args, self.watch, self.one_step = args, watch, one_step
        self.rank, self.world_size = rank, world_size
        self.log, self.stop = Kept(), SimpleNamespace(signal=0)
        self.draws = []  # the batches of Draws since the loader was asked for an epoch

    def run(self, prepare=lambda: None):
        """Trains until the end or until `self.stop.signal` is set. Returns whether it is the end.

        Args:
            prepare: called when the trainer is there, which may go on from a checkpoint.
        """
        self.stop.signal = 0
        self.trainer, *data = train.set_up(self.args, self.rank, self.world_size, self.log)
        self._step = self.trainer.step
        self.trainer.step = lambda images, labels: self.one_step(images, labels)
        prepare()
        original, draws = paddle_mv3.BatchSampler.__iter__, self.draws

        def listening(batches):
            draws.clear()
            self.begin = batches.start
            for batch in original(batches):
                draws.append(list(batch))
                yield batch

        with mock.patch.object(paddle_mv3.BatchSampler, "__iter__", listening):
            try:
                train.train(self.stop, self.log, self.trainer, *data)
            except Stopped:
                self.args.resume = "auto"
                return False
        return True

    def batch_draws(self):
        """Of the batch of the step that is next."""
        return self.draws[self.trainer.iteration - self.begin]

    def step(self, images, labels):
        self.watch.in_step = True
        if labels.ndim == 2:
            labels = labels.astype(self.watch.dtype)
        result = self._step(images, labels)
        self.watch.in_step = False
        return result

    @property
    def side(self):
        t = self.trainer
        return Side(t.model, t.criterion, t.optimizer, t.schedule, None)
