"""Bugs that 02_test_data.py finds: files, transforms, augmentation, samplers."""

import math
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import paddle_mv3
from paddle_mv3.data import autoaugment, dataset, mixup, transforms

from . import API, bug, topic

topic("data")


@bug(
    "02",
    "BGR for RGB",
    ["stage decode"],
    "accuracy some points low",
    "OpenCV reads BGR",
    "convert to RGB",
)
def _(patch):
    load = dataset.load_image
    patch(dataset, "load_image", lambda p: Image.fromarray(np.asarray(load(p))[..., ::-1].copy()))


@bug(
    "02",
    "greyscale images left with one channel",
    ["stage decode", "astronaut_grey.JPEG"],
    "an image in a thousand is off",
    "mode L was expanded by another rule than convert('RGB')",
    "image.convert('RGB')",
)
def _(patch):
    load = dataset.load_image

    def load_image(path):
        image = Image.open(path)
        if image.mode != "L":
            return load(path)
        grey = np.asarray(image)
        return Image.fromarray(np.stack([grey, grey, np.zeros_like(grey)], axis=2))

    patch(dataset, "load_image", load_image)


@bug(
    "02",
    "EXIF orientation applied",
    ["stage decode", "astronaut_exif.jpg"],
    "an image in a thousand is turned",
    "some readers turn images; torchvision does not",
    "Image.open(path).convert('RGB')",
)
def _(patch):
    patch(dataset, "load_image", lambda p: ImageOps.exif_transpose(Image.open(p)).convert("RGB"))


@bug(
    "02",
    "bicubic for bilinear",
    ["stage resize", "interpolation bicubic | bilinear"],
    "accuracy some tenths low",
    "defaults differ between libraries",
    "bilinear, as the reference",
)
def _(patch):
    preset = partial(transforms.ClassificationPresetEval, interpolation=Image.Resampling.BICUBIC)
    patch(paddle_mv3, "ClassificationPresetEval", preset)


@bug(
    "02",
    "bilinear without antialias",
    ["stage resize"],
    "accuracy some tenths low",
    "OpenCV's and tensors' resize do not widen the filter when shrinking; PIL's does",
    "resize PIL images",
)
def _(patch):
    def resize(image, size, interpolation):
        width, height = image.size
        scale = size / min(width, height)
        new = (max(size, int(width * scale)), max(size, int(height * scale)))
        return image.resize(new, Image.Resampling.NEAREST)

    patch(transforms, "resize", resize)


@bug(
    "02",
    "longer side resized",
    ["stage resize"],
    "objects too small",
    "which side the size is for differs between libraries",
    "the shorter side",
)
def _(patch):
    def resize(image, size, interpolation):
        scale = size / max(image.size)
        return image.resize([max(1, round(side * scale)) for side in image.size], interpolation)

    patch(transforms, "resize", resize)


@bug(
    "02",
    "resized to a square",
    ["stage resize"],
    "objects out of shape",
    "Resize((256, 256)) for Resize(256)",
    "an int keeps the aspect ratio",
)
def _(patch):
    patch(transforms, "resize", lambda image, size, how: image.resize((size, size), how))


@bug(
    "02",
    "crop rounded down",
    ["stage center_crop"],
    "half of the images shifted by a pixel",
    "torchvision rounds half to even",
    "round((side - size) / 2)",
)
def _(patch):
    def center_crop(image, size):
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return image.crop((left, top, left + size, top + size))

    patch(transforms, "center_crop", center_crop)


@bug(
    "02",
    "resize to 224 in place of 256 and crop",
    ["stage resize", "resize_size 224 | 256"],
    "accuracy a point low",
    "one number for both",
    "resize 256, crop 224",
)
def _(patch):
    preset = partial(transforms.ClassificationPresetEval, resize_size=224)
    patch(paddle_mv3, "ClassificationPresetEval", preset)


@bug(
    "02",
    "mean and std in the order of BGR",
    ["stage normalize"],
    "accuracy some tenths low",
    "copied from a project that reads BGR",
    "0.485, 0.456, 0.406 are R, G, B",
)
def _(patch):
    table = transforms.normalization_table
    patch(
        transforms,
        "normalization_table",
        lambda: table(transforms.MEAN[::-1], transforms.STD[::-1]),
    )


