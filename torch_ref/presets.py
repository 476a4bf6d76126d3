"""torchvision's transforms, put together as its references/classification/presets.py does."""

from torchvision import transforms


class ClassificationPresetEval:
    """RGB image -> (3, crop_size, crop_size) float32 tensor; `stages` are its steps, in order."""

    def __init__(self, crop_size=224, resize_size=256):
        resize = transforms.Resize(resize_size)
        to_tensor = transforms.ToTensor()
        normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.settings = {
            "resize_size": resize_size,
            "crop_size": crop_size,
            "interpolation": resize.interpolation.value,
        }
        self.stages = [
            ("resize", resize),
            ("center_crop", transforms.CenterCrop(crop_size)),
            ("normalize", lambda image: normalize(to_tensor(image))),
        ]

    def __call__(self, image):
        for _, stage in self.stages:
            image = stage(image)
        return image
