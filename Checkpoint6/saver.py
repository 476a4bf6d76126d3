"""When and where a training is saved, and what it begins with."""

import argparse
from pathlib import Path

import numpy as np

from alignment.files import CannotRun, shown
from Checkpoint6 import checkpoint
from Checkpoint6.trainer import Diverged

ROOT = Path(__file__).resolve().parent.parent

__all__ = ["Saver", "load_weights"]


class Saver:
    """Writes the checkpoints of a trainer, on rank 0.

    Attributes:
        failure: CannotRun, if the last one could not be written.
    """

    def __init__(self, trainer, loader, dataset, log):
        self.trainer, self.loader, self.dataset, self.log = trainer, loader, dataset, log
        self.args = trainer.args
        self.failure = None

    def __call__(self):
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

    def best(self, top1):
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


def load_weights(args, model, num_classes):
    """Puts --weights into `model`. Raises: CannotRun, if they are another model's."""
    if args.weights == "IMAGENET1K_V1":
        # Downloads and converts; the only thing here that needs PyTorch.
        import torch2paddle

        where = argparse.Namespace(model=args.model, data_dir=ROOT / "data", pretrained=True)
        path = torch2paddle.prepare(where)[1]
    else:
        path = Path(args.weights)
    arrays, _ = checkpoint.read_weights(path)
    trained_for = len(arrays.get("classifier.3.bias", range(num_classes)))
    if trained_for != num_classes:
        raise CannotRun(
            f"{shown(path)} is of a model for {trained_for} classes, and {shown(args.data_path)} "
            f"has {num_classes}: the class counts have to be the same"
        )
    # Trained with --amp O2, most are in 16 bits.
    arrays = {name: checkpoint.as_float32(array) for name, array in arrays.items()}
    checkpoint.load_model(model, arrays, path)
