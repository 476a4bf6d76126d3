"""What is trained, by what, and how far it has come."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import paddle

import paddle_mv3
from alignment.trainers import other_epochs
from Checkpoint6 import checkpoint, distributed
from Checkpoint6.arguments import recipe_of

__all__ = ["Diverged", "Stopped", "Trainer", "Window", "cpu_threads"]


def cpu_threads() -> int:
    """Threads of an operation on the CPU: in which order it adds up, and so its last bits."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


class Stopped(Exception):
    """By a signal, its only argument; all that is worth it has been saved."""


class Diverged(Exception):
    """The loss, or a weight, is infinite or no number."""


class Trainer:
    """A model, what trains it, and how far it has come.

    Args:
        args: of the command line.
        num_classes: of the data.
        rank, world_size: of this process.
        steps_per_epoch: batches of a rank in an epoch.
        initialise: called with the new network, to put other weights into it.

    Attributes:
        model: the network itself; `network` is the same, in DataParallel on several ranks.
        model_ema: ExponentialMovingAverage or None.
        epoch, iteration: of the next step, from 0.
        sums: (4,) float64, of the epoch so far over all ranks: images, hits in the first 1 and 5,
            loss.
        best: {"epoch": int, "top1": float} of the best evaluation, or {}.
        left_out: steps of this process for which there was no image that can be read.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        num_classes: int,
        steps_per_epoch: int,
        rank: int = 0,
        world_size: int = 1,
        initialise: Callable[[paddle.nn.Layer], None] | None = None,
    ) -> None:
        self.args = args
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = steps_per_epoch
        self.topk = (1, min(5, num_classes))
        paddle.seed(args.seed)
        self.model = paddle_mv3.MODELS[args.model](num_classes=num_classes)
        if initialise is not None:
            initialise(self.model)
        if args.sync_bn:
            self.model = paddle_mv3.synchronize_batch_norm(self.model)
        self.criterion = paddle_mv3.CrossEntropyLoss(label_smoothing=args.label_smoothing)
        self.schedule = self.new_schedule(args.epochs)
        groups = paddle_mv3.weight_decay_groups(
            self.model, args.weight_decay, args.norm_weight_decay, args.bias_weight_decay
        )
        self.optimizer = paddle_mv3.create_optimizer(
            args.opt, groups, self.schedule, args.momentum, args.weight_decay
        )
        self.scaler = self.gradient_scaler()
        if args.amp == "O2":
            self.model, self.optimizer = paddle.amp.decorate(
                self.model, self.optimizer, level="O2", dtype=args.amp_dtype, master_weight=True
            )
        self.model_ema = None
        if args.model_ema:
            decay = self.ema_decay(args.epochs)
            self.model_ema = paddle_mv3.ExponentialMovingAverage(self.model, decay)
        self.network = self.model
        self.epoch, self.iteration = args.start_epoch, 0
        self.sums = np.zeros(4)
        self.best: dict[str, Any] = {}
        self.left_out = 0

    def new_schedule(self, epochs: int) -> paddle_mv3.WarmupSchedule:
        """Of the learning rate, for a training of `epochs`. Raises: ValueError."""
        args = self.args
        return paddle_mv3.WarmupSchedule(
            args.lr,
            args.lr_scheduler,
            epochs,
            args.lr_warmup_epochs,
            args.lr_warmup_method,
            args.lr_warmup_decay,
            args.lr_step_size,
            args.lr_gamma,
            args.lr_min,
        )

    def ema_decay(self, epochs: int) -> float:
        """Of an update of the moving average, in a training of `epochs`."""
        args = self.args
        return paddle_mv3.adjusted_decay(
            args.model_ema_decay, args.batch_size, self.world_size, args.model_ema_steps, epochs
        )

    def gradient_scaler(self) -> paddle.amp.GradScaler | None:
        """With PyTorch's defaults; None where gradients need none."""
        if not self.args.amp or self.args.amp_dtype != "float16":
            return None
        return paddle.amp.GradScaler(
            init_loss_scaling=2.0**16, incr_every_n_steps=2000, decr_every_n_nan_or_inf=1
        )

    def parallel(self) -> None:
        """Puts the network into DataParallel, if there are several ranks; after loading weights."""
        if self.world_size > 1:
            self.network = paddle.DataParallel(self.model)

    def next_epoch(self) -> None:
        self.epoch, self.iteration, self.sums = self.epoch + 1, 0, np.zeros(4)

    @property
    def steps(self) -> int:
        """Updates that the weights have had."""
        return self.epoch * self.steps_per_epoch + self.iteration

    def autocast(self) -> AbstractContextManager:
        if not self.args.amp:
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.args.amp, dtype=self.args.amp_dtype)

    def loss(self, output: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        return self.criterion(output.astype("float32") if self.args.amp else output, labels)

    def step(
        self, images: paddle.Tensor, labels: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """One update of the weights. Returns the loss, (), and the logits; waits for neither."""
        args = self.args
        paddle.seed(paddle_mv3.step_seed(args.seed, self.epoch, self.iteration, self.rank))
        with self.autocast():
            output = self.network(images)
        loss = self.loss(output, labels)
        self.optimizer.clear_grad()
        if self.scaler:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
        else:
            loss.backward()
        if args.clip_grad_norm is not None:
            paddle_mv3.clip_grad_norm_(self.model.parameters(), args.clip_grad_norm)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if self.model_ema and self.iteration % args.model_ema_steps == 0:
            self.model_ema.update(self.model)
            if self.epoch < args.lr_warmup_epochs:
                self.model_ema.n_averaged = 0  # during warm-up the average is the model itself
        self.iteration += 1
        return loss.detach(), output.detach()

    def state_dict(self) -> dict[str, Any]:
        """All that goes on from here needs; plain values and arrays."""
        ema = self.model_ema and self.model_ema.state_dict()
        return {
            "model": checkpoint.to_arrays(self.model.state_dict()),
            "model_ema": ema and {**ema, "module": checkpoint.to_arrays(ema["module"])},
            **checkpoint.optimizer_state(self.optimizer, self.model),
            "lr_scheduler": self.schedule.state_dict(),
            "scaler": self.scaler and self.scaler.state_dict(),
            "epoch": self.epoch,
            "iteration": self.iteration,
            "sums": self.sums,
            "best": self.best,
            "world_size": self.world_size,
            "threads": cpu_threads(),
            "args": recipe_of(self.args),
        }

    def set_state_dict(self, state: dict[str, Any], path: str | Path) -> None:
        """Raises: CannotRun, if the state is another model's; names the difference and `path`."""
        checkpoint.load_model(self.model, state["model"], path)
        if self.model_ema:
            checkpoint.load_model(self.model_ema.module, state["model_ema"]["module"], path)
            self.model_ema.n_averaged = state["model_ema"]["n_averaged"]
        self.schedule.set_state_dict(state["lr_scheduler"])  # a rate depends on the epoch alone
        checkpoint.load_optimizer(self.optimizer, self.model, state)
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.iteration = state["epoch"], state["iteration"]
        self.sums, self.best = np.array(state["sums"]), dict(state["best"])

    def other_epochs(self, before: int) -> list[str]:
        """[line] on what it changes that --epochs was `before`, for the next step."""
        epoch = self.epoch + (self.iteration == self.steps_per_epoch)
        epochs = before, self.args.epochs
        if before == self.args.epochs or epoch == self.args.epochs:
            return []
        rates, decays = [], None
        for schedule in map(self.new_schedule, epochs):
            schedule.step(epoch)
            rates.append(schedule())
        if self.model_ema:
            decays = [self.ema_decay(count) for count in epochs]
        return other_epochs(self.args, before, epoch, rates, decays)


class Window:
    """The steps since the last line: kept on the device, and read once for each line."""

    def __init__(self) -> None:
        self.losses: list[paddle.Tensor] = []
        self.hits: list[paddle.Tensor] = []
        self.images: list[int] = []
        self.reader_cost = 0.0
        self.begin = time.perf_counter()

    def add(self, loss: paddle.Tensor, hits: paddle.Tensor, images: int) -> None:
        self.losses.append(loss)
        self.hits.append(hits)
        self.images.append(images)

    def read(self, trainer: Trainer) -> tuple[np.ndarray, int, float, float]:
        """Over all ranks, (4,) float64 as `Trainer.sums`; the number of steps; the seconds of a
        step, waiting for data and in all. A collective call; waits for the device.

        Raises:
            Diverged: a loss is infinite or no number; says in which step and at which rate.
        """
        losses = paddle.stack(self.losses).astype("float64").numpy()
        hits = paddle.stack(self.hits).sum(axis=0).numpy()
        images = np.array(self.images, dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(losses))
        sums = [images.sum(), *hits, 0.0 if len(bad) else (losses * images).sum(), len(bad)]
        *sums, any_bad = distributed.sum_over_ranks(np.array(sums), trainer.world_size)
        if any_bad:
            mine = (int(bad[0]), trainer.rank, float(losses[bad[0]])) if len(bad) else None
            found = distributed.agree(mine, trainer.world_size)
            step, rank, loss = min(item for item in found if item)
            iteration = trainer.iteration - len(losses) + step
            which = f" (rank {rank})" if trainer.world_size > 1 else ""
            raise Diverged(
                f"the loss is {loss} in epoch {trainer.epoch}, iteration {iteration}{which}, at a "
                f"learning rate of {trainer.optimizer.get_lr():.6g}"
            )
        steps = len(losses)
        seconds = time.perf_counter() - self.begin
        return np.array(sums), steps, self.reader_cost / steps, seconds / steps
