"""Learning-rate schedules of torchvision's references/classification/train.py, epoch by epoch."""

import math

from paddle.optimizer.lr import LRScheduler

__all__ = ["LR_SCHEDULERS", "LR_WARMUP_METHODS", "WarmupSchedule"]

LR_SCHEDULERS = ("steplr", "cosineannealinglr", "exponentiallr")
LR_WARMUP_METHODS = ("linear", "constant")


class WarmupSchedule(LRScheduler):
    """Warm-up, then a decay; `step()` once an epoch. Bit for bit the rates of PyTorch's schedulers.

    torch.optim.lr_scheduler.SequentialLR of LinearLR or ConstantLR, then StepLR, CosineAnnealingLR
    or ExponentialLR. PyTorch takes each rate from the one before it, and rounding with it: so does
    this. A rate depends on the epoch alone (`last_epoch`), however it was reached.

    Args:
        lr: the rate that warm-up ends with and the decay begins with.
        lr_scheduler: "steplr", "cosineannealinglr" or "exponentiallr".
        epochs: of the whole training; the cosine reaches `lr_min` after them.
        lr_warmup_epochs: 0 for no warm-up.
        lr_warmup_method: "linear" or "constant".
        lr_warmup_decay: the rate begins, or stays, at this share of `lr`; in (0, 1].
        lr_step_size: epochs between two steps of steplr.
        lr_gamma: factor of steplr and exponentiallr.
        lr_min: where the cosine ends.

    Raises:
        ValueError: an argument that is none of these; names it.
    """

    def __init__(
        self,
        lr,
        lr_scheduler="steplr",
        epochs=90,
        lr_warmup_epochs=0,
        lr_warmup_method="constant",
        lr_warmup_decay=0.01,
        lr_step_size=30,
        lr_gamma=0.1,
        lr_min=0.0,
    ):
        for what, value, choices in (
            ("lr_scheduler", lr_scheduler, LR_SCHEDULERS),
            ("lr_warmup_method", lr_warmup_method, LR_WARMUP_METHODS),
        ):
            if value not in choices:
                raise ValueError(f"{what} is {value!r}: choose from {', '.join(choices)}")
        if not 0 < lr_warmup_decay <= 1:
            raise ValueError(f"lr_warmup_decay is {lr_warmup_decay}: give a number in (0, 1]")
        if lr_step_size < 1:
            raise ValueError(f"lr_step_size is {lr_step_size}: give a number of epochs above 0")
        if not 0 <= lr_warmup_epochs < epochs:
            raise ValueError(
                f"lr_warmup_epochs is {lr_warmup_epochs}: give a number in [0, epochs = {epochs})"
            )
        self.base_lr = float(lr)
        self.lr_scheduler, self.lr_min, self.lr_gamma = lr_scheduler, lr_min, lr_gamma
        self.lr_step_size, self.decay_epochs = lr_step_size, epochs - lr_warmup_epochs
        self.warmup_epochs, self.warmup_method = lr_warmup_epochs, lr_warmup_method
        self.warmup_decay = lr_warmup_decay
        self._rates = []
        super().__init__(self.base_lr)

    def get_lr(self):
        while len(self._rates) <= self.last_epoch:
            self._rates.append(self._next(len(self._rates)))
        return self._rates[self.last_epoch]

    def _next(self, epoch):
        """The rate of `epoch`, from that of the epoch before it."""
        before = self._rates[-1] if epoch else self.base_lr
        if epoch < self.warmup_epochs:
            return self._warm_up(before, epoch)
        epoch -= self.warmup_epochs
        if epoch == 0:
            return self._first_after_warmup() if self.warmup_epochs else self.base_lr
        if self.lr_scheduler == "steplr":
            return before if epoch % self.lr_step_size else before * self.lr_gamma
        if self.lr_scheduler == "exponentiallr":
            return before * self.lr_gamma
        return self._cosine(before, epoch)

    def _warm_up(self, before, epoch):
        start, end = self.warmup_decay, 1.0
        if epoch == 0:
            return before * start
        if self.warmup_method == "constant":
            return before
        growth = (end - start) / (self.warmup_epochs * start + (epoch - 1) * (end - start))
        return before * (1.0 + growth)

    def _first_after_warmup(self):
        # PyTorch takes this one from the closed formula, which may round.
        if self.lr_scheduler == "cosineannealinglr":
            return self.lr_min + (self.base_lr - self.lr_min) * (1 + math.cos(0.0)) / 2
        return self.base_lr

    def _cosine(self, before, epoch):
        period = self.decay_epochs
        if (epoch - 1 - period) % (2 * period) == 0:  # one past the minimum, where it would be 0/0
            return before + (self.base_lr - self.lr_min) * (1 - math.cos(math.pi / period)) / 2
        now, then = (1 + math.cos(math.pi * e / period) for e in (epoch, epoch - 1))
        return now / then * (before - self.lr_min) + self.lr_min
