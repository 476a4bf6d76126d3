"""What the comparison of two trainings is told of them: a declaration, filled in by its caller."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

__all__ = ["TrainingPair"]


@dataclass(frozen=True)
class TrainingPair:
    """Two packages and two trainers, which take the same command line.

    What is named here is looked up in its module when it is used.

    Attributes:
        port: package with MODELS, {name: factory}, BatchSampler, Draw, ImageFolder,
            get_mixup_cutmix and normalize_batch.
        reference: package with MODELS, ImageFolder, RASampler and get_mixup_cutmix. Its training
            transform and its mixing have `replay`: they apply what they are given.
        port_trainer: module with set_up, train, record, Trainer, Log and Stopped.
        reference_trainer: module with set_up and train.
        port_data: module with training_data and require_same_data.
        distributed: module with start, leave and end_workers, for the port's processes.
        draw_image: (data set, seed, Draw, (width, height)) -> what its transform draws for it.
        draw_batch: (mixing, seed, Draw of the first image, shape) -> what it draws for a batch.
    """

    port: ModuleType
    reference: ModuleType
    port_trainer: ModuleType
    reference_trainer: ModuleType
    port_data: ModuleType
    distributed: ModuleType
    draw_image: Callable
    draw_batch: Callable
