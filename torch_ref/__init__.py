"""The reference: torchvision's models, data sets and transforms, under the port's names.

No paddle in here.
"""

import sys
import types


def _import_torchvision():
    """Imports torchvision, also where its CUDA wheel stands beside a CPU build of torch.

    torchvision's wheel on PyPI holds CUDA operators that a CPU torch cannot load; its module of
    shape rules for them then fails ("operator torchvision::nms does not exist"), and with it the
    import, although models, transforms and data sets need none of them. Only then is that one
    module left out.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        name = "torchvision._meta_registrations"
        sys.modules[name] = types.ModuleType(name)
        import torchvision  # noqa: F401


_import_torchvision()

from torchvision.models import mobilenet_v3_large, mobilenet_v3_small  # noqa: E402
from torchvision.transforms import InterpolationMode  # noqa: E402

from .dataset import ImageFolder  # noqa: E402
from .ema import ExponentialMovingAverage, adjusted_decay  # noqa: E402
from .metric import accuracy, evaluate, topk_correct  # noqa: E402
from .optim import OPTIMIZERS, create_optimizer, weight_decay_groups  # noqa: E402
from .presets import (  # noqa: E402
    ClassificationPresetEval,
    ClassificationPresetTrain,
    fused_multiply_add,
    get_mixup_cutmix,
)
from .sampler import RASampler  # noqa: E402
from .schedule import create_lr_scheduler  # noqa: E402
from .weights import WEIGHTS  # noqa: E402

MODELS = {
    "mobilenet_v3_small": mobilenet_v3_small,
    "mobilenet_v3_large": mobilenet_v3_large,
}

__all__ = [
    "MODELS",
    "OPTIMIZERS",
    "WEIGHTS",
    "ClassificationPresetEval",
    "ClassificationPresetTrain",
    "ExponentialMovingAverage",
    "ImageFolder",
    "InterpolationMode",
    "RASampler",
    "accuracy",
    "adjusted_decay",
    "create_lr_scheduler",
    "create_optimizer",
    "evaluate",
    "fused_multiply_add",
    "get_mixup_cutmix",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "topk_correct",
    "weight_decay_groups",
]