@bug(
    "02",
    "normalised without dividing by 255",
    ["stage normalize"],
    "accuracy near chance",
    "Normalize before ToTensor, or a ToTensor that does not scale",
    "scale to [0, 1], then normalise",
)
def _(patch):
    original = transforms.normalization_table

    def table():
        changed = original()
        changed[:, 0] = 1
        return changed

    patch(transforms, "normalization_table", table)


@bug(
    "02",
    "classes in another order",
    ["order of classes"],
    "accuracy near chance",
    "os.listdir is not sorted; numbers sort differently as text",
    "sorted(names)",
)
def _(patch):
    find_classes = dataset.find_classes
    patch(dataset, "find_classes", lambda root: find_classes(root)[::-1])


@bug(
    "02",
    "files in another order",
    ["order of files"],
    "recorded batches differ, accuracy does not",
    "os.listdir is not sorted",
    "sorted(files)",
)
def _(patch):
    find = dataset.find_samples
    patch(dataset, "find_samples", lambda *a: sorted(find(*a), key=lambda s: (s[1], s[0][::-1])))


@bug(
    "02",
    "labels from 1",
    ["label"],
    "accuracy near chance",
    "label files of ImageNet count from 1",
    "labels from 0",
)
def _(patch):
    get = dataset.ImageFolder.__getitem__

    def getitem(self, index):
        image, target = get(self, index)
        return image, target + 1

    patch(dataset.ImageFolder, "__getitem__", getitem)


@bug(
    "02",
    "labels as int32",
    ["dtype int32 in Paddle, int64 in the reference"],
    "an error or a cast in the loss",
    "NumPy's default differs between systems",
    "int64",
)
def _(patch):
    get = dataset.ImageFolder.__getitem__

    def getitem(self, index):
        image, target = get(self, index)
        return image, np.int32(target)

    patch(dataset.ImageFolder, "__getitem__", getitem)


@bug(
    "02",
    "last batch dropped",
    ["the mistake is in the loader"],
    "the validation set is smaller than it is",
    "drop_last=True, right for training, wrong for validation",
    "drop_last=False",
)
def _(patch):
    patch(paddle_mv3, "DataLoader", partial(paddle_mv3.DataLoader, drop_last=True))


