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
from Checkpoint6 import checkpoint, train, trainer
from paddle_mv3 import model
from paddle_mv3.data import autoaugment, dataset, mixup, transforms
from paddle_mv3.training import metric

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
    ["features.0.0", "First layer that differs"],
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
    ["avgpool", "First layer that differs"],
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
    ["features.0.1", "mode train | eval"],
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
    [
        "running statistic features.0.1._variance",
        "biased variance of the batch (divided by n = 9216)",
    ],
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


# --- parameters: the state_dict of the port is not the reference's ---------------------------


@bug(
    "01",
    "a bias in the first convolution, which the reference has not",
    ["features.0.0.bias: shape [16] | none", "1 parameter only in the port", "the records agree"],
    "logits agree as long as the bias is 0",
    "bias_attr is left at its default in front of a batch norm",
    "bias_attr=False",
    API + "nn/Conv2D_en.html",
)
def _(patch):
    def change(arguments):
        if arguments["stride"] == 2 and arguments["groups"] == 1:
            arguments.pop("bias_attr")

    conv2d(patch, change)


@bug(
    "01",
    "no bias in the first layer of the gates",
    ["features.1.block.1.fc1.bias: none | shape [8]", "9 parameters only in the reference"],
    "a parameter of the checkpoint is left over",
    "bias_attr=False was copied to all convolutions",
    "a bias in squeeze-and-excitation",
)
def _(patch):
    def change(net):
        for layer in net.sublayers():
            if isinstance(layer, model.SqueezeExcitation):
                layer.fc1.bias = None

    built(patch, change)


@bug(
    "01",
    "gates squeezed to half as many channels",
    [
        "features.4.block.2.fc1.weight: shape [16, 96, 1, 1] | shape [24, 96, 1, 1]",
        "parameters of another shape",
    ],
    "the checkpoint does not fit",
    "the share was taken of other channels than the expanded ones",
    "a quarter of the expanded channels",
    "https://arxiv.org/abs/1905.02244",
)
def _(patch):
    gate = model.SqueezeExcitation
    patch(
        model,
        "SqueezeExcitation",
        lambda channels, squeezed: gate(channels, model.make_divisible(squeezed / 2)),
    )


@bug(
    "01",
    "a narrower network",
    ["features.0.0.weight: shape [8, 3, 3, 3] | shape [16, 3, 3, 3]", "(and 204 more)"],
    "the checkpoint does not fit",
    "another variant was built (width_mult)",
    "width_mult=1.0",
)
def _(patch):
    narrow = {name: partial(f, width_mult=0.5) for name, f in model.MODELS.items()}
    patch(paddle_mv3, "MODELS", narrow)


@bug(
    "01",
    "a layer under another name",
    [
        "the name of a layer: head | classifier",
        '--layer-map FILE with {"head": "classifier"}',
        "the records agree",
    ],
    "set_state_dict skips its weights with a warning",
    "names were chosen anew",
    "the reference's name, or --layer-map",
)
def _(patch):
    def change(net):
        net.head = net.classifier
        del net.classifier

    def forward(self, x):
        return self.head(paddle.flatten(self.avgpool(self.features(x)), 1))

    built(patch, change)
    patch(model.MobileNetV3, "forward", forward)


@bug(
    "01",
    "a linear layer that does not take what comes",
    [
        "classifier.0.weight: shape [577, 1024] | shape [576, 1024]",
        "the port cannot be run: ",
        "model.py, line ",
    ],
    "the forward pass ends in an exception",
    "a number of features that was counted by hand",
    "576, the channels of the last convolution",
)
def _(patch):
    def change(net):
        width = net.classifier[0].weight.shape[1]
        net.classifier[0] = nn.Linear(577, width)

    built(patch, change)


@bug(
    "01",
    "the batch flattened too",
    ["classifier.0", "Its input differs already, shape (576,) | (1, 576)"],
    "logits of one image have no batch axis",
    "flatten starts at axis 0 in both frameworks",
    "flatten(x, 1)",
    API + "flatten_en.html",
)
def _(patch):
    patch(paddle, "flatten", lambda x, axis: x.reshape([-1]))


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
    ["gradient features.11.block.2.fc2.bias: no gradient reaches features.11.block.2.fc2"],
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
    ["gradient features.0.0.weight: frozen in the port", "weight stop_gradient=True"],
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
    ["its label: 1 | 0", "which index a class gets"],
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
    evaluate = metric.evaluate

    def mean_of_means(network, batches, *args):
        each = [evaluate(network, [batch], *args) for batch in batches]
        return [float(np.mean(column)) for column in zip(*each)]

    patch(paddle_mv3, "evaluate", mean_of_means)


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
    patch(paddle_mv3, "evaluate", lambda net, b, *args: evaluate(net, b[:-1] or b, *args))


@bug(
    "03",
    "divided by the nominal size of the batch",
    ["acc_top1", "one batch already"],
    "accuracy too low",
    "batch_size in place of len(target)",
    "len(target)",
)
def _(patch):
    evaluate = metric.evaluate

    def by_nominal_size(network, batches, *args):
        images = sum(len(y) for _, y in batches)
        return [x * images / (32 * len(batches)) for x in evaluate(network, batches, *args)]

    patch(paddle_mv3, "evaluate", by_nominal_size)


@bug(
    "03",
    "losses of batches weighted alike",
    ["loss: mean difference", "putting batches together"],
    "validation loss off where the last batch is small; accuracies are right",
    "mean of the batches' mean losses",
    "weight by the batch's size",
)
def _(patch):
    evaluate = metric.evaluate

    def unweighted(network, batches, topk, criterion):
        values = evaluate(network, batches, topk, criterion)
        losses = [evaluate(network, [batch], topk, criterion)[-1] for batch in batches]
        return [*values[:-1], float(np.mean(losses))]

    patch(paddle_mv3, "evaluate", unweighted)


@bug(
    "03",
    "evaluated in train mode",
    ["acc_top1", "not in eval mode"],
    "accuracy too low, and another one at every run",
    "model.eval() left out: dropout and batch norm act as in training",
    "model.eval()",
    API + "nn/Layer_en.html",
)
def _(patch):
    patch(nn.Dropout, "eval", lambda self: None)


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


@bug(
    "05",
    "loss halved",
    ["0.5 times", "The mistake is in the loss: mean or sum, a factor"],
    "training as with half the learning rate",
    "a loss that is averaged over two heads, of which one is left",
    "the loss as the reference has it",
)
def _(patch):
    compute = nn.CrossEntropyLoss.forward
    patch(nn.CrossEntropyLoss, "forward", lambda self, x, y: compute(self, x, y) / 2)


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


# --- recipe: initialisation, ranks, losses, optimizers, schedules, regularisation ------------


def initialised(patch, change):
    """Calls `change(layer)` on each layer after its initialisation."""
    reset = model.MobileNetV3.reset_parameters

    def reset_parameters(self):
        reset(self)
        for layer in self.sublayers():
            change(layer)

    patch(model.MobileNetV3, "reset_parameters", reset_parameters)


@bug(
    "01",
    "Paddle's own initialisation left",
    ["the initialisation of features.0.0.weight"],
    "every check with loaded weights passes; training starts elsewhere",
    "Paddle's layers start from other distributions than PyTorch's, and torchvision sets its own",
    "Kaiming normal, fan-out, for convolutions; N(0, 0.01) for linear layers",
    API + "nn/Conv2D_en.html",
)
def _(patch):
    patch(model.MobileNetV3, "reset_parameters", lambda self: None)


@bug(
    "01",
    "fan-in for fan-out",
    ["the initialisation of features.0.0.weight: standard deviation"],
    "activations shrink or grow with depth at the start",
    "paddle.nn.initializer.KaimingNormal counts what comes in",
    "sqrt(2 / (out_channels * k * k))",
    API + "nn/initializer/KaimingNormal_en.html",
)
def _(patch):
    def change(layer):
        if isinstance(layer, nn.Conv2D):
            nn.initializer.KaimingNormal()(layer.weight)

    initialised(patch, change)


@bug(
    "01",
    "fan-out divided by the groups",
    ["the initialisation of features.1.block.0.0.weight: standard deviation"],
    "depthwise convolutions start too large",
    "what a group gives out, as TensorFlow counts; PyTorch counts all channels",
    "out_channels * k * k, whatever the groups",
    "https://pytorch.org/docs/stable/nn.init.html",
)
def _(patch):
    def change(layer):
        if isinstance(layer, nn.Conv2D):
            layer.weight.set_value(layer.weight * layer._groups**0.5)

    initialised(patch, change)


@bug(
    "01",
    "a uniform distribution of the same standard deviation",
    ["the initialisation of features.", "Kolmogorov-Smirnov"],
    "mean and standard deviation are right",
    "KaimingUniform for KaimingNormal",
    "a normal distribution",
    API + "nn/initializer/KaimingUniform_en.html",
)
def _(patch):
    def change(layer):
        if isinstance(layer, nn.Conv2D):
            limit = 3**0.5 * (2 / (layer.weight.shape[0] * layer._kernel_size[0] ** 2)) ** 0.5
            nn.initializer.Uniform(-limit, limit)(layer.weight)

    initialised(patch, change)


@bug(
    "01",
    "a bias that does not start at 0",
    ["the initialisation of classifier.0.bias: constant"],
    "logits are off from the start",
    "PyTorch's default for linear layers is uniform, torchvision's network sets 0",
    "Constant(0.0)",
)
def _(patch):
    def change(layer):
        if isinstance(layer, nn.Linear):
            nn.initializer.Uniform(-0.03, 0.03)(layer.bias)

    initialised(patch, change)


@bug(
    "01",
    "the same weights at every seed",
    ["the same with another seed"],
    "runs that should be independent are not",
    "a seed set inside the model, left from debugging",
    "paddle.seed in the training script only",
    API + "seed_en.html",
)
def _(patch):
    reset = model.MobileNetV3.reset_parameters

    def reset_parameters(self):
        paddle.seed(0)
        reset(self)

    patch(model.MobileNetV3, "reset_parameters", reset_parameters)


@bug(
    "03",
    "images repeated so that all ranks have as many",
    ["ranks_acc_top1", "dealt out to ranks"],
    "accuracy depends on the number of GPUs",
    "paddle.io.DistributedBatchSampler fills up with the first images, as PyTorch's does",
    "EvalBatchSampler",
    API + "io/DistributedBatchSampler_en.html",
)
def _(patch):
    class Padded(paddle_mv3.EvalBatchSampler):
        def __iter__(self):
            batches = list(super().__iter__())
            yield from [batch + batch[: self.batch_size - len(batch)] for batch in batches]

    patch(paddle_mv3, "EvalBatchSampler", Padded)


@bug(
    "03",
    "mean of the ranks' accuracies",
    ["ranks_acc_top1", "ranks are added up"],
    "accuracy depends on the number of GPUs",
    "ranks have different numbers of images",
    "add up hits and images, then divide",
)
def _(patch):
    def place(sums, count, rank, world_size):
        table = metric.place(sums, count, rank, world_size)
        return table / max(1, len(sums))

    patch(paddle_mv3, "place", place)


@bug(
    "04",
    "label smoothing over the other classes only",
    ["loss_label_smoothing", "the mistake is in the loss"],
    "loss a little off; nothing else shows",
    "the paper's smoothing gives a share to the right class as well",
    "smoothing / classes for all of them",
    "https://arxiv.org/abs/1512.00567",
)
def _(patch):
    class Loss(nn.Layer):
        def __init__(self, label_smoothing):
            super().__init__()
            self.smoothing = label_smoothing

        def forward(self, x, y):
            others = self.smoothing / (x.shape[1] - 1)
            if y.ndim == 1:
                y = F.one_hot(y, x.shape[1]).astype(x.dtype)
            y = y * (1 - self.smoothing - others) + others
            return -(y * F.log_softmax(x)).sum(1).mean()

    patch(paddle_mv3, "CrossEntropyLoss", Loss)


