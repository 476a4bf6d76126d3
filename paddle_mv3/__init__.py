"""The port: MobileNetV3, its transforms, data set and metric in PaddlePaddle. No torch in here."""

from paddle.nn.utils import clip_grad_norm_

from .autoaugment import AugMix, AutoAugment, RandAugment, TrivialAugmentWide
from .dataset import ImageFolder
from .ema import ExponentialMovingAverage, adjusted_decay
from .loader import DataLoader
from .loss import CrossEntropyLoss
from .metric import (
    EvalBatchSampler,
    accuracy,
    averages,
    batch_sums,
    evaluate,
    place,
    topk_correct,
)
from .mixup import CutMix, MixUp, RandomChoice, get_mixup_cutmix
from .model import MODELS, MobileNetV3, mobilenet_v3_large, mobilenet_v3_small
from .norm import BatchNorm2D, synchronize_batch_norm
from .optim import OPTIMIZERS, RMSProp, create_optimizer, weight_decay_groups
from .sampler import BatchSampler, DistributedSampler, Draw, RASampler, step_seed
from .schedule import LR_SCHEDULERS, LR_WARMUP_METHODS, WarmupSchedule
from .transforms import (
    ClassificationPresetEval,
    ClassificationPresetTrain,
    RandomErasing,
    normalize_batch,
)

__all__ = [
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
    "place",
    "step_seed",
    "synchronize_batch_norm",
    "topk_correct",
    "weight_decay_groups",
]