@bug(
    "02",
    "class indices shifted by one",
    ["label 1 | 0", "which index a class gets"],
    "accuracy near chance",
    "a list of classes that begins with a background class",
    "the place of the class among the sorted folders",
)
def _(patch):
    init = dataset.ImageFolder.__init__

    def shifted(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.samples.targets = (self.samples.targets + 1) % len(self.classes)

    patch(dataset.ImageFolder, "__init__", shifted)


def opened_by(change):
    """A loader that opens a file and gives `change(image)`."""

    def load_image(path):
        with Image.open(path) as image:
            image.load()
            return change(image)

    return load_image


@bug(
    "02",
    "transparent pictures on white",
    ["First edge case that differs", "pictures: PNG of mode LA: stage decode"],
    "pictures with transparency have other colours than in training",
    "a viewer puts them on white; convert('RGB') drops the transparency",
    "convert('RGB')",
    "https://pillow.readthedocs.io/en/stable/reference/Image.html#PIL.Image.Image.convert",
)
def _(patch):
    def on_white(image):
        if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")

    patch(dataset, "load_image", opened_by(on_white))


@bug(
    "02",
    "palette pictures as the numbers of their colours",
    ["pictures: PNG of mode P: stage decode"],
    "PNG and GIF files with a palette are dark and grey",
    "np.asarray(image) of mode P gives indices, not colours",
    "convert('RGB') before np.asarray",
)
def _(patch):
    def indices(image):
        return (Image.fromarray(np.asarray(image)) if image.mode == "P" else image).convert("RGB")

    patch(dataset, "load_image", opened_by(indices))


@bug(
    "02",
    "16 bits scaled to 8",
    ["pictures: PNG of mode I;16: stage decode"],
    "pictures of 16 bits are none that the reference was trained on",
    "scaling is what one would want; torchvision's loader cuts them off at 255",
    "convert('RGB') as the reference does",
)
def _(patch):
    def scaled(image):
        if image.mode == "I;16":
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image.convert("RGB")

    patch(dataset, "load_image", opened_by(scaled))


@bug(
    "02",
    "last frame of an animation",
    ["pictures: animated PNG of mode RGB: stage decode"],
    "animated pictures are others",
    "a reader that goes through all frames, and keeps the last",
    "the first frame",
)
def _(patch):
    def last(image):
        image.seek(getattr(image, "n_frames", 1) - 1)
        return image.convert("RGB")

    patch(dataset, "load_image", opened_by(last))


@bug(
    "02",
    "large JPEG decoded at a smaller scale",
    ["pictures: JPEG far larger than the resize: stage decode", "another shape"],
    "large photographs are a little softer or sharper",
    "Image.draft makes decoding faster",
    "decode at full size",
    "https://pillow.readthedocs.io/en/stable/reference/Image.html#PIL.Image.Image.draft",
)
def _(patch):
    def load_image(path):
        with Image.open(path) as image:
            image.draft("RGB", (256, 256))
            return image.convert("RGB")

    patch(dataset, "load_image", load_image)


@bug(
    "02",
    "large images reduced before they are resized",
    ["JPEG far larger than the resize: stage resize"],
    "large photographs are a little softer",
    "reducing_gap makes Pillow's resize faster and less exact",
    "no reducing_gap",
    "https://pillow.readthedocs.io/en/stable/reference/Image.html#PIL.Image.Image.resize",
)
def _(patch):
    resize = Image.Image.resize

    def in_two_steps(image, size, interpolation=Image.Resampling.BILINEAR):
        class Reduced:
            width, height = image.size

            def __init__(self):
                self.size = image.size

            def resize(self, size, how):
                return resize(image, size, how, reducing_gap=2.0)

        result = original(Reduced(), size, interpolation)
        return image if isinstance(result, Reduced) else result

    original = transforms.resize
    patch(transforms, "resize", in_two_steps)


@bug(
    "02",
    "grey in place of black around small images",
    ["sizes: 1 x 1, crop_size 40, resize_size 29: stage center_crop"],
    "none with the usual sizes; other pixels where the crop is larger than the image",
    "the padding value differs between libraries",
    "0, as torchvision's CenterCrop",
)
def _(patch):
    class Grey:
        @staticmethod
        def new(mode, size):
            return Image.new(mode, size, (128, 128, 128))

        def __getattr__(self, name):
            return getattr(Image, name)

    patch(transforms, "Image", Grey())


@bug(
    "02",
    "classes in the order of their numbers",
    ["folders: names, digits: the order of classes, at"],
    "accuracy near chance where class folders are numbered",
    "2 stands before 10 in a natural order, and after it in one by code points",
    "sorted(names)",
)
def _(patch):
    find_classes = dataset.find_classes

    def natural(name):
        return (0, int(name), name) if name.isdecimal() else (1, 0, name)

    patch(dataset, "find_classes", lambda root: sorted(find_classes(root), key=natural))


@bug(
    "02",
    "hidden folders are no classes",
    ["folders: names, hidden: the order of classes, at", ".hidden"],
    "all class indices are off by one where a hidden folder is about",
    "glob('*') leaves out what begins with a dot; os.scandir does not",
    "os.scandir",
)
def _(patch):
    find_classes = dataset.find_classes
    patch(
        dataset,
        "find_classes",
        lambda root: [name for name in find_classes(root) if not name.startswith(".")],
    )


@bug(
    "02",
    "an empty class passes",
    ["folders: an empty class", "no error | FileNotFoundError"],
    "one class fewer is trained than is thought",
    "a class without a picture was left out silently",
    "an error, as torchvision's ImageFolder without allow_empty",
)
def _(patch):
    find_samples = dataset.find_samples

    def find(root, classes, cache=None):
        classes = [name for name in classes if any((Path(root) / name).rglob("*"))]
        return find_samples(root, classes, cache)

    patch(dataset, "find_samples", find)


@bug(
    "02",
    "black images for files that cannot be decoded",
    ["broken files: an empty file: stage decode no error | OSError"],
    "damaged files are trained on as black images",
    "an except that hides what went wrong",
    "let the error through, with the file's name",
)
def _(patch):
    load = dataset.load_image

    def load_image(path):
        try:
            return load(path)
        except OSError:
            return Image.new("RGB", (224, 224))

    patch(dataset, "load_image", load_image)


@bug(
    "02",
    "a batch of one image loses its first axis",
    ["batches: 7 images, batch_size 1, drop_last False: its images", "another shape"],
    "an error in the last batch, or a batch norm over one axis too few",
    "squeeze() without an axis",
    "squeeze(axis=…), or reshape",
)
def _(patch):
    class DataLoader(paddle_mv3.DataLoader):
        def __iter__(self):
            for images, labels in super().__iter__():
                yield images.squeeze(0), labels

    patch(paddle_mv3, "DataLoader", DataLoader)


topic("training data")


def changed_op(patch, name, change):
    """Lets `change(image, magnitude, apply)` stand for one operation on PIL images.

    `apply(image, magnitude)` is the operation as it was.
    """
    original = autoaugment.apply_op

    def apply_op(image, op, magnitude, *args):
        def apply(image, magnitude):
            return original(image, op, magnitude, *args)

        return change(image, magnitude, apply) if op == name else apply(image, magnitude)

    patch(autoaugment, "apply_op", apply_op)


@bug(
    "02",
    "Rotate turns clockwise",
    ["stage Rotate", "the mistake is in this stage"],
    "none while both signs are sampled; other images for the same random numbers",
    "OpenCV, PIL and tensors count angles in opposite directions",
    "image.rotate(degrees): counter-clockwise",
    "https://pillow.readthedocs.io/en/stable/reference/Image.html#PIL.Image.Image.rotate",
)
def _(patch):
    changed_op(patch, "Rotate", lambda image, magnitude, apply: apply(image, -magnitude))


@bug(
    "02",
    "ShearX by the angle in place of its tangent",
    ["stage ShearX"],
    "images sheared a little too much",
    "shear is an angle in one library and a slope in another",
    "the magnitude is the slope",
)
def _(patch):
    def shear(image, magnitude, apply):
        return apply(image, float(np.tan(magnitude)))

    changed_op(patch, "ShearX", shear)


@bug(
    "02",
    "Posterize takes the bits that are kept for bits that are dropped",
    ["stage Posterize"],
    "images nearly black",
    "both readings are in use",
    "ImageOps.posterize(image, bits to keep)",
    "https://pillow.readthedocs.io/en/stable/reference/ImageOps.html#PIL.ImageOps.posterize",
)
def _(patch):
    changed_op(patch, "Posterize", lambda image, magnitude, apply: apply(image, 8 - magnitude))


@bug(
    "02",
    "Solarize inverts what is below the threshold",
    ["stage Solarize"],
    "most images are negatives",
    "threshold read the other way around",
    "invert values from the threshold up",
)
def _(patch):
    def solarize(image, magnitude, apply):
        return image.point(lambda value: 255 - value if value < magnitude else value)

    changed_op(patch, "Solarize", solarize)


@bug(
    "02",
    "Sharpness with the magnitude itself as factor",
    ["stage Sharpness"],
    "blurred where it should be sharpened",
    "the factor is 1 plus the magnitude, which has a sign",
    "enhance(1 + magnitude)",
)
def _(patch):
    changed_op(patch, "Sharpness", lambda image, m, apply: apply(image, abs(m) - 1))


@bug(
    "02",
    "policy with the default interpolation",
    ["interpolation of the policy: nearest | bilinear", "First difference in training: policy"],
    "jagged edges in rotated images",
    "interpolation was passed to the crop only",
    "pass it to the policy too",
)
def _(patch):
    def with_default(policy):
        return lambda interpolation, **arguments: policy(**arguments)

    for name in ("AutoAugment", "RandAugment", "TrivialAugmentWide"):
        patch(transforms, name, with_default(getattr(transforms, name)))


@bug(
    "02",
    "one magnitude too few",
    ["num_magnitude_bins: 30 | 31", "Distributed differently (port | reference): policy"],
    "each magnitude a little too strong",
    "bins counted by the gaps between them",
    "31 magnitudes, both ends among them",
)
def _(patch):
    for name in ("RandAugment", "TrivialAugmentWide"):
        patch(transforms, name, partial(getattr(transforms, name), num_magnitude_bins=30))


@bug(
    "02",
    "RandAugment at the next magnitude",
    ["Distributed differently (port | reference): policy ra"],
    "augmentation a little too strong",
    "magnitudes counted from 1",
    "magnitudes[magnitude], counted from 0",
)
def _(patch):
    draw = autoaugment.RandAugment.draw

    def shifted(self, *args):
        self.magnitude += 1
        drawn = draw(self, *args)
        self.magnitude -= 1
        return drawn

    patch(autoaugment.RandAugment, "draw", shifted)


@bug(
    "02",
    "signs never negative",
    ["Distributed differently (port | reference): policy", "| "],
    "images turned and shifted to one side only",
    "the sign is sampled separately from the magnitude, and was left out",
    "negative half of the time, where an operation has a sign",
)
def _(patch):
    draw = autoaugment.TrivialAugmentWide.draw
    patch(
        autoaugment.TrivialAugmentWide,
        "draw",
        lambda self, *a: [(name, abs(magnitude)) for name, magnitude in draw(self, *a)],
    )


@bug(
    "02",
    "AutoAugment does both operations always",
    ["Distributed differently (port | reference): policy imagenet"],
    "augmentation too strong",
    "each operation of a sub-policy has a probability of its own",
    "sample for each",
)
def _(patch):
    policy = [tuple((name, 1.0, index) for name, _, index in row) for row in autoaugment.IMAGENET]
    patch(autoaugment, "IMAGENET", policy)


@bug(
    "02",
    "AugMix with the operations for PIL images",
    ["policy augmix", "stage chain"],
    "images a little off",
    "torchvision's AugMix works on tensors, whose operations are others",
    "the tensor operations, in NumPy",
)
def _(patch):
    def apply(self, pixels, name, magnitude):
        image = Image.fromarray(pixels)
        return np.asarray(autoaugment.apply_op(image, name, magnitude, self.interpolation))

    patch(autoaugment.TensorOps, "apply", apply)


@bug(
    "02",
    "AugMix: weights of the copies add up to 1",
    ["policy augmix", "stage blend"],
    "images too bright",
    "the copies share what the image itself leaves",
    "weights times the share of the copies",
)
def _(patch):
    steps = autoaugment.AugMix.steps

    def too_bright(self, image, drawn):
        return steps(self, image, {**drawn, "blend": (drawn["blend"][0], 1.0)})

    patch(autoaugment.AugMix, "steps", too_bright)


@bug(
    "02",
    "AugMix also draws the magnitude after the last",
    ["Distributed differently (port | reference): policy augmix"],
    "augmentation a little too strong",
    "severity 3 means the first three magnitudes, 0 among them",
    "an index below severity",
)
def _(patch):
    draw = autoaugment.AugMix.draw

    def stronger(self, *args):
        self.severity += 1
        drawn = draw(self, *args)
        self.severity -= 1
        return drawn

    patch(autoaugment.AugMix, "draw", stronger)


@bug(
    "02",
    "crop: side in place of area drawn uniformly",
    ["Distributed differently (port | reference): crop", "area of the crop"],
    "objects too large",
    "scale is a range of areas",
    "sample the area, take the root",
    "https://arxiv.org/abs/1409.4842",
)
def _(patch):
    original = transforms.draw_resized_crop

    def draw(width, height, rng, **ranges):
        class Squared:
            integers = rng.integers

            def uniform(self, low, high):
                if low > 0:  # the area, not the logarithm of the ratio
                    return rng.uniform(low**0.5, high**0.5) ** 2
                return rng.uniform(low, high)

        return original(width, height, Squared(), **ranges)

    patch(transforms, "draw_resized_crop", draw)


@bug(
    "02",
    "crop: aspect ratio drawn uniformly",
    ["Distributed differently (port | reference): crop", "aspect ratio of the crop"],
    "wide crops more often than tall ones",
    "ratio 3/4 to 4/3 is uniform in its logarithm",
    "exp(uniform(log(3 / 4), log(4 / 3)))",
)
def _(patch):
    original = transforms.draw_resized_crop

    def draw(width, height, rng, **ranges):
        class Uniform:
            integers = rng.integers

            def uniform(self, low, high):
                if low > 0:
                    return rng.uniform(low, high)
                return np.log(rng.uniform(np.exp(low), np.exp(high)))

        return original(width, height, Uniform(), **ranges)

    patch(transforms, "draw_resized_crop", draw)


@bug(
    "02",
    "crop: the whole image where no crop fits",
    ["Distributed differently (port | reference): crop of a", "box"],
    "very wide images squeezed",
    "the last resort was left out",
    "the largest centred crop with an allowed ratio",
)
def _(patch):
    draw = transforms.draw_resized_crop

    def crop(width, height, rng):
        narrow = max(width, height) > 20 * min(width, height)
        return (0, 0, width, height) if narrow else draw(width, height, rng)

    patch(transforms, "draw_resized_crop", crop)


@bug(
    "02",
    "flip upside down",
    ["stage flip"],
    "accuracy some points low",
    "axes of (height, width, channel) and (channel, height, width) mixed up",
    "FLIP_LEFT_RIGHT",
)
def _(patch):
    upside_down = Image.Transpose.FLIP_TOP_BOTTOM
    patch(transforms, "horizontal_flip", lambda image: image.transpose(upside_down))


@bug(
    "02",
    "erased to black before the image is normalised",
    ["stage erase"],
    "erased parts are black in place of grey",
    "RandomErasing stands behind Normalize in the recipe",
    "normalise, then erase",
    "https://arxiv.org/abs/1708.04896",
)
def _(patch):
    apply = transforms.RandomErasing.apply

    def erase(self, array, drawn):
        if drawn is not None:
            black = -np.float32(transforms.MEAN) / np.float32(transforms.STD)
            drawn = (*drawn[:4], black[:, None, None])
        return apply(self, array, drawn)

    patch(transforms.RandomErasing, "apply", erase)


@bug(
    "02",
    "erasing: height and width swapped",
    ["stage erase"],
    "none in the mean; other images for the same random numbers",
    "(top, left, height, width) read as (left, top, width, height)",
    "rows first",
)
def _(patch):
    apply = transforms.RandomErasing.apply

    def erase(self, array, drawn):
        if drawn is not None:
            top, left, height, width, value = drawn
            drawn = left, top, width, height, value
        return apply(self, array, drawn)

    patch(transforms.RandomErasing, "apply", erase)


@bug(
    "02",
    "mixup: lambda for the other image",
    ["mixup: its images"],
    "none in the mean; other batches for the same random numbers",
    "which of the two lambda belongs to differs between codes",
    "lambda of the own image, 1 - lambda of the one before",
    "https://arxiv.org/abs/1710.09412",
)
def _(patch):
    apply = mixup.MixUp.apply

    def swapped(self, images, labels, drawn):
        return apply(self, images, labels, {**drawn, "lam": 1 - drawn["lam"]})

    patch(mixup.MixUp, "apply", swapped)


@bug(
    "02",
    "mixup and CutMix: labels not mixed",
    ["its soft labels"],
    "accuracy some points low",
    "images mixed, and the labels forgotten",
    "soft labels",
)
def _(patch):
    patch(
        mixup._Mix,
        "soft_labels",
        lambda self, labels, lam: np.eye(self.num_classes, dtype=np.float32)[labels],
    )


@bug(
    "02",
    "CutMix: lambda as drawn, where the box was clipped",
    ["Distributed differently (port | reference): mixup and CutMix", "lambda plus the box's share"],
    "labels off for boxes at the rim",
    "a box at the rim is smaller than was sampled",
    "1 - the area of the clipped box over the image's",
    "https://arxiv.org/abs/1905.04899",
)
def _(patch):
    def unclipped(self, shape, rng):
        height, width = shape[-2:]
        lam = rng.beta(self.alpha, self.alpha)
        x, y = rng.integers(width), rng.integers(height)
        w, h = (int(0.5 * np.sqrt(1 - lam) * side) for side in (width, height))
        box = max(x - w, 0), max(y - h, 0), min(x + w, width), min(y + h, height)
        return {"box": tuple(map(int, box)), "lam_adjusted": lam}

    patch(mixup.CutMix, "draw", unclipped)


@bug(
    "02",
    "CutMix from the image after in place of the one before",
    ["CutMix: its images"],
    "labels belong to another image",
    "the batch is rolled by one; images and labels in opposite directions",
    "roll both by 1",
)
def _(patch):
    def apply(self, images, labels, drawn):
        x1, y1, x2, y2 = drawn["box"]
        mixed = images.copy()
        mixed[..., y1:y2, x1:x2] = np.roll(images[..., y1:y2, x1:x2], -1, axis=0)
        return mixed, self.soft_labels(labels, drawn["lam_adjusted"])

    patch(mixup.CutMix, "apply", apply)


topic("samplers")


def sampler(patch, **methods):
    original = paddle_mv3.DistributedSampler
    patch(paddle_mv3, "DistributedSampler", type("DistributedSampler", (original,), methods))


@bug(
    "02",
    "each rank a piece of the order",
    ["DistributedSampler", "of the same order: sharding"],
    "batches of several GPUs hold other images than the reference's",
    "rank r was given the r-th part in place of every world_size-th image",
    "order[rank::world_size]",
)
def _(patch):
    def piece(self):
        order = np.resize(self.permutation(), len(self) * self.world_size).tolist()
        part = order[self.rank * len(self) :][: len(self)]
        return (paddle_mv3.Draw(index, self.epoch) for index in part)

    sampler(patch, __iter__=piece)


@bug(
    "02",
    "another shuffled order on each rank",
    ["rank 1 has another order than rank 0"],
    "some images are seen twice in an epoch, some not at all",
    "the seed was made different by rank, as it is for augmentation in PyTorch",
    "seed and epoch only",
    API + "io/DistributedBatchSampler_en.html",
)
def _(patch):
    shuffled = paddle_mv3.DistributedSampler.permutation

    def permutation(self):
        return np.roll(shuffled(self), self.rank)

    sampler(patch, permutation=permutation)


@bug(
    "02",
    "set_epoch without effect",
    ["the order is an earlier epoch's"],
    "every epoch has the same order, and so the same batches",
    "set_epoch was not called, or went to another object",
    "sampler.set_epoch(epoch) before each epoch",
    API + "io/DistributedBatchSampler_en.html",
)
def _(patch):
    sampler(patch, set_epoch=lambda self, epoch: None)


@bug(
    "02",
    "the same augmentation in each epoch",
    ["images would be augmented as in an earlier epoch"],
    "overfits as if nothing were augmented",
    "workers start from the same seed in each epoch",
    "the generator's seed includes the epoch",
    "https://github.com/pytorch/pytorch/issues/41329",
)
def _(patch):
    draws = paddle_mv3.DistributedSampler.__iter__
    sampler(patch, __iter__=lambda self: (draw._replace(epoch=0) for draw in draws(self)))


@bug(
    "02",
    "data set that forgets the epoch",
    ["ImageFolder: images are the same with another epoch"],
    "each image is augmented in one way for ever",
    "a generator that was made once for each image",
    "seed, epoch, index and repetition in the generator's seed",
)
def _(patch):
    generator = dataset.generator

    def forgetful(seed, draw, purpose):
        return generator(seed, draw._replace(epoch=0), purpose)

    patch(dataset, "generator", forgetful)


@bug(
    "02",
    "data set that forgets its seed",
    ["ImageFolder: images are the same with another seed"],
    "runs with other seeds change each image alike",
    "the argument was taken and forgotten",
    "seed, epoch, index and repetition in the generator's seed",
)
def _(patch):
    generator = dataset.generator
    patch(dataset, "generator", lambda seed, draw, purpose: generator(0, draw, purpose))


@bug(
    "02",
    "random numbers that depend on the order of the images",
    ["ImageFolder: images differ although seed, index, epoch and repetition are the same"],
    "no run can be repeated with another number of workers, or after a stop",
    "one generator for all images, as Python's random module is",
    "a generator for each image",
)
def _(patch):
    one = np.random.default_rng(0)
    patch(dataset, "generator", lambda *args: one)


@bug(
    "02",
    "flip and crop from one random number",
    ["Distributed differently", "with flip"],
    "flips and crops are distributed as they should be, each by itself",
    "a random number that was used twice",
    "a random number for each",
)
def _(patch):
    draw = transforms.ClassificationPresetTrain.draw

    def coupled(self, width, height, rng):
        drawn = draw(self, width, height, rng)
        return {**drawn, "flip": bool(drawn["crop"][0] % 2)}

    patch(transforms.ClassificationPresetTrain, "draw", coupled)


@bug(
    "02",
    "crops from a tenth of the area",
    ["Distributed differently", "area of the crop"],
    "the smallest crops never come; nothing else shows",
    "a lower bound remembered wrongly",
    "scale=(0.08, 1.0)",
    "https://arxiv.org/abs/1409.4842",
)
def _(patch):
    draw = transforms.draw_resized_crop
    patch(
        transforms,
        "draw_resized_crop",
        lambda width, height, rng: draw(width, height, rng, scale=(0.1, 1.0)),
    )


@bug(
    "02",
    "AugMix with the same chain in each copy",
    ["policy augmix", "first operation of chain 1 with first operation of chain 2"],
    "the copies that are mixed are one and the same",
    "[chain] * mixture_width",
    "samples of its own for each copy",
    "https://arxiv.org/abs/1912.02781",
)
def _(patch):
    draw = autoaugment.AugMix.draw

    def same(self, width, height, rng):
        drawn = draw(self, width, height, rng)
        return {**drawn, "chains": [drawn["chains"][0]] * self.mixture_width}

    patch(autoaugment.AugMix, "draw", same)


@bug(
    "02",
    "repetitions that are augmented alike",
    ["RASampler", "the copies of an image would be augmented alike"],
    "repeated augmentation without effect",
    "the generator's seed lacks the number of the repetition",
    "the generator's seed includes the repetition",
    "https://arxiv.org/abs/1901.09335",
)
def _(patch):
    class RASampler(paddle_mv3.RASampler):
        def __iter__(self):
            return (draw._replace(repetition=0) for draw in super().__iter__())

    patch(paddle_mv3, "RASampler", RASampler)


@bug(
    "02",
    "ranks that get nothing where images are few",
    ["DistributedSampler, 1 images, 3 processes", "0 samples"],
    "a process without a batch waits for the others for ever",
    "the order is filled up from its beginning once, which is not enough for few images",
    "fill up as often as it takes",
    "https://github.com/pytorch/pytorch/blob/main/torch/utils/data/distributed.py",
)
def _(patch):
    def once(self):
        order = self.permutation()
        wanted = len(self) * self.world_size
        order = np.concatenate([order, order[: max(0, wanted - len(order))]])[:wanted]
        return (
            paddle_mv3.Draw(index, self.epoch)
            for index in order[self.rank :: self.world_size].tolist()
        )

    sampler(patch, __iter__=once)


@bug(
    "02",
    "the sampler's seed without effect",
    ["DistributedSampler", "the order is that of another seed"],
    "runs with other seeds see their images in the same order",
    "the argument was taken and forgotten",
    "seed and epoch in the generator's seed",
)
def _(patch):
    shuffled = paddle_mv3.DistributedSampler.permutation

    def permutation(self):
        seed, self.seed = self.seed, 0
        try:
            return shuffled(self)
        finally:
            self.seed = seed

    sampler(patch, permutation=permutation)


topic("training data")


@bug(
    "02",
    "crop: sides cut to whole pixels in place of rounded",
    ["Distributed differently", "crop of", "pixels, box"],
    "crops of small images a pixel too small; nothing shows on large ones",
    "int() for round()",
    "round(), as torchvision",
)
def _(patch):
    class Cut:
        def __getattr__(self, name):
            return getattr(math, name)

        @staticmethod
        def sqrt(x):
            return math.floor(math.sqrt(x))

    original = transforms.draw_resized_crop

    def draw(*args, **ranges):
        transforms.math = Cut()
        try:
            return original(*args, **ranges)
        finally:
            transforms.math = math

    patch(transforms, "draw_resized_crop", draw)


@bug(
    "02",
    "probability of the flip without effect",
    ["training: what is sampled", "what is sampled with hflip_prob 1"],
    "none with the default of one half; other images where it was set",
    "the argument was taken and forgotten",
    "self.hflip_prob",
)
def _(patch):
    init = transforms.ClassificationPresetTrain.__init__

    def forgetful(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.hflip_prob = 0.5

    patch(transforms.ClassificationPresetTrain, "__init__", forgetful)


@bug(
    "02",
    "random erasing with another value than was asked for",
    ["erasing: what is sampled, p 1.0, value 0.5: value"],
    "none with the default of 0",
    "the argument was taken and forgotten",
    "self.value",
    "https://arxiv.org/abs/1708.04896",
)
def _(patch):
    draw = transforms.RandomErasing.draw

    def zeros(self, *args):
        drawn = draw(self, *args)
        return drawn and (*drawn[:4], np.zeros((1, 1, 1), np.float32))

    patch(transforms.RandomErasing, "draw", zeros)
