"""torchvision's transforms, put together as its references/classification/presets.py does."""

from torchvision import transforms


class ClassificationPresetEval(transforms.Compose):
    """RGB image -> (3, crop_size, crop_size) float32 tensor."""

    def __init__(self, crop_size=224, resize_size=256):
        super().__init__(
            [
                transforms.Resize(resize_size),
                transforms.CenterCrop(crop_size),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )
