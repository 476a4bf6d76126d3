"""torchvision's published weights: file name and address of each model's first ImageNet set."""

from torchvision.models import MobileNet_V3_Large_Weights, MobileNet_V3_Small_Weights

WEIGHTS = {
    "mobilenet_v3_small": MobileNet_V3_Small_Weights.IMAGENET1K_V1.url,
    "mobilenet_v3_large": MobileNet_V3_Large_Weights.IMAGENET1K_V1.url,
}
