"""The reference: torchvision's models, data sets and transforms, under the port's names.

No paddle in here.
"""

from alignment.torch_import import import_torchvision

import_torchvision("torchvision.transforms.v2")

from torch.utils.data import DataLoader, DistributedSampler  # noqa: E402
from torchvision.models import mobilenet_v3_large, mobilenet_v3_small  # noqa: E402
from torchvision.transforms import (  # noqa: E402
    AugMix,
    AutoAugment,
    InterpolationMode,
    RandAugment,
    RandomErasing,
    TrivialAugmentWide,
)

from .dataset import ImageFolder  # noqa: E402
from .ema import ExponentialMovingAverage, adjusted_decay  # noqa: E402
from .metric import accuracy, evaluate, topk_correct  # noqa: E402
from .optim import OPTIMIZERS, create_optimizer, weight_decay_groups  # noqa: E402
from .presets import (  # noqa: E402
    ClassificationPresetEval,
    ClassificationPresetTrain,
    apply_op,
    fused_multiply_add,
    get_mixup_cutmix,
    magnitudes,
    policy_draws,
    record_erasing,
    record_policy,
)
from .sampler import RASampler  # noqa: E402
from .schedule import create_lr_scheduler  # noqa: E402
from .weights import WEIGHTS  # noqa: E402

HEAD = "classifier.3"  # the layer whose width is the number of classes
MODELS = {
    "mobilenet_v3_small": mobilenet_v3_small,
    "mobilenet_v3_large": mobilenet_v3_large,
}

__all__ = [
    "HEAD",
    "MODELS",
    "OPTIMIZERS",
    "WEIGHTS",
    "AugMix",
    "AutoAugment",
    "ClassificationPresetEval",
    "ClassificationPresetTrain",
    "DataLoader",
    "DistributedSampler",
    "ExponentialMovingAverage",
    "ImageFolder",
    "InterpolationMode",
    "RASampler",
    "RandAugment",
    "RandomErasing",
    "TrivialAugmentWide",
    "accuracy",
    "adjusted_decay",
    "apply_op",
    "create_lr_scheduler",
    "create_optimizer",
    "evaluate",
    "fused_multiply_add",
    "get_mixup_cutmix",
    "magnitudes",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "policy_draws",
    "record_erasing",
    "record_policy",
    "topk_correct",
    "weight_decay_groups",
]
