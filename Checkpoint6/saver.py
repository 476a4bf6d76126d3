"""When and where a training is saved, and what it begins with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alignment.files import CannotRun, shown
from alignment.trainers import classes_of_head, new_head, not_finite, other_classes
from Checkpoint6 import checkpoint
from Checkpoint6.trainer import Diverged
from paddle_mv3 import HEAD

if TYPE_CHECKING:
    import paddle

    import paddle_mv3
    from Checkpoint6.logs import Log
    from Checkpoint6.trainer import Trainer


ROOT = Path(__file__).resolve().parent.parent

__all__ = ["Saver", "load_weights"]


class Saver:
    """Writes the checkpoints of a trainer, on rank 0.

    Attributes:
        failure: CannotRun, if the last one could not be written.
    """

    def __init__(
        self,
        trainer: Trainer,
        loader: paddle_mv3.DataLoader,
        dataset: paddle_mv3.ImageFolder,
        log: Log,
    ) -> None:
        self.trainer, self.loader, self.dataset, self.log = trainer, loader, dataset, log
        self.args = trainer.args
        self.failure: CannotRun | None = None

    def __call__(self) -> None:
        """A checkpoint of now. What cannot be written is said, and the training goes on.

        Raises:
            Diverged: a weight is infinite or no number; nothing is written.
        """
        trainer = self.trainer
        if trainer.rank:
            return
        state = trainer.state_dict()
        state |= {"images": len(self.dataset), "classes": self.dataset.classes}
        state |= {"skipped": dict(self.loader.skipped)}
        for name, array in state["model"].items():
            if not np.isfinite(checkpoint.as_float32(array)).all():
                raise Diverged(
                    f"{name} holds infinite values or NaN before epoch {trainer.epoch}, iteration "
                    f"{trainer.iteration}, at a learning rate of {trainer.optimizer.get_lr():.6g}"
                )
        path = checkpoint.path_of(self.args.output_dir, trainer.epoch, trainer.iteration)
        try:
            checkpoint.save(path, state)
            checkpoint.prune(checkpoint.checkpoints(self.args.output_dir), self.args.keep_last)
            self.failure = None
        except CannotRun as error:
            self.failure = error
            self.log.say(f"NOT SAVED: {error}. The training goes on; the last checkpoint is kept")

    def best(self, top1: float) -> None:
        """Keeps the checkpoint that was just made, if it is the best so far."""
        trainer = self.trainer
        if trainer.rank or self.failure or trainer.best.get("top1", -1.0) >= top1:
            return
        folder = self.args.output_dir
        source = checkpoint.path_of(folder, trainer.epoch, trainer.iteration)
        try:
            checkpoint.copy(source, folder / f"best_{trainer.epoch:04}.pdparams")
            checkpoint.prune(checkpoint.bests(folder), self.args.keep_best)
            trainer.best = {"epoch": trainer.epoch, "top1": top1}
        except CannotRun as error:
            self.log.say(f"NOT SAVED: {error}. The training goes on")


def load_weights(
    args: argparse.Namespace, model: paddle.nn.Layer, num_classes: int, say: Callable[[str], object]
) -> None:
    """Puts --weights into `model`.

    Weights for another number of classes begin a fine-tuning: the last layer stays as it was
    initialised (torchvision's way: normal with standard deviation 0.01, bias 0), and that is said.

    Args:
        num_classes: of the data, and of `model`.
        say: called with a line.

    Raises:
        CannotRun: they are another model's, infinite or no numbers, or, to be evaluated, for other
            classes.
    """
    if args.weights == "IMAGENET1K_V1":
        # Downloads and converts; the only thing here that needs PyTorch.
        import torch2paddle

        where = argparse.Namespace(model=args.model, data_dir=ROOT / "data", pretrained=True)
        path = torch2paddle.prepare(where)[1]
    else:
        path = Path(args.weights)
    arrays, _ = checkpoint.read_weights(path)
    # Trained with --amp O2, most are in 16 bits.
    arrays = {name: checkpoint.as_float32(array) for name, array in arrays.items()}
    fresh = checkpoint.to_arrays(model.state_dict())
    head = (f"{HEAD}.weight", f"{HEAD}.bias")
    trained_for = None
    if all(name in each for name in head for each in (arrays, fresh)):
        weight, bias = (arrays[name].shape for name in head)
        trained_for = classes_of_head(weight, bias, fresh[head[0]].shape[0])
    anew = trained_for not in (None, num_classes)
    if anew:
        counts = other_classes(shown(path), trained_for, shown(args.data_path), num_classes)
        if args.test_only:
            raise CannotRun(
                f"{counts}: to be evaluated, both have to be the same. Without --test-only its "
                "last layer is trained from new weights"
            )
        arrays |= {name: fresh[name] for name in head}
    checkpoint.load_model(model, arrays, path)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CannotRun(not_finite(shown(path), name))
    if anew:
        say(f"{counts}: {new_head(HEAD)}")