@bug(
    "04",
    "soft labels turned back into classes",
    ["loss_soft_labels", "the mistake is in the loss"],
    "mixup without effect on the labels",
    "argmax to please a loss that takes classes only",
    "soft_label=True, or a loss that takes probabilities",
    API + "nn/CrossEntropyLoss_en.html",
)
def _(patch):
    loss = paddle_mv3.CrossEntropyLoss

    def build(label_smoothing):
        smoothed = loss(label_smoothing)
        return lambda x, y: smoothed(x, y.argmax(1) if y.ndim == 2 else y)

    patch(paddle_mv3, "CrossEntropyLoss", build)


def optimizer(patch, name, build):
    """`build(learning_rate, groups, momentum, weight_decay)` stands for one optimizer."""
    original = paddle_mv3.create_optimizer

    def create_optimizer(opt, groups, lr, momentum, weight_decay):
        if opt == name:
            return build(lr, groups, momentum, weight_decay)
        return original(opt, groups, lr, momentum, weight_decay)

    patch(paddle_mv3, "create_optimizer", create_optimizer)


@bug(
    "05",
    "Paddle's RMSProp for PyTorch's",
    ["optimizer rmsprop, step 0, update"],
    "the first update is a third off; losses run apart",
    "epsilon stands inside the root, the learning rate inside the momentum",
    "paddle_mv3.RMSProp",
    API + "optimizer/RMSProp_en.html",
)
def _(patch):
    optimizer(
        patch,
        "rmsprop",
        lambda lr, groups, momentum, decay: paddle.optimizer.RMSProp(
            lr, rho=0.9, epsilon=0.0316, momentum=momentum, parameters=groups, weight_decay=decay
        ),
    )


@bug(
    "05",
    "RMSprop with the default epsilon",
    ["optimizer rmsprop, step 0, update", "epsilon 1e-08 | 0.0316"],
    "updates many times too large where gradients are small",
    "the recipe's 0.0316 is not the default, 1e-8",
    "epsilon=0.0316, rho=0.9",
    "https://pytorch.org/docs/stable/generated/torch.optim.RMSprop.html",
)
def _(patch):
    optimizer(
        patch,
        "rmsprop",
        lambda lr, groups, momentum, decay: paddle_mv3.RMSProp(
            lr, rho=0.9, momentum=momentum, parameters=groups, weight_decay=decay
        ),
    )


@bug(
    "05",
    "learning rate inside the momentum buffer",
    ["optimizer rmsprop, step 0, optimizer state"],
    "right as long as the learning rate stays; wrong after each step of the schedule",
    "Paddle's RMSProp and TensorFlow's sum up updates, PyTorch's sums up directions",
    "multiply by the learning rate when the weights are changed",
    API + "optimizer/RMSProp_en.html",
)
def _(patch):
    class Folded(paddle_mv3.RMSProp):
        def _append_optimize_op(self, block, param_and_grad):
            super()._append_optimize_op(block, param_and_grad)
            parameter = param_and_grad["params"][0]
            buffer = self._get_accumulator_master("momentum", parameter)
            buffer.scale_(self.get_lr())

    optimizer(
        patch,
        "rmsprop",
        lambda lr, groups, momentum, decay: Folded(
            lr, 0.9, 0.0316, momentum, parameters=groups, weight_decay=decay
        ),
    )


@bug(
    "05",
    "Adam with L2 for AdamW",
    ["optimizer adamw, step 0, update"],
    "weights decay too little where gradients are large",
    "AdamW takes the decay off the weights, not through the gradient",
    "paddle.optimizer.AdamW",
    "https://arxiv.org/abs/1711.05101",
)
def _(patch):
    optimizer(
        patch,
        "adamw",
        lambda lr, groups, momentum, decay: paddle.optimizer.Adam(
            lr, parameters=groups, weight_decay=decay
        ),
    )


@bug(
    "05",
    "Nesterov's momentum left out",
    ["optimizer sgd_nesterov, step 0, update"],
    "slower convergence",
    "use_nesterov is off by default",
    "use_nesterov=True",
    API + "optimizer/Momentum_en.html",
)
def _(patch):
    optimizer(
        patch,
        "sgd_nesterov",
        lambda lr, groups, momentum, decay: paddle.optimizer.Momentum(lr, momentum, groups),
    )


@bug(
    "05",
    "weight decay on batch norm",
    ["of norms 0.0", "weight decay features.0.1.weight 0.01 | 0.0"],
    "some tenths of a per cent of accuracy",
    "one weight decay for all parameters",
    "weight_decay_groups(model, decay, norm_weight_decay=0.0)",
    "https://arxiv.org/abs/1812.01187",
)
def _(patch):
    groups = paddle_mv3.weight_decay_groups
    patch(
        paddle_mv3,
        "weight_decay_groups",
        lambda net, decay, norm, bias: groups(net, decay, None, bias),
    )


@bug(
    "05",
    "shifts of batch norm not counted as biases",
    ["of biases 0.0", "weight decay features.0.1.bias 0.01 | 0.0"],
    "--bias-weight-decay does less than it should",
    "biases of convolutions and linear layers only",
    "all parameters named bias",
)
def _(patch):
    def weight_decay_groups(net, decay, norm=None, bias=None):
        groups = {}
        for layer in net.sublayers():
            for name, parameter in layer._parameters.items():
                if parameter is None or parameter.stop_gradient:
                    continue
                is_norm = isinstance(layer, nn.BatchNorm2D)
                own = norm if is_norm else bias if name == "bias" else None
                groups.setdefault(decay if own is None else own, []).append(parameter)
        return [{"params": params, "weight_decay": float(d)} for d, params in groups.items()]

    patch(paddle_mv3, "weight_decay_groups", weight_decay_groups)


