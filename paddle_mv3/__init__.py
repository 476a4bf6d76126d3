"""The port: MobileNetV3, its transforms, data set and metric in PaddlePaddle. No torch in here."""

from paddle.nn.utils import clip_grad_norm_

from .data.autoaugment import AugMix, AutoAugment, RandAugment, TrivialAugmentWide
from .data.dataset import ImageFolder
from .data.device import normalize_in_paddle, normalize_on_device
from .data.loader import DataLoader
from .data.mixup import CutMix, MixUp, RandomChoice, get_mixup_cutmix
from .data.sampler import BatchSampler, DistributedSampler, Draw, RASampler, step_seed
from .data.transforms import (
    ClassificationPresetEval,
    ClassificationPresetTrain,
    RandomErasing,
    normalize_batch,
)
from .model import HEAD, MODELS, MobileNetV3, mobilenet_v3_large, mobilenet_v3_small
from .norm import BatchNorm2D, NoVariance, synchronize_batch_norm
from .training.ema import ExponentialMovingAverage, adjusted_decay
from .training.loss import CrossEntropyLoss
from .training.metric import (
    EvalBatchSampler,
    accuracy,
    averages,
    batch_sums,
    evaluate,
    place,
    topk_correct,
)
from .training.optim import OPTIMIZERS, RMSProp, create_optimizer, weight_decay_groups
from .training.schedule import LR_SCHEDULERS, LR_WARMUP_METHODS, WarmupSchedule

__all__ = [
    "HEAD",
    "LR_SCHEDULERS",
    "LR_WARMUP_METHODS",
    "MODELS",
    "OPTIMIZERS",
    "AugMix",
    "AutoAugment",
    "BatchNorm2D",
    "BatchSampler",
    "ClassificationPresetEval",
    "ClassificationPresetTrain",
    "CrossEntropyLoss",
    "CutMix",
    "DataLoader",
    "DistributedSampler",
    "Draw",
    "EvalBatchSampler",
    "ExponentialMovingAverage",
    "ImageFolder",
    "MixUp",
    "MobileNetV3",
    "NoVariance",
    "RASampler",
    "RMSProp",
    "RandAugment",
    "RandomChoice",
    "RandomErasing",
    "TrivialAugmentWide",
    "WarmupSchedule",
    "accuracy",
    "adjusted_decay",
    "averages",
    "batch_sums",
    "clip_grad_norm_",
    "create_optimizer",
    "evaluate",
    "get_mixup_cutmix",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "normalize_batch",
    "normalize_in_paddle",
    "normalize_on_device",
    "place",
    "step_seed",
    "synchronize_batch_norm",
    "topk_correct",
    "weight_decay_groups",
]
