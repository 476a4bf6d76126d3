"""The port: MobileNetV3, its transforms, data set and metric in PaddlePaddle. No torch in here."""

from .dataset import ImageFolder
from .loader import DataLoader
from .metric import accuracy, evaluate
from .model import MODELS, MobileNetV3, mobilenet_v3_large, mobilenet_v3_small
from .transforms import ClassificationPresetEval, ClassificationPresetTrain

__all__ = [
    "MODELS",
    "ClassificationPresetEval",
    "ClassificationPresetTrain",
    "DataLoader",
    "ImageFolder",
    "MobileNetV3",
    "accuracy",
    "evaluate",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
]