def schedule(patch, **changed):
    class Changed(paddle_mv3.WarmupSchedule):
        pass

    for name, value in changed.items():
        setattr(Changed, name, value)
    patch(paddle_mv3, "WarmupSchedule", Changed)


@bug(
    "05",
    "warm-up from 0",
    ["with linear warm-up, epoch 0, learning rate 0.0 | 0.00064"],
    "the first epoch learns nothing",
    "paddle.optimizer.lr.LinearWarmup starts at start_lr=0",
    "start at lr * lr_warmup_decay",
    API + "optimizer/lr/LinearWarmup_en.html",
)
def _(patch):
    schedule(patch, _warm_up=lambda self, _, epoch: self.base_lr * epoch / self.warmup_epochs)


@bug(
    "05",
    "a cosine over all epochs, warm-up included",
    ["cosineannealinglr with linear warm-up, epoch"],
    "the learning rate does not reach its minimum",
    "T_max is the number of epochs after warm-up",
    "T_max=epochs - lr_warmup_epochs",
    API + "optimizer/lr/CosineAnnealingDecay_en.html",
)
def _(patch):
    init = paddle_mv3.WarmupSchedule.__init__

    def changed(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.decay_epochs += self.warmup_epochs

    schedule(patch, __init__=changed)


@bug(
    "05",
    "steps counted from the end of warm-up as from the start",
    ["steplr with linear warm-up, epoch 6, learning rate"],
    "the learning rate falls in the wrong epoch",
    "SequentialLR starts the second schedule at its own epoch 0",
    "epoch - lr_warmup_epochs",
    "https://pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.SequentialLR.html",
)
def _(patch):
    following = paddle_mv3.WarmupSchedule._next

    def _next(self, epoch):
        after_warmup = epoch > self.warmup_epochs > 0 and self.lr_scheduler == "steplr"
        if not after_warmup:
            return following(self, epoch)
        return self._rates[-1] * (1 if epoch % self.lr_step_size else self.lr_gamma)

    schedule(patch, _next=_next)


@bug(
    "05",
    "each gradient clipped by its own norm",
    ["clipped to the norm 1, clipped gradient"],
    "gradients change direction",
    "paddle.nn.ClipGradByNorm is for each tensor by itself",
    "clip_grad_norm_, or ClipGradByGlobalNorm without groups",
    API + "nn/ClipGradByNorm_en.html",
)
def _(patch):
    clip = paddle_mv3.clip_grad_norm_
    patch(paddle_mv3, "clip_grad_norm_", lambda tensors, norm: [clip([x], norm) for x in tensors])


@bug(
    "05",
    "running statistics left out of the moving average",
    ["moving average", "._mean"],
    "the averaged model is worse than the last one in eval mode",
    "named_parameters() of a port that keeps statistics as buffers",
    "average all of state_dict()",
)
def _(patch):
    class WithoutStatistics(paddle_mv3.ExponentialMovingAverage):
        def update(self, net):
            kept = {n: x.numpy() for n, x in self.module.state_dict().items() if "._" in n}
            super().update(net)
            for name, tensor in self.module.state_dict().items():
                if name in kept:
                    tensor.set_value(kept[name])

    patch(paddle_mv3, "ExponentialMovingAverage", WithoutStatistics)


@bug(
    "05",
    "moving average that begins at the initial weights",
    ["update 0, moving average"],
    "the average drags random weights along",
    "the first update has to copy, as each does during warm-up",
    "copy while n_averaged is 0",
    "https://pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema",
)
def _(patch):
    class NeverCopies(paddle_mv3.ExponentialMovingAverage):
        def update(self, net):
            self.n_averaged = max(1, self.n_averaged)
            super().update(net)

    patch(paddle_mv3, "ExponentialMovingAverage", NeverCopies)


@bug(
    "05",
    "decay of the moving average not adjusted",
    ["decay 0.9999, batch 128, 8 ranks", "moving average 0.9999 | "],
    "the average lags behind by many epochs",
    "the flag's decay is for one image and epoch, not for one update",
    "1 - min(1, (1 - decay) * world_size * batch_size * steps / epochs)",
)
def _(patch):
    patch(paddle_mv3, "adjusted_decay", lambda decay, *rest: decay)


@bug(
    "05",
    "RMSprop's alpha left at Paddle's default",
    ["optimizer rmsprop, step 0, update", "rho 0.95 | alpha 0.9"],
    "updates too large",
    "PyTorch's alpha is Paddle's rho, and each has a default of its own",
    "rho=0.9",
    API + "optimizer/RMSProp_en.html",
)
def _(patch):
    optimizer(
        patch,
        "rmsprop",
        lambda lr, groups, momentum, decay: paddle_mv3.RMSProp(
            lr,
            rho=0.95,
            epsilon=0.0316,
            momentum=momentum,
            parameters=groups,
            weight_decay=decay,
        ),
    )


@bug(
    "05",
    "scales and shifts of batch norm in no parameter group",
    ["68 parameters are in no group: never updated"],
    "they keep their initial values",
    "groups were made for convolutions and linear layers only",
    "each parameter in one group",
)
def _(patch):
    groups = paddle_mv3.weight_decay_groups

    def without_norms(net, *decays):
        norms = {
            id(parameter)
            for layer in net.sublayers()
            if isinstance(layer, nn.BatchNorm2D)
            for parameter in layer.parameters()
        }
        return [
            {**group, "params": [p for p in group["params"] if id(p) not in norms]}
            for group in groups(net, *decays)
        ]

    patch(paddle_mv3, "weight_decay_groups", without_norms)


# --- training data ---------------------------------------------------------------------------


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
    "none while both signs are drawn; other images for the same draws",
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
    ["num_magnitude_bins: 30 | 31", "Drawn otherwise: policy"],
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
    ["Drawn otherwise: policy ra"],
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
    ["Drawn otherwise: policy", "| "],
    "images turned and shifted to one side only",
    "the sign is drawn apart from the magnitude, and was left out",
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
    ["Drawn otherwise: policy imagenet"],
    "augmentation too strong",
    "each operation of a sub-policy has a probability of its own",
    "draw for each",
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
    ["Drawn otherwise: policy augmix"],
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
    ["Drawn otherwise: crop", "area of the crop"],
    "objects too large",
    "scale is a range of areas",
    "draw the area, take the root",
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
    ["Drawn otherwise: crop", "aspect ratio of the crop"],
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
    ["Drawn otherwise: crop of a", "box"],
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
    "none in the mean; other images for the same draws",
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
    ["mixup, its images"],
    "none in the mean; other batches for the same draws",
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
    ["Drawn otherwise: mixup and CutMix", "lambda plus the box's share"],
    "labels off for boxes at the rim",
    "a box at the rim is smaller than was drawn",
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
    ["CutMix, its images"],
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


# --- samplers --------------------------------------------------------------------------------


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
    ["images would be augmented as they were then"],
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
    "random numbers that depend on the order of the images",
    ["ImageFolder: images are others with the same draws"],
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
    ["Drawn otherwise", "with flip"],
    "flips and crops are distributed as they should be, each by itself",
    "a draw that was used twice",
    "a draw for each",
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
    ["Drawn otherwise", "area of the crop"],
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
    "a draw for each copy",
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
    ["RASampler", "they would be augmented alike"],
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


# --- training: Checkpoint6/train.py, found by Checkpoint6/align_training.py --------------------

TRAIN = "https://github.com/pytorch/vision/blob/main/references/classification/train.py"


def each_step(patch, change):
    """Lets `change(trainer, step)` stand for Trainer.step; `step()` takes the step as it was."""
    original = trainer.Trainer.step

    def step(self, images, labels):
        return change(self, lambda: original(self, images, labels))

    patch(trainer.Trainer, "step", step)


@bug(
    "06",
    "schedule stepped after each batch",
    ["step 1", "learning rate"],
    "the rate has decayed after one epoch",
    "torchvision's schedules count epochs; Paddle's examples step them in the loop over batches",
    "once for each epoch",
    TRAIN,
)
def _(patch):
    def change(self, step):
        result = step()
        self.schedule.step()
        return result

    each_step(patch, change)


@bug(
    "06",
    "schedule stepped before the epoch that it is for",
    ["step 0", "learning rate"],
    "each epoch has the next one's rate: no first epoch of warm-up",
    "step() at the beginning of the loop over epochs",
    "step() at its end, or step(epoch)",
    TRAIN,
)
def _(patch):
    step = paddle_mv3.WarmupSchedule.step
    patch(
        paddle_mv3.WarmupSchedule,
        "step",
        lambda self, epoch=None: step(self, None if epoch is None else epoch + 1),
    )


@bug(
    "06",
    "moving average of the weights before the update",
    ["moving average"],
    "the average lags by a step; nothing else shows",
    "update() called before optimizer.step()",
    "update() after it",
    TRAIN,
)
def _(patch):
    def change(self, step):
        average, self.model_ema = self.model_ema, None
        if average and self.iteration % self.args.model_ema_steps == 0:
            average.update(self.model)
            if self.epoch < self.args.lr_warmup_epochs:
                average.n_averaged = 0
        result = step()
        self.model_ema = average
        return result

    each_step(patch, change)


@bug(
    "06",
    "moving average without the running statistics",
    ["moving average", "_mean"],
    "the average evaluates with the statistics of the first step",
    "parameters() in place of state_dict()",
    "average the running statistics as well (use_buffers=True)",
    TRAIN,
)
def _(patch):
    update = paddle_mv3.ExponentialMovingAverage.update

    def without(self, model):
        kept = {n: t.clone() for n, t in self.module.state_dict().items() if t.stop_gradient}
        update(self, model)
        for name, tensor in self.module.state_dict().items():
            if name in kept:
                paddle.assign(kept[name], tensor)

    patch(paddle_mv3.ExponentialMovingAverage, "update", without)


@bug(
    "06",
    "moving average updated at each step",
    ["moving average", "updates"],
    "the average reaches back a thirtieth as far",
    "--model-ema-steps was overlooked",
    "every --model-ema-steps steps",
    TRAIN,
)
def _(patch):
    def change(self, step):
        late = self.iteration % self.args.model_ema_steps
        result = step()
        if late:
            self.model_ema.update(self.model)
        return result

    each_step(patch, change)


@bug(
    "06",
    "moving average that counts during warm-up",
    ["moving average", "1 updates | 0"],
    "the average holds on to the first weights",
    "its count is not set back in warm-up",
    "n_averaged = 0 while epoch < lr_warmup_epochs",
    TRAIN,
)
def _(patch):
    def change(self, step):
        updates = self.model_ema.n_averaged + (self.iteration % self.args.model_ema_steps == 0)
        result = step()
        self.model_ema.n_averaged = updates
        return result

    each_step(patch, change)


@bug(
    "06",
    "decay of the moving average not adjusted to batch size and epochs",
    ["moving average"],
    "the average of a short training is that of its first weights",
    "--model-ema-decay used as it stands",
    "1 - (1 - decay) * images of an update / epochs",
    TRAIN,
)
def _(patch):
    patch(paddle_mv3, "adjusted_decay", lambda decay, *_: decay)


@bug(
    "06",
    "weight decay of batch norm in spite of --norm-weight-decay 0",
    ["weight decay of features.0.1.weight", "1e-05 | 0.0", "update"],
    "a little less accuracy",
    "model.parameters() given to the optimizer in place of groups",
    "groups by kind of layer",
    TRAIN,
)
def _(patch):
    groups = paddle_mv3.weight_decay_groups
    patch(paddle_mv3, "weight_decay_groups", lambda model, decay, *_: groups(model, decay))


@bug(
    "06",
    "gradients that are not cleared",
    ["step 1", "gradient"],
    "the loss rises after the first step",
    "clear_grad() is missing; PyTorch's name is zero_grad()",
    "optimizer.clear_grad() in each step",
    API + "optimizer/Optimizer_en.html",
)
def _(patch):
    patch(paddle.optimizer.Optimizer, "clear_grad", lambda self, *_: None)
    patch(paddle_mv3.RMSProp, "clear_grad", lambda self, *_: None)


@bug(
    "06",
    "gradients clipped before they are unscaled",
    ["gradient"],
    "in mixed precision, gradients all but vanish",
    "scaler.unscale_() is missing, so the norm is 65536 times too large",
    "scaler.unscale_(optimizer), then clip, then scaler.step",
    "https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping",
)
def _(patch):
    patch(paddle.amp.GradScaler, "unscale_", lambda self, optimizer: None)


@bug(
    "06",
    "each gradient clipped alone, in the trainer",
    ["gradient"],
    "large layers learn slower",
    "clip_by_norm for each tensor in place of one norm over all",
    "clip_grad_norm_",
    API + "nn/utils/clip_grad_norm__en.html",
)
def _(patch):
    clip = paddle_mv3.clip_grad_norm_
    patch(
        paddle_mv3,
        "clip_grad_norm_",
        lambda parameters, norm: [clip([p], norm / 10) for p in parameters if p.grad is not None],
    )


@bug(
    "06",
    "a step that overflowed is taken",
    ["step 2", "update"],
    "in mixed precision, NaN after some steps",
    "optimizer.step() in place of scaler.step(optimizer)",
    "scaler.step(optimizer); scaler.update()",
    API + "amp/GradScaler_en.html",
)
def _(patch):
    patch(paddle.amp.GradScaler, "step", lambda self, optimizer: optimizer.step())


@bug(
    "06",
    "loss scale that waits for a second overflow",
    ["step 2", "loss scale", "65536.0 | 32768.0"],
    "in mixed precision, more steps are left out",
    "decr_every_n_nan_or_inf=2, a default of older Paddle",
    "decr_every_n_nan_or_inf=1, as PyTorch",
    API + "amp/GradScaler_en.html",
)
def _(patch):
    scaler = paddle.amp.GradScaler

    def patient(**settings):
        return scaler(**{**settings, "decr_every_n_nan_or_inf": 2})

    patch(paddle.amp, "GradScaler", patient)


@bug(
    "06",
    "images in the same order in each epoch",
    ["order", "in epoch 0 |", "set_epoch"],
    "less accuracy, and overfitting",
    "batch_sampler.set_epoch(epoch) is missing",
    "set_epoch at the beginning of each epoch",
    API + "io/DistributedBatchSampler_en.html",
)
def _(patch):
    set_epoch = paddle_mv3.BatchSampler.set_epoch
    patch(
        paddle_mv3.BatchSampler,
        "set_epoch",
        lambda self, epoch, start=0: set_epoch(self, 0, start),
    )


@bug(
    "06",
    "the same augmentation in every worker",
    ["images", "something else is in the generator's seed"],
    "pairs of images share their crops, flips and policies",
    "workers are forked with one and the same NumPy state",
    "a generator for each image",
    "https://tanelp.github.io/posts/a-bug-that-plagues-thousands-of-open-source-ml-projects/",
)
def _(patch):
    shared = np.random.default_rng(0)

    def getitem(self, key):
        path, target = self.samples[paddle_mv3.data.sampler.as_draw(key).index]
        return self.transform(self.loader(path), shared), target

    patch(dataset.ImageFolder, "__getitem__", getitem)


@bug(
    "06",
    "an image augmented alike in all epochs of a training",
    ["images", "epoch: it is not in the generator's seed"],
    "an image looks the same in all epochs: overfitting",
    "the generator's seed lacks the epoch",
    "the generator's seed includes the epoch",
)
def _(patch):
    generator = dataset.generator
    patch(
        dataset,
        "generator",
        lambda seed, draw, purpose: generator(seed, draw._replace(epoch=0), purpose),
    )


@bug(
    "06",
    "evaluation on augmented images",
    ["evaluation", "the images"],
    "accuracy of evaluation lower, and another each time",
    "the transforms of training for both data sets",
    "resize and centre crop for evaluation",
    TRAIN,
)
def _(patch):
    original = train.evaluation_data

    def evaluation_data(args, rank, world_size):
        loader, data = original(args, rank, world_size)
        data.transform = paddle_mv3.ClassificationPresetTrain(args.val_crop_size, normalize=False)
        return loader, data

    patch(train, "evaluation_data", evaluation_data)


@bug(
    "06",
    "evaluation in train mode",
    ["evaluation", "model in train mode | in eval mode"],
    "accuracy depends on the batch, and evaluation moves the running statistics",
    "model.eval() is missing",
    "model.eval() before, model.train() after",
    API + "nn/Layer_en.html",
)
def _(patch):
    patch(model.MobileNetV3, "eval", lambda self: None)


@bug(
    "06",
    "training in eval mode after the first evaluation",
    ["step 2, epoch 1, iteration 0", "dropout"],
    "learns in the first epoch only",
    "model.train() once, before the loop over epochs",
    "model.train() in each epoch",
    API + "nn/Layer_en.html",
)
def _(patch):
    once = model.MobileNetV3.train

    def train_once(self):
        if not getattr(self, "was_trained", False):
            self.was_trained = True
            once(self)

    patch(model.MobileNetV3, "train", train_once)


@bug(
    "06",
    "last batch of an epoch left out of the training",
    ["step 1", "loop", "epoch and val"],
    "some images are not seen in an epoch; fewer steps",
    "drop_last=True copied from an example",
    "drop_last=False",
    API + "io/BatchSampler_en.html",
)
def _(patch):
    init = paddle_mv3.BatchSampler.__init__
    patch(
        paddle_mv3.BatchSampler,
        "__init__",
        lambda self, sampler, batch_size: init(self, sampler, batch_size, drop_last=True),
    )


@bug(
    "06",
    "last batch left out of the evaluation",
    ["evaluation", "48 images | 54"],
    "accuracy of fewer images",
    "drop_last=True copied from the loader of training",
    "all images of evaluation count",
    API + "io/BatchSampler_en.html",
)
def _(patch):
    batches = paddle_mv3.EvalBatchSampler.__iter__
    patch(
        paddle_mv3.EvalBatchSampler,
        "__iter__",
        lambda self: (batch for batch in batches(self) if len(batch) == self.batch_size),
    )


@bug(
    "06",
    "mixup's labels of another pair of images",
    ["labels", "label 0"],
    "mixing does harm in place of good",
    "images mixed with the one before, labels with the one after",
    "one permutation for both",
    "https://arxiv.org/abs/1710.09412",
)
def _(patch):
    def soft_labels(self, labels, lam):
        own = np.eye(self.num_classes, dtype=np.float32)[labels]
        return own * np.float32(lam) + np.roll(own, -1, axis=0) * np.float32(1 - lam)

    patch(mixup._Mix, "soft_labels", soft_labels)


@bug(
    "06",
    "checkpoint without the optimizer's state",
    ["going on from a checkpoint", "update", "what does the checkpoint leave out?"],
    "a kink in the loss after each resume",
    "only the model's state_dict is saved",
    "save and load optimizer.state_dict() too",
    API + "optimizer/Optimizer_en.html",
)
def _(patch):
    patch(checkpoint, "load_optimizer", lambda optimizer, model, state: None)


@bug(
    "06",
    "checkpoint without the schedule",
    ["going on from a checkpoint", "learning rate"],
    "the rate starts anew after each resume",
    "a schedule that counts by itself, and is not saved",
    "save and load the schedule's state, or step(epoch)",
    API + "optimizer/lr/LRScheduler_en.html",
)
def _(patch):
    step = paddle_mv3.WarmupSchedule.step

    def count(self, epoch=None):
        if epoch != 0 and epoch != getattr(self, "newest", -1):
            step(self)
        self.newest = epoch

    patch(paddle_mv3.WarmupSchedule, "step", count)
    patch(paddle_mv3.WarmupSchedule, "set_state_dict", lambda self, state: None)


@bug(
    "06",
    "checkpoint without the moving average",
    ["going on from a checkpoint", "between steps", "average"],
    "the average begins anew after each resume",
    "its weights and count are not in the checkpoint",
    "save and load them",
    TRAIN,
)
def _(patch):
    load = checkpoint.load_model

    def load_model(network, arrays, path):
        if network.training:  # the average is in eval mode
            load(network, arrays, path)

    patch(checkpoint, "load_model", load_model)


@bug(
    "06",
    "checkpoint without the gradient scaler",
    ["going on from a checkpoint", "loss scale", "65536.0 | 32768.0"],
    "in mixed precision, overflows after each resume",
    "scaler.state_dict() is not saved",
    "save and load it",
    API + "amp/GradScaler_en.html",
)
def _(patch):
    patch(paddle.amp.GradScaler, "load_state_dict", lambda self, state: None)


@bug(
    "06",
    "loss of an epoch as the mean over batches",
    ["log", "epoch"],
    "logs that are not the reference's, where the last batch is smaller",
    "sum of losses divided by the number of batches",
    "each image counts once",
    TRAIN,
)
def _(patch):
    add = trainer.Window.add
    patch(
        trainer.Window,
        "add",
        lambda self, loss, hits, images: add(self, loss, hits.astype("float64") / images, 1),
    )


@bug(
    "06",
    "the same dropout mask in each step",
    ["step 1", "dropout", "an earlier step's"],
    "dropout thins the network out once and for all",
    "a constant seed set in each step, for reproducible steps",
    "a seed of epoch and iteration",
)
def _(patch):
    patch(paddle_mv3, "step_seed", lambda *_: 0)


@bug(
    "06",
    "gradients clipped in mixed precision only",
    ["step 1", "gradient norm"],
    "without --amp, a step that is far too large now and then",
    "clipping moved into the branch that unscales",
    "clip in both branches",
    TRAIN,
)
def _(patch):
    clip = paddle_mv3.clip_grad_norm_

    def change(self, step):
        patch(paddle_mv3, "clip_grad_norm_", clip if self.scaler else lambda *_: None)
        return step()

    each_step(patch, change)


@bug(
    "06",
    "evaluation cropped as training is",
    ["evaluation", "images of shape (3, 64, 64) | (3, 56, 56)"],
    "accuracy at another resolution than the recipe's",
    "--train-crop-size for both data sets",
    "--val-crop-size for evaluation",
    TRAIN,
)
def _(patch):
    original = train.evaluation_data

    def evaluation_data(args, rank, world_size):
        changed = {**vars(args), "val_crop_size": args.train_crop_size}
        return original(type(args)(**changed), rank, world_size)

    patch(train, "evaluation_data", evaluation_data)


@bug(
    "06",
    "moving average that goes on from the model after a stop",
    ["going on from a checkpoint", "between steps", "average"],
    "the average forgets at each resume",
    "the average is made anew of the loaded model; its count is loaded",
    "save and load its weights",
    TRAIN,
)
def _(patch):
    load = trainer.Trainer.set_state_dict

    def set_state_dict(self, state, path):
        load(self, state, path)
        self.model_ema.module.set_state_dict(self.model.state_dict())

    patch(trainer.Trainer, "set_state_dict", set_state_dict)


@bug(
    "06",
    "accuracy recorded as a share of 1",
    ["the end", "evaluation", "recorded top1"],
    "a hundredth of the reference's result",
    "what a metric returns, as it stands",
    "per cent, as torchvision",
    TRAIN,
)
def _(patch):
    evaluate = train.evaluate
    patch(train, "evaluate", lambda *args: evaluate(*args) / 100)


@bug(
    "06",
    "schedule stepped between the backward pass and the optimizer's step",
    ["step 0", "learning rate in use", "when the schedule is stepped"],
    "each step is taken with the rate of the next",
    "scheduler.step() stands before optimizer.step()",
    "optimizer.step(), then scheduler.step()",
    TRAIN,
)
def _(patch):
    compute = trainer.Trainer.loss

    def loss(self, output, labels):
        if self.model.training:
            self.schedule.step(self.epoch + 1)
        return compute(self, output, labels)

    patch(trainer.Trainer, "loss", loss)


@bug(
    "06",
    "the second worker's images augmented otherwise",
    ["images", "Batch 1: the loader's image is not the one that the data set gives"],
    "a run with another number of workers is another run",
    "the seed of the generator includes the worker",
    "a generator for each image",
)
def _(patch):
    get = dataset.ImageFolder.__getitem__

    def getitem(self, key):
        worker = paddle.io.get_worker_info()
        draw = paddle_mv3.data.sampler.as_draw(key)
        if worker is not None and worker.id == 1:
            draw = draw._replace(repetition=draw.repetition + 7)
        return get(self, draw)

    patch(dataset.ImageFolder, "__getitem__", getitem)


# --- training in two processes -----------------------------------------------------------------

PARALLEL = API + "DataParallel_en.html"


@bug(
    "06, two processes",
    "loss multiplied by the number of processes",
    ["2 processes and one", "gradient", "2 times"],
    "diverges on several GPUs",
    "the loss was scaled to make up for an average that the loss has already",
    "the mean of each process's own images; DataParallel takes the mean of these",
    PARALLEL,
)
def _(patch):
    loss = trainer.Trainer.loss
    patch(
        trainer.Trainer,
        "loss",
        lambda self, output, labels: loss(self, output, labels) * self.world_size,
    )


@bug(
    "06, two processes",
    "gradients not shared between processes",
    ["2 processes and one, step 0", "gradient"],
    "each process trains a model of its own",
    "the model is not put into DataParallel",
    "paddle.DataParallel(model)",
    PARALLEL,
)
def _(patch):
    patch(trainer.Trainer, "parallel", lambda self: None)


@bug(
    "06, two processes",
    "all processes train on the same images",
    ["2 processes and one, step 0", "order", "images of their own"],
    "several GPUs learn no faster than one",
    "paddle.io.BatchSampler in place of DistributedBatchSampler",
    "each rank its share",
    API + "io/DistributedBatchSampler_en.html",
)
def _(patch):
    original = paddle_mv3.DistributedSampler.__iter__

    def iterate(self):
        rank, self.rank = self.rank, 0
        yield from original(self)
        self.rank = rank

    patch(paddle_mv3.DistributedSampler, "__iter__", iterate)


@bug(
    "06, two processes",
    "--sync-bn without effect",
    ["2 processes and one, step 0", "gradient"],
    "with few images in a process, less accuracy than the reference",
    "layers are converted in a copy that is not used",
    "use what convert_sync_batchnorm returns",
    API + "nn/SyncBatchNorm_en.html",
)
def _(patch):
    patch(paddle_mv3, "synchronize_batch_norm", lambda network: network)


@bug(
    "06, two processes",
    "accuracy of rank 0's share of the images",
    ["evaluation", "val"],
    "accuracy differs from that of one process",
    "counts are not added up over ranks",
    "all_reduce of the counts",
    PARALLEL,
)
def _(patch):
    evaluate = paddle_mv3.evaluate
    patch(
        paddle_mv3,
        "evaluate",
        lambda *args, sharded=False: evaluate(*args),
    )


@bug(
    "06, two processes",
    "loss of rank 0 in the logs",
    ["log", "train loss"],
    "noisier logs than the reference's",
    "the loss is not averaged over ranks",
    "all_reduce before it is written",
    PARALLEL,
)
def _(patch):
    patch(trainer.distributed, "sum_over_ranks", lambda array, world_size: array)


@bug(
    "06, two processes",
    "the same dropout masks in all processes",
    ["ranks", "dropout masks of their own"],
    "a little less regularisation",
    "one seed on all ranks",
    "a seed of the rank as well",
    TRAIN,
)
def _(patch):
    seed = paddle_mv3.step_seed
    patch(paddle_mv3, "step_seed", lambda *place: seed(*place[:3]))


@bug(
    "06, two processes",
    "images that cannot be shared evenly left out",
    ["2 processes and PyTorch's 2", "images of rank"],
    "an epoch has fewer images than the reference's",
    "drop_last=True of the sampler",
    "fill up from the beginning of the order",
    API + "io/DistributedBatchSampler_en.html",
)
def _(patch):
    init = paddle_mv3.DistributedSampler.__init__
    patch(
        paddle_mv3.DistributedSampler,
        "__init__",
        lambda self, dataset, **share: init(self, dataset, **share, drop_last=True),
    )


@bug(
    "06, two processes",
    "decay of the moving average without the number of processes",
    ["moving average", "The mistake is in the moving average"],
    "the average reaches back further than the reference's",
    "images of one process in place of all",
    "adjusted_decay(…, world_size, …)",
    TRAIN,
)
def _(patch):
    adjusted = paddle_mv3.adjusted_decay
    patch(
        paddle_mv3,
        "adjusted_decay",
        lambda decay, batch_size, world_size, *rest: adjusted(decay, batch_size, 1, *rest),
    )


def document():
    """docs/porting_bugs.md, from the table above."""
    lines = [
        "# Porting bugs, and the step that finds each",
        "",
        "Made by `python tests/porting_bugs/bugs.py > docs/porting_bugs.md`. "
        "`make test` makes these",
        f"{len(BUGS)} bugs in the port, one at a time, and asserts that the step named turns red "
        "and says what is",
        "in the column *named*; those of 06, which is `Checkpoint6/align_training.py`, with",
        '`ARGS="-m slow"`. An unchanged port is green.',
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
