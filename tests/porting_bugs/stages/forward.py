"""Bugs that 01_test_forward.py finds: the network, its weights, its initialisation."""

from functools import partial

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

import paddle_mv3
from paddle_mv3 import model

from . import API, bug, built, convolved, topic

topic("structure")


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


def conv2d(patch, change):
    """Patches the arguments (a dict) of those convolutions that `change` wants changed."""

    class Conv2D(nn.Conv2D):
        def __init__(self, in_channels, out_channels, kernel_size, **arguments):
            arguments = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **arguments}
            arguments["kernel_size"] = kernel_size
            change(arguments)
            super().__init__(in_channels, out_channels, **arguments)

    patch(nn, "Conv2D", Conv2D)


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


topic("normalisation")


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


topic("conversion of weights")


def converted(patch, change):
    """Calls `change(state)` on the arrays that a model is loaded with."""
    load = nn.Layer.set_state_dict

    def set_state_dict(self, state, *args, **kwargs):
        state = {name: np.array(value) for name, value in state.items()}
        change(state)
        return load(self, state, *args, **kwargs)

    patch(nn.Layer, "set_state_dict", set_state_dict)


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


topic("parameters")


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


topic("recipe")


@bug(
    "01",
    "Paddle's own initialisation left",
    ["initialised differently: features.0.0.weight"],
    "every check with loaded weights passes; training starts elsewhere",
    "Paddle's layers start from other distributions than PyTorch's, and torchvision sets its own",
    "Kaiming normal, fan-out, for convolutions; N(0, 0.01) for linear layers",
    API + "nn/Conv2D_en.html",
)
def _(patch):
    patch(model.MobileNetV3, "reset_parameters", lambda self: None)


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
    "fan-in for fan-out",
    ["initialised differently: features.0.0.weight: standard deviation"],
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
    ["initialised differently: features.1.block.0.0.weight: standard deviation"],
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
    ["initialised differently: features.", "Kolmogorov-Smirnov"],
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
    ["initialised differently: classifier.0.bias: constant"],
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
    ["with another seed the same values | other values"],
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


topic("structure")


@bug(
    "01",
    "dropout's argument without effect",
    ["variant that differs: mobilenet_v3_small(width_mult=0.45", "p 0.2 | 0.5"],
    "nothing shows until a recipe asks for another dropout",
    "a number written down where the argument belongs",
    "nn.Dropout(dropout)",
)
def _(patch):
    built(patch, lambda net: setattr(net.classifier[2], "p", 0.2))


@bug(
    "01",
    "a row of the large network's table",
    ["variant that differs: mobilenet_v3_large(num_classes=10)", "features.8.block.0.0.weight"],
    "the small network is right; weights of the large one do not fit",
    "184 and 200 were taken for one another in table 1",
    "200 in the eighth row",
    "https://arxiv.org/abs/1905.02244",
)
def _(patch):
    rows = list(model.LARGE)
    rows[7] = rows[7]._replace(expanded=184)
    # The functions that build the networks hold on to the list.
    patch(model, "LARGE", rows)


@bug(
    "01",
    "a number of channels that rounding hides",
    ["variant that differs: mobilenet_v3_small(width_mult=8)", "[1160, 384, 1, 1]"],
    "nothing, until somebody builds the network with another width",
    "145 was typed for 144: at width 1 both are rounded to 144",
    "the numbers of table 2; compare them at 8 times the width, where rounding changes nothing",
    "https://arxiv.org/abs/1905.02244",
)
def _(patch):
    rows = list(model.SMALL)
    rows[7] = rows[7]._replace(expanded=145)
    patch(model, "SMALL", rows)


@bug(
    "01",
    "channels rounded down by more than a tenth",
    ["variant that differs: mobilenet_v3_large(num_classes=10)", "features.4.block.2.fc1.weight"],
    "the small network is right; the large one, and other widths, have other shapes",
    "the last rule of the rounding was left out",
    "one step up where rounding loses over 10 %",
    "https://github.com/tensorflow/models/tree/master/research/slim/nets/mobilenet",
)
def _(patch):
    patch(model, "make_divisible", lambda c, d=8: max(d, int(c + d / 2) // d * d))


@bug(
    "01",
    "stride kept in the dilated network",
    ["variant that differs: mobilenet_v3_large(width_mult=0.25, num_classes=10, dilated=True)"],
    "features of half the resolution in a segmentation network",
    "dilation takes the place of the stride",
    "stride 1 where a block is dilated",
    "https://arxiv.org/abs/1706.05587",
)
def _(patch):
    init = model.ConvNormActivation.__init__

    def strided(self, in_channels, out_channels, kernel, stride=1, dilation=1, **rest):
        stride = 2 if dilation > 1 else stride
        init(self, in_channels, out_channels, kernel, stride=stride, dilation=dilation, **rest)

    patch(model.ConvNormActivation, "__init__", strided)


topic("normalisation")


@bug(
    "01",
    "batch norm's scale without its sign",
    ["variant that differs: mobilenet_v3_large(num_classes=10): logits differ", "features.0.1"],
    "a trained network loses accuracy, a random one agrees",
    "a scale that was fused as a square root, or clipped at 0",
    "the scale as it is",
)
def _(patch):
    forward = model.BatchNorm2D.forward

    def positive(self, x):
        weight = self.weight.clone()
        with paddle.no_grad():
            paddle.assign(weight.abs(), self.weight)
        y = forward(self, x)
        with paddle.no_grad():
            paddle.assign(weight, self.weight)
        return y

    patch(model.BatchNorm2D, "forward", positive)


@bug(
    "01",
    "small running variances raised to 1e-4",
    ["variant that differs: mobilenet_v3_large(num_classes=10): logits differ", "features.0.1"],
    "channels that hardly vary come out too small",
    "a guard against division by 0, beside epsilon",
    "epsilon alone",
)
def _(patch):
    forward = model.BatchNorm2D.forward

    def guarded(self, x):
        if not self.training:
            with paddle.no_grad():
                paddle.assign(self._variance.clip(min=1e-4), self._variance)
        return forward(self, x)

    patch(model.BatchNorm2D, "forward", guarded)
