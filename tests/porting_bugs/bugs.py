"""Bugs that people make when they port a PyTorch model to PaddlePaddle.

    python tests/porting_bugs/bugs.py > docs/porting_bugs.md

Each bug is a few lines that patch the port, the conversion, or what the port calls of Paddle, and
never a check. `names` is what the step must say on screen: the layer, the setting, the stage.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from alignment import cli  # noqa: F401  # isort: skip  (before paddle)

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from PIL import Image, ImageOps

import paddle_mv3
from paddle_mv3 import dataset, metric, model, transforms

BUGS = {}
API = "https://www.paddlepaddle.org.cn/documentation/docs/en/api/paddle/"
MAPPING = (
    "https://www.paddlepaddle.org.cn/documentation/docs/zh/guides/model_convert/"
    "pytorch_api_mapping_cn.html"
)


@dataclass
class Bug:
    step: str
    name: str
    names: tuple  # texts
    symptom: str
    reason: str
    fix: str
    source: str
    apply: object  # called with patch(target, attribute, value)


def bug(step, name, names, symptom, reason, fix, source=""):
    def add(apply):
        assert name not in BUGS
        BUGS[name] = Bug(step, name, tuple(names), symptom, reason, fix, source, apply)
        return apply

    return add


def conv2d(patch, change):
    """Patches the arguments (a dict) of those convolutions that `change` wants changed."""

    class Conv2D(nn.Conv2D):
        def __init__(self, in_channels, out_channels, kernel_size, **arguments):
            arguments = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **arguments}
            arguments["kernel_size"] = kernel_size
            change(arguments)
            super().__init__(in_channels, out_channels, **arguments)

    patch(nn, "Conv2D", Conv2D)


def convolved(patch, layer_name, change):
    """Lets `change(layer, x)` stand for the forward pass of one layer of the built model."""
    build = model.MobileNetV3.__init__

    def init(self, *args, **kwargs):
        build(self, *args, **kwargs)
        layer = dict(self.named_sublayers())[layer_name]
        forward = layer.forward
        layer.forward = lambda x: change(layer, forward, x)

    patch(model.MobileNetV3, "__init__", init)


def built(patch, change):
    """Calls `change(model)` on each model that is built."""
    build = model.MobileNetV3.__init__

    def init(self, *args, **kwargs):
        build(self, *args, **kwargs)
        change(self)

    patch(model.MobileNetV3, "__init__", init)


def converted(patch, change):
    """Calls `change(state)` on the arrays that a model is loaded with."""
    load = nn.Layer.set_state_dict

    def set_state_dict(self, state, *args, **kwargs):
        state = {name: np.array(value) for name, value in state.items()}
        change(state)
        return load(self, state, *args, **kwargs)

    patch(nn.Layer, "set_state_dict", set_state_dict)


# --- structure -------------------------------------------------------------------------------


@bug(
    "01",
    "swish for hard-swish",
    ["features.0.2", "Hardswish"],
    "logits off by a tenth of their size",
    "hard-swish is piecewise; swish is its smooth model",
    "paddle.nn.Hardswish",
    API + "nn/Hardswish_en.html",
)
def _(patch):
    patch(nn.Hardswish, "forward", lambda self, x: F.swish(x))


@bug(
    "01",
    "ReLU where the first blocks of the table have it replaced by hard-swish",
    ["features.1.block.0.2", "type Hardswish | ReLU"],
    "logits off; all shapes right",
    "the table's column NL was read as one activation for all rows",
    "ReLU in the blocks marked RE",
    "https://arxiv.org/abs/1905.02244",
)
def _(patch):
    patch(model, "SMALL", [block._replace(activation=nn.Hardswish) for block in model.SMALL])


@bug(
    "01",
    "Paddle's hard-sigmoid, with its slope of 0.1666667",
    ["features.1.block.1.scale_activation"],
    "a float32 check passes; float64 is off by 1e-8",
    "the default slope is 1/6 cut to seven digits",
    "relu6(x + 3) / 6",
    API + "nn/functional/hardsigmoid_en.html",
)
def _(patch):
    patch(model.Hardsigmoid, "forward", lambda self, x: F.hardsigmoid(x))


@bug(
    "01",
    "sigmoid in the gate of squeeze-and-excitation",
    ["features.1.block.1.scale_activation"],
    "logits off",
    "most implementations of squeeze-and-excitation use sigmoid; this network does not",
    "hard-sigmoid",
    "https://arxiv.org/abs/1905.02244",
)
def _(patch):
    patch(model.Hardsigmoid, "forward", lambda self, x: F.sigmoid(x))


@bug(
    "01",
    "no activation between the two layers of squeeze-and-excitation",
    ["features.1.block.1.activation"],
    "logits off",
    "an activation was overlooked: it has no weights that would be missed",
    "ReLU after fc1",
)
def _(patch):
    built(
        patch,
        lambda net: [
            setattr(layer.activation, "forward", lambda x: x)
            for layer in net.sublayers()
            if isinstance(layer, model.SqueezeExcitation)
        ],
    )


@bug(
    "01",
    "gate added in place of multiplied",
    ["features.1.block.1:", "SqueezeExcitation"],
    "logits off; every layer by itself is right",
    "the gate scales channels; it is no residual",
    "x * gate",
)
def _(patch):
    def forward(self, x):
        gate = self.activation(self.fc1(self.avgpool(x)))
        return x + self.scale_activation(self.fc2(gate))

    patch(model.SqueezeExcitation, "forward", forward)


@bug(
    "01",
    "residual dropped in all blocks",
    ["features.3:", "InvertedResidual"],
    "logits off; every layer by itself is right",
    "the addition is no layer and has no weights",
    "add the input where stride is 1 and channels are equal",
)
def _(patch):
    patch(model.InvertedResidual, "forward", lambda self, x: self.block(x))


@bug(
    "01",
    "residual dropped in one block",
    ["features.8:", "InvertedResidual"],
    "logits off",
    "a condition on channels that holds for all blocks but one",
    "stride 1 and equal channels, nothing else",
)
def _(patch):
    def forward(self, x):
        y = self.block(x)
        return y + x if self.use_res_connect and self.out_channels != 48 else y

    patch(model.InvertedResidual, "forward", forward)


@bug(
    "01",
    "activation after the sum of the residual",
    ["features.3:", "InvertedResidual"],
    "logits off",
    "ResNet has an activation there; a linear bottleneck has none",
    "no activation after the projection",
    "https://arxiv.org/abs/1801.04381",
)
def _(patch):
    def forward(self, x):
        y = self.block(x)
        return F.relu(y + x) if self.use_res_connect else y

    patch(model.InvertedResidual, "forward", forward)


@bug(
    "01",
    "padding one less in strided 5x5 convolutions",
    ["features.4.block.1.0", "padding 1 | 2"],
    "logits off; shapes may still fit",
    "TensorFlow's SAME pads a strided convolution on one side only",
    "padding (kernel - 1) // 2",
)
def _(patch):
    conv2d(patch, lambda a: a.update(padding=a["padding"] - (a["stride"] == 2 == a["padding"])))


@bug(
    "01",
    "replicated border in place of zeros",
    ["features.0.0", "First layer to part"],
    "logits off by little",
    "padding_mode of the port",
    "padding_mode='zeros'",
    API + "nn/Conv2D_en.html",
)
def _(patch):
    conv2d(patch, lambda a: a["padding"] and a.update(padding_mode="replicate"))


@bug(
    "01",
    "dilation where the table has stride",
    ["features.9.block.1.0", "stride 1 | 2"],
    "logits off; feature maps larger, hidden by the global pooling",
    "the segmentation variant (dilated) was built",
    "dilated=False",
)
def _(patch):
    patch(
        paddle_mv3,
        "MODELS",
        {name: partial(f, dilated=True) for name, f in model.MODELS.items()},
    )


@bug(
    "01",
    "average pooling that counts the padding in",
    ["avgpool", "First layer to part"],
    "logits off",
    "PyTorch's pooling counts the padding (count_include_pad), Paddle's does not (exclusive)",
    "`exclusive` is the opposite of `count_include_pad`",
    API + "nn/AvgPool2D_en.html",
)
def _(patch):
    def forward(x):
        size = x.shape[2] + 1
        return F.avg_pool2d(x, size, stride=size, padding=1, exclusive=False)

    built(patch, lambda net: setattr(net.avgpool, "forward", forward))


@bug(
    "01",
    "max pooling for average pooling in front of the classifier",
    ["avgpool"],
    "logits off",
    "the wrong adaptive pooling",
    "paddle.nn.AdaptiveAvgPool2D(1)",
    API + "nn/AdaptiveAvgPool2D_en.html",
)
def _(patch):
    built(patch, lambda net: setattr(net.avgpool, "forward", lambda x: F.adaptive_max_pool2d(x, 1)))


@bug(
    "01",
    "channels flattened in another order",
    ["classifier.0", "Its input differs already"],
    "logits off",
    "a transpose for NHWC that was left in",
    "flatten NCHW",
)
def _(patch):
    patch(paddle, "flatten", lambda x, axis: x.reshape([x.shape[0], -1])[:, ::-1])


@bug(
    "01",
    "hard-swish left out of the classifier",
    ["classifier.1"],
    "logits off",
    "two linear layers in a row look complete",
    "Linear, Hardswish, Dropout, Linear",
)
def _(patch):
    convolved(patch, "classifier.1", lambda layer, forward, x: x)


@bug(
    "01",
    "a value cut to float16 on the way",
    ["features.5:"],
    "float32 off by 1e-3",
    "a cast for mixed precision that was left in the model",
    "no casts in the model; use amp",
)
def _(patch):
    convolved(
        patch, "features.5", lambda layer, forward, x: forward(x).astype("float16").astype(x.dtype)
    )


# --- normalisation ---------------------------------------------------------------------------


@bug(
    "01",
    "batch norm epsilon left at Paddle's default",
    ["features.0.1", "epsilon 1e-05 | 0.001"],
    "logits off by a fifth",
    "torchvision's MobileNetV3 sets 1e-3",
    "epsilon=0.001",
    API + "nn/BatchNorm2D_en.html",
)
def _(patch):
    patch(model, "batch_norm", lambda c: model.BatchNorm2D(c, momentum=0.99, epsilon=1e-5))


@bug(
    "01",
    "batch norm left in train mode",
    ["features.0.1"],
    "logits change with the batch",
    "eval() was not called, or only on the outer object",
    "model.eval()",
)
def _(patch):
    patch(nn.Layer, "eval", lambda self: self.train())


@bug(
    "05",
    "batch norm momentum copied from PyTorch",
    ["momentum 0.01 | 0.99", "running statistic"],
    "training goes well, evaluation is bad; all eval-mode checks are green",
    "Paddle's momentum is the share that is kept, PyTorch's the share that is added",
    "momentum = 1 - PyTorch's",
    "https://github.com/PaddlePaddle/Paddle/issues/32810",
)
def _(patch):
    patch(model, "batch_norm", lambda c: model.BatchNorm2D(c, momentum=0.01, epsilon=0.001))


@bug(
    "05",
    "batch norm frozen",
    ["frozen True | False", "features.0.1"],
    "training stalls or diverges",
    "use_global_stats=True, which looks like track_running_stats=True and is its opposite",
    "leave use_global_stats at None",
    "https://github.com/PaddlePaddle/docs/pull/6125",
)
def _(patch):
    norm = model.batch_norm

    def frozen(channels):
        layer = norm(channels)
        layer._use_global_stats = True
        return layer

    patch(model, "batch_norm", frozen)


@bug(
    "05",
    "running variance of the biased batch variance",
    ["running statistic", "_variance"],
    "evaluation a little off with small batches",
    "Paddle's CPU kernel divides by n, PyTorch by n - 1",
    "paddle_mv3.norm.BatchNorm2D",
)
def _(patch):
    patch(model, "BatchNorm2D", nn.BatchNorm2D)


# --- conversion of weights -------------------------------------------------------------------


@bug(
    "01",
    "running mean and variance swapped",
    ["features.0.1", "_mean is not the reference's running_mean"],
    "logits off or NaN",
    "two entries of equal shape",
    "_mean is running_mean, _variance is running_var",
)
def _(patch):
    def change(state):
        for name in [n for n in state if n.endswith("._mean")]:
            other = name.replace("_mean", "_variance")
            state[name], state[other] = state[other], np.abs(state[name])

    converted(patch, change)


@bug(
    "01",
    "running statistics not loaded",
    ["features.0.1", "_mean is not the reference's"],
    "logits off; set_state_dict warned and went on",
    "running_mean has another name in Paddle, and what is not found is skipped",
    "rename; look at what set_state_dict returns",
    "https://github.com/PaddlePaddle/Paddle/issues/55172",
)
def _(patch):
    def change(state):
        for name in [n for n in state if n.endswith(("._mean", "._variance"))]:
            del state[name]

    converted(patch, change)


@bug(
    "01",
    "biases not loaded",
    ["features.0.1", "bias is not the reference's bias"],
    "logits off; set_state_dict warned and went on",
    "keys that were filtered by name",
    "load all of them",
    "https://github.com/PaddlePaddle/Paddle/issues/55172",
)
def _(patch):
    def change(state):
        for name in [n for n in state if n.endswith(".bias")]:
            del state[name]

    converted(patch, change)


@bug(
    "01",
    "the last layer's weights not loaded",
    ["classifier.3", "weight is not the reference's weight"],
    "logits are noise",
    "a head that was skipped for fine-tuning",
    "load it",
)
def _(patch):
    converted(patch, lambda state: [state.pop(f"classifier.3.{x}") for x in ("weight", "bias")])


@bug(
    "01",
    "transpose missed where the matrix is square",
    ["features.11.block.2.fc1", "weight is not the reference's weight"],
    "logits off; no error, as the shapes fit",
    "Paddle's Linear is (in, out), PyTorch's (out, in)",
    "convert by what a layer is, not by whether its shape fits",
    API + "nn/Linear_en.html",
)
def _(patch):
    # The network's own linear layers are not square; a square part of a 1x1 convolution is.
    def change(state):
        weight = state["features.11.block.2.fc1.weight"]
        n = min(weight.shape[:2])
        weight[:n, :n] = weight[:n, :n].transpose(1, 0, 2, 3).copy()

    converted(patch, change)


@bug(
    "01",
    "float16 on the way from one file to the other",
    ["features.0.0", "weight is not the reference's weight"],
    "logits off by 1e-3",
    "a checkpoint that was saved in half precision to save space",
    "convert in the type of the source",
)
def _(patch):
    def change(state):
        for name, value in state.items():
            if name.endswith(".weight"):
                state[name] = value.astype(np.float16).astype(value.dtype)

    converted(patch, change)


@bug(
    "01",
    "weights of the next block",
    ["features.10.block", "weight is not the reference's weight"],
    "logits off; shapes fit, as the two blocks are alike",
    "an index that starts at 1 on one side",
    "equal module names on both sides",
)
def _(patch):
    def change(state):
        for name in list(state):
            if name.startswith("features.10."):
                other = name.replace("features.10.", "features.11.")
                state[name], state[other] = state[other], state[name]

    converted(patch, change)


@bug(
    "01",
    "kernels flipped",
    ["features.0.0", "weight is not the reference's weight"],
    "logits off",
    "true convolution for cross-correlation, from a source in another framework",
    "no flip: both frameworks correlate",
)
def _(patch):
    def change(state):
        state["features.0.0.weight"] = state["features.0.0.weight"][:, :, ::-1, ::-1].copy()

    converted(patch, change)


@bug(
    "01",
    "weights in the order of BGR",
    ["features.0.0", "weight is not the reference's weight"],
    "logits off",
    "a first convolution from a model that reads BGR",
    "channels of images and of weights in one order",
)
def _(patch):
    def change(state):
        state["features.0.0.weight"] = state["features.0.0.weight"][:, ::-1].copy()

    converted(patch, change)


# --- dropout ---------------------------------------------------------------------------------


@bug(
    "05",
    "dropout with the share that is kept",
    ["p 0.8 | 0.2", "dropout classifier.2: drops 0."],
    "training is too strongly regularised",
    "0.8 was taken for the rate",
    "p is the share that is dropped",
    API + "nn/Dropout_en.html",
)
def _(patch):
    built(patch, lambda net: net.classifier[2].p and setattr(net.classifier[2], "p", 0.8))


@bug(
    "05",
    "dropout scaled at inference in place of training",
    ["dropout classifier.2: scales by 1 | 1.25"],
    "evaluation off by 1 - p",
    "mode='downscale_in_infer' is Paddle's old default",
    "mode='upscale_in_train'",
    API + "nn/Dropout_en.html",
)
def _(patch):
    built(patch, lambda net: setattr(net.classifier[2], "mode", "downscale_in_infer"))


@bug(
    "05",
    "dropout left out",
    ["dropout classifier.2: drops 0.000 | 0.2"],
    "training overfits",
    "a layer without weights is easily missed",
    "Dropout(0.2) before the last layer",
)
def _(patch):
    convolved(patch, "classifier.2", lambda layer, forward, x: x)


@bug(
    "05",
    "a branch cut off from the gradient",
    ["gradient features.11.block.2.fc2.bias"],
    "training is slower; forward checks are green",
    "a detach() left over from debugging",
    "no detach in the gate",
)
def _(patch):
    def forward(self, x):
        gate = self.activation(self.fc1(self.avgpool(x)))
        return x * self.scale_activation(self.fc2(gate)).detach()

    patch(model.SqueezeExcitation, "forward", forward)


@bug(
    "05",
    "a layer that is not trained",
    ["gradient features.0.0.weight"],
    "its weights never change",
    "stop_gradient=True, the opposite of requires_grad=True",
    "stop_gradient=False",
)
def _(patch):
    def change(net):
        net.features[0][0].weight.stop_gradient = True

    built(patch, change)


# --- data ------------------------------------------------------------------------------------


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
    def table():
        mean, std = (np.float32(x)[:, None] for x in (transforms.MEAN, transforms.STD))
        return (np.arange(256, dtype=np.float32)[None] - mean) / std

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


# --- metric ----------------------------------------------------------------------------------


@bug(
    "03",
    "top-4 for top-5",
    ["acc_top5", "the metric itself (k)"],
    "top-5 a little low",
    "a slice that is one short",
    "correct[:, :k]",
)
def _(patch):
    correct = metric.topk_correct
    patch(metric, "topk_correct", lambda o, t, topk: correct(o, t, [min(k, 4) for k in topk]))


@bug(
    "03",
    "fraction for per cent",
    ["acc_top1", "a fraction, not per cent"],
    "a hundredth of the published figure",
    "paddle.metric.accuracy returns a fraction",
    "times 100",
    API + "metric/accuracy_en.html",
)
def _(patch):
    evaluate = metric.evaluate
    patch(paddle_mv3, "evaluate", lambda *a, **k: [x / 100 for x in evaluate(*a, **k)])


@bug(
    "03",
    "mean of the batches' means",
    ["acc_top1", "putting batches together"],
    "accuracy off by some hundredths",
    "the last batch is smaller and counts as much as a full one",
    "weight by the batch's size",
)
def _(patch):
    def evaluate(network, batches, topk):
        each = [metric.accuracy(network(x), y, topk) for x, y in batches]
        return [float(np.mean(column)) for column in zip(*each)]

    patch(paddle_mv3, "evaluate", evaluate)


@bug(
    "03",
    "last batch left out of the metric",
    ["acc_top1", "putting batches together"],
    "accuracy off by some hundredths",
    "a loop that ends one early",
    "all batches",
)
def _(patch):
    evaluate = metric.evaluate
    patch(paddle_mv3, "evaluate", lambda net, b, topk: evaluate(net, b[:-1] or b, topk))


@bug(
    "03",
    "divided by the nominal size of the batch",
    ["acc_top1", "one batch already"],
    "accuracy too low",
    "batch_size in place of len(target)",
    "len(target)",
)
def _(patch):
    def evaluate(network, batches, topk):
        counts = [metric.topk_correct(network(x), y, topk) for x, y in batches]
        return [100 * sum(column) / (32 * len(batches)) for column in zip(*counts)]

    patch(paddle_mv3, "evaluate", evaluate)


# --- loss ------------------------------------------------------------------------------------


@bug(
    "04",
    "sum for mean",
    ["reduction sum | mean", "the mistake is in the loss"],
    "loss times the size of the batch",
    "reduction",
    "reduction='mean'",
    API + "nn/CrossEntropyLoss_en.html",
)
def _(patch):
    patch(nn, "CrossEntropyLoss", partial(nn.CrossEntropyLoss, reduction="sum"))


@bug(
    "04",
    "softmax before a loss that applies it",
    ["the mistake is in the loss"],
    "loss near log(classes), hardly learns",
    "cross entropy takes logits in both frameworks",
    "no softmax in front",
    MAPPING,
)
def _(patch):
    loss = nn.CrossEntropyLoss
    patch(nn, "CrossEntropyLoss", lambda: lambda x, y: loss()(F.softmax(x), y))


@bug(
    "04",
    "softmax left out of the loss",
    ["the mistake is in the loss"],
    "loss NaN or negative",
    "use_softmax=False, for outputs that are probabilities already",
    "use_softmax=True",
    API + "nn/CrossEntropyLoss_en.html",
)
def _(patch):
    loss = nn.CrossEntropyLoss
    patch(nn, "CrossEntropyLoss", lambda: lambda x, y: loss(use_softmax=False)(F.sigmoid(x), y))


@bug(
    "04",
    "label smoothing that the reference has not",
    ["label_smoothing 0.1 | 0", "the mistake is in the loss"],
    "loss higher",
    "the training loss was used for validation",
    "label_smoothing=0.0",
)
def _(patch):
    patch(nn, "CrossEntropyLoss", partial(nn.CrossEntropyLoss, label_smoothing=0.1))


@bug(
    "04",
    "class 0 ignored",
    ["ignore_index 0 | -100", "the mistake is in the loss"],
    "loss off where a label is 0",
    "an ignore_index for padding, from a text model",
    "ignore_index=-100",
)
def _(patch):
    patch(nn, "CrossEntropyLoss", partial(nn.CrossEntropyLoss, ignore_index=0))


@bug(
    "04",
    "class weights that the reference has not",
    ["the mistake is in the loss"],
    "loss off",
    "weights for an unbalanced data set",
    "weight=None",
)
def _(patch):
    def weighted():
        def loss(x, y):
            weight = paddle.linspace(0.5, 1.5, x.shape[1]).astype(x.dtype)
            return F.cross_entropy(x, y, weight=weight)

        return loss

    patch(nn, "CrossEntropyLoss", weighted)


@bug(
    "04",
    "softmax over the batch",
    ["the mistake is in the loss"],
    "loss far too low",
    "axis=0",
    "axis=-1",
    API + "nn/functional/cross_entropy_en.html",
)
def _(patch):
    def over_batch():
        def loss(x, y):
            picked = F.log_softmax(x, axis=0)[paddle.arange(len(y)), y]
            return -picked.mean()

        return loss

    patch(nn, "CrossEntropyLoss", over_batch)


# --- optimizer, schedule ---------------------------------------------------------------------


def momentum(patch, **changed):
    original = paddle.optimizer.Momentum

    def build(learning_rate, m, parameters, **arguments):
        arguments = {"momentum": m, "parameters": parameters, **arguments, **changed}
        return original(learning_rate, **arguments)

    patch(paddle.optimizer, "Momentum", build)


@bug(
    "05",
    "no momentum",
    ["momentum 0.0 | 0.9", "update"],
    "training slower",
    "paddle.optimizer.SGD has none, torch.optim.SGD has",
    "paddle.optimizer.Momentum",
    API + "optimizer/Momentum_en.html",
)
def _(patch):
    momentum(patch, momentum=0.0)


@bug(
    "05",
    "SGD for SGD with momentum",
    ["optimizer: SGD | SGD with momentum", "update"],
    "training slower",
    "the name is the same, the argument momentum is not there",
    "paddle.optimizer.Momentum",
    API + "optimizer/SGD_en.html",
)
def _(patch):
    patch(
        paddle.optimizer,
        "Momentum",
        lambda lr, m, parameters: paddle.optimizer.SGD(lr, parameters=parameters),
    )


@bug(
    "05",
    "Nesterov momentum",
    ["nesterov True | False", "update"],
    "curves differ a little",
    "use_nesterov",
    "use_nesterov=False",
    API + "optimizer/Momentum_en.html",
)
def _(patch):
    momentum(patch, use_nesterov=True)


@bug(
    "05",
    "weight decay that the reference has not",
    ["weight_decay 0.0001 | 0", "update"],
    "no loss of the first iterations shows it",
    "a default of the project's optimizer builder",
    "weight_decay=None",
)
def _(patch):
    momentum(patch, weight_decay=1e-4)


@bug(
    "05",
    "gradients clipped",
    ["gradient clipping", "update"],
    "training slower at the beginning",
    "a grad_clip from another recipe",
    "grad_clip=None",
)
def _(patch):
    momentum(patch, grad_clip=nn.ClipGradByValue(1e-3))


@bug(
    "05",
    "the classifier's parameters not given to the optimizer",
    ["update classifier.0.weight"],
    "the head is not trained",
    "parameters of one part of the model",
    "model.parameters()",
)
def _(patch):
    original = paddle.optimizer.Momentum

    def build(learning_rate, m, parameters):
        return original(learning_rate, m, parameters=parameters[:-4])

    patch(paddle.optimizer, "Momentum", build)


@bug(
    "05",
    "gradients not cleared",
    ["are the gradients cleared", "gradient"],
    "training diverges",
    "clear_grad() is missing; both frameworks add gradients up",
    "optimizer.clear_grad() in each iteration",
)
def _(patch):
    patch(paddle.optimizer.Momentum, "clear_grad", lambda self: None)


@bug(
    "05",
    "learning rate ten times too large",
    ["learning rate 0.01 | 0.001"],
    "training diverges or not",
    "scaled for another batch size",
    "the reference's",
)
def _(patch):
    decay = paddle.optimizer.lr.StepDecay
    patch(paddle.optimizer.lr, "StepDecay", lambda lr, **k: decay(10 * lr, **k))


@bug(
    "05",
    "schedule that never steps",
    ["learning rate 0.001 | 0.0005"],
    "training never settles",
    "Paddle's optimizer does not step its schedule",
    "scheduler.step() after each iteration or epoch",
)
def _(patch):
    patch(paddle.optimizer.lr.StepDecay, "get_lr", lambda self: self.base_lr)


@bug(
    "05",
    "schedule one step late",
    ["learning rate 0.001 | 0.0005"],
    "curves shifted by a step",
    "stepped before the first iteration on one side, after it on the other",
    "step after the iteration",
)
def _(patch):
    patch(
        paddle.optimizer.lr.StepDecay,
        "get_lr",
        lambda self: self.base_lr * self.gamma ** max(0, self.last_epoch - 1),
    )


@bug(
    "05",
    "another gamma",
    ["gamma 0.1 | 0.5", "learning rate"],
    "training settles too early",
    "Paddle's and PyTorch's default is 0.1",
    "gamma of the recipe",
    API + "optimizer/lr/StepDecay_en.html",
)
def _(patch):
    decay = paddle.optimizer.lr.StepDecay
    patch(paddle.optimizer.lr, "StepDecay", lambda lr, **k: decay(lr, **{**k, "gamma": 0.1}))


@bug(
    "05",
    "schedule stepped by the epoch where the reference steps by the iteration",
    ["learning rate 0.001 | 0.0005", "step_size 10 | 1"],
    "training never settles",
    "step_size counts what step() is called for",
    "the same unit on both sides",
)
def _(patch):
    decay = paddle.optimizer.lr.StepDecay
    patch(paddle.optimizer.lr, "StepDecay", lambda lr, **k: decay(lr, **{**k, "step_size": 10}))


def document():
    """docs/porting_bugs.md, from the table above."""
    lines = [
        "# Porting bugs, and the step that finds each",
        "",
        "Made by `python tests/porting_bugs/bugs.py > docs/porting_bugs.md`. "
        "`make test` makes each of these",
        f"{len(BUGS)} bugs in the port, one at a time, and asserts that the step named turns red "
        "and says what is",
        "in the column *named*. An unchanged port is green.",
        "",
        "| step | bug | symptom | reason | fix | named |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for b in BUGS.values():
        named = ", ".join(f"`{name}`" for name in b.names).replace("|", "\\|")
        name = f"[{b.name}]({b.source})" if b.source else b.name
        lines.append(f"| {b.step} | {name} | {b.symptom} | {b.reason} | {b.fix} | {named} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(document())
