"""Why paddle.vision.models differ from torchvision's: causes, where they stand, what removes them.

Read by paddle_vision.py, which looks for these causes in what the engine reports, and writes them
down. Places are looked up in the source of the installed packages, so a line number is that of the
version that was compared; of a line that is no longer there, `place` raises.
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from paddle import nn
from paddle.nn import functional as F
from paddle.vision import models, ops
from torchvision import models as reference_models

from paddle_mv3.norm import BatchNorm2D

# The name of the module is that of a function, too.
GOOGLENET = importlib.import_module("paddle.vision.models.googlenet")
REFERENCE_GOOGLENET = importlib.import_module("torchvision.models.googlenet")


@dataclass(frozen=True)
class Place:
    """A line of an installed package: "paddle/vision/models/alexnet.py:145", its code."""

    where: str
    code: str


def place(thing, text, after=""):
    """The first line of the source of a function, class or module that holds `text`.

    Args:
        after: begin behind the first line that holds this.
    """
    thing = inspect.unwrap(thing)
    lines, first = inspect.getsourcelines(thing)
    first = max(first, 1)  # of a module it is 0
    start = 0
    if after:
        start = next(i for i, line in enumerate(lines) if after in line) + 1
    for i, line in enumerate(lines[start:], start):
        if text in line:
            path = Path(inspect.getsourcefile(thing))
            package = Path(sys.modules[thing.__module__.partition(".")[0]].__file__).parent
            where = path.relative_to(package.parent).as_posix()
            return Place(f"{where}:{first + i}", line.strip())
    raise LookupError(f"{thing.__qualname__} holds no {text!r} (after {after!r})")


@dataclass(frozen=True)
class Cause:
    """A difference between the two libraries.

    Attributes:
        name: of its section.
        title: the finding in one line.
        what: what it is and what it does, in sentences.
        places: () -> [Place] of both libraries.
        reproduction: Python that prints both sides.
        proposal: what would remove it.
        explains: (alignment Finding) -> whether this is the cause of it; None: of nothing that
            `check` reports with its default checks.
        cure: (paddle model) -> None; changes the model in place.
        mended: what the cure does, for a table.
        arguments: of the reference, where it is the reference that has to be made otherwise.
    """

    name: str
    title: str
    what: str
    places: Callable
    reproduction: str
    proposal: str
    explains: Callable | None = None
    cure: Callable | None = None
    mended: str = ""
    arguments: dict = field(default_factory=dict)

    @property
    def is_cured(self):
        return self.cure is not None or bool(self.arguments)


def setting(name):
    """Whether a Finding is of a layer in which this setting differs.

    Where the shapes of what comes in differ, the settings are further lines of the Finding.
    """

    def explains(finding):
        text = f": {finding.where}: {name} "
        return finding.quantity == name or any(text in line for line in finding.detail)

    return explains


def replace_layers(model, kind, make):
    """Puts `make(layer)` in the place of each layer of exactly this class."""
    for parent in model.sublayers(include_self=True):
        for name, layer in list(parent.named_children()):
            if type(layer) is kind:
                setattr(parent, name, make(layer))


class ActivatedBatchNorm(BatchNorm2D):
    """paddle.nn.BatchNorm, which may end in an activation, with the unbiased running variance."""

    def __init__(self, layer):
        super().__init__(layer.weight.shape[0], layer._momentum, layer._epsilon)
        self.activation = layer._act

    def forward(self, x):
        y = super().forward(x)
        return getattr(F, self.activation)(y) if self.activation else y


class ExactHardsigmoid(nn.Layer):
    def forward(self, x):
        return F.relu6(x + 3) / 6


def keep_unbiased_variance(model):
    replace_layers(
        model,
        nn.BatchNorm2D,
        lambda norm: BatchNorm2D(norm._num_features, norm._momentum, norm._epsilon),
    )
    replace_layers(model, nn.BatchNorm, ActivatedBatchNorm)


def divide_by_six(model):
    replace_layers(model, nn.Hardsigmoid, lambda _: ExactHardsigmoid())


def scale_dropout_in_training(model):
    for layer in model.sublayers():
        if isinstance(layer, nn.Dropout):
            layer.mode = "upscale_in_train"


def drop_half(model):
    model.dropout.p = 0.5


def round_pools_up(model):
    model._pool.ceil_mode = True


def do_not_pad_first(model):
    model._conv = nn.Conv2D(3, 64, 3, stride=2)


def pool_to_six(model):
    model._conv5._pool = nn.Sequential(model._conv5._pool, nn.AdaptiveAvgPool2D((6, 6)))


def widen_second_stage(model):
    down, keep = models.shufflenetv2.InvertedResidualDS, models.shufflenetv2.InvertedResidual
    blocks = {
        "2_1": down(24, 244, 2),
        "2_2": keep(244, 244, 1),
        "2_3": keep(244, 244, 1),
        "2_4": keep(244, 244, 1),
        "3_1": down(244, 488, 2),
    }
    for name, block in blocks.items():
        model.add_sublayer(name, block)
    model._block_list[: len(blocks)] = blocks.values()


def use_epsilon_of_inception(model):
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer._epsilon = 0.001


CAUSES = [
    Cause(
        name="running-variance",
        title="Batch norm keeps the biased variance of the batch in `_variance` (CPU)",
        what="Both libraries normalise by the biased variance of the batch, which is divided by n, "
        "the number of values of a channel. Into the running variance PyTorch puts the unbiased "
        "one, divided by n - 1; so do Ioffe and Szegedy, algorithm 2. Paddle's CPU kernel puts the "
        "biased one. So in eval mode every network with batch norm that Paddle has trained "
        "divides by a variance that is too small, by one n-th of it. In a deep layer and a small "
        "batch that is much: a half for n = 2, an eighth for n = 8. The output in train mode and "
        "all gradients agree. Paddle's documentation gives the formula with the biased one. The "
        "kernel is C++, in `paddle/phi/kernels/cpu/batch_norm_kernel.cc`: it divides "
        "`saved_variance_e` by `N * sample_size` and adds that to `running_var_arr`. It is not in "
        "the wheel, so the lines below are those that call it. On a GPU it was not measured. A "
        "change was proposed in "
        "[Paddle#68159](https://github.com/PaddlePaddle/Paddle/pull/68159), which is closed.",
        places=lambda: [
            place(F.batch_norm, "_C_ops.batch_norm("),
            place(nn.BatchNorm.forward, "_C_ops.batch_norm("),
        ],
        reproduction="""
import numpy as np, paddle, torch
x = np.arange(8, dtype="float32").reshape(2, 1, 2, 2)
norm = paddle.nn.BatchNorm2D(1, momentum=0.0)  # all of the new variance
norm(paddle.to_tensor(x))
print("paddle", norm._variance.item())
norm = torch.nn.BatchNorm2d(1, momentum=1.0)
norm(torch.tensor(x))
print("torch ", norm.running_var.item(), "of n =", x.size)
""",
        proposal="In the kernel, multiply the batch's variance by n / (n - 1) where it goes into "
        "the running variance, and only there. In a model, a subclass of BatchNorm2D can do it: "
        "`paddle_mv3/norm.py`.",
        explains=lambda finding: "biased variance" in finding.hint,
        cure=keep_unbiased_variance,
        mended="a batch norm that keeps the unbiased variance",
    ),
    Cause(
        name="hardsigmoid",
        title="Hardsigmoid multiplies by 0.1666667 in place of dividing by 6",
        what="Hard sigmoid is relu6(x + 3) / 6. Paddle's default for the slope is 0.1666667, one "
        "sixth cut to seven digits, which is 2e-7 too large. A float32 test does not see it. In "
        "float64 it is all that is left between the two MobileNetV3 in the forward pass. "
        "`slope=1 / 6` helps by a factor of ten only, as the attribute is a float32.",
        places=lambda: [
            place(F.hardsigmoid, "slope: float"),
            place(models.mobilenetv3.InvertedResidual, "scale_activation=nn.Hardsigmoid"),
            place(reference_models.mobilenetv3.InvertedResidual.__init__, "nn.Hardsigmoid"),
        ],
        reproduction="""
import paddle, torch
x = [1.0]
print("paddle", paddle.nn.functional.hardsigmoid(paddle.to_tensor(x, dtype="float64")).item())
print("torch ", torch.nn.functional.hardsigmoid(torch.tensor(x, dtype=torch.float64)).item())
""",
        proposal="Compute relu6(x + 3) / 6 where slope and offset are the defaults, or hold the "
        "attribute as a double and make its default 1 / 6.",
        explains=lambda finding: "hardsigmoid" in finding.hint,
        cure=divide_by_six,
        mended="relu6(x + 3) / 6 for Hardsigmoid",
    ),
    Cause(
        name="dropout-mode",
        title='AlexNet, SqueezeNet, Inception V3: dropout with mode="downscale_in_infer"',
        what="These models do not scale in training what dropout keeps, and multiply by 1 - p in "
        "eval mode. torchvision's, and Paddle's own default, multiply by 1 / (1 - p) in training "
        "and do nothing in eval mode. Either is right for weights that were trained with it. With "
        "the other's weights, what goes into the next layer is off by the factor 1 - p: 0.5 in "
        "AlexNet and SqueezeNet. VGG and MobileNet of the same package use the default.",
        places=lambda: [
            place(models.AlexNet.__init__, "self._drop1"),
            place(models.AlexNet.__init__, "self._drop2"),
            place(models.SqueezeNet.__init__, "self._drop"),
            place(models.InceptionV3.__init__, "self.dropout"),
            place(reference_models.AlexNet.__init__, "nn.Dropout"),
        ],
        reproduction="""
import paddle, torch, torchvision
model, reference = paddle.vision.models.alexnet(), torchvision.models.alexnet(weights=None)
model.eval(), reference.eval()
print("paddle", model._drop1(paddle.ones([1, 2])).tolist())
print("torch ", reference.classifier[0](torch.ones(1, 2)).tolist())
""",
        proposal="Leave out the mode, and multiply the weight of the layer after each dropout by "
        "1 - p in the published weights: what comes out in eval mode stays the same.",
        explains=setting("scaling"),
        cure=scale_dropout_in_training,
        mended='mode="upscale_in_train"',
    ),
    Cause(
        name="dropout-rate",
        title="Inception V3: dropout of 0.2 in place of 0.5",
        what="torchvision drops half of what goes into the last layer, the port a fifth. Once the "
        "mode is the same, this differs in training alone.",
        places=lambda: [
            place(models.InceptionV3.__init__, "self.dropout"),
            place(reference_models.Inception3.__init__, "dropout: float"),
        ],
        reproduction="""
import paddle, torchvision
print("paddle", paddle.vision.models.inception_v3().dropout.p)
print("torch ", torchvision.models.inception_v3(weights=None, init_weights=False).dropout.p)
""",
        proposal="An argument for the rate, as torchvision has.",
        explains=setting("p"),
        cure=drop_half,
        mended="a rate of 0.5",
    ),
    Cause(
        name="inception-epsilon",
        title="Inception V3: epsilon of batch norm is 1e-5 in place of 0.001",
        what="All 94 batch norms of the port are `ConvNormActivation`'s default, whose epsilon is "
        "1e-5; torchvision's is 0.001. With weights of the other kind each channel of a small "
        "variance is scaled wrongly: one of a variance of 0.001 by the factor 1.4.",
        places=lambda: [
            place(models.inceptionv3.InceptionStem.__init__, "ConvNormActivation("),
            place(ops.ConvNormActivation.__init__, "norm_layer(out_channels)"),
            place(nn.BatchNorm2D.__mro__[1].__init__, "epsilon: float"),
            place(reference_models.inception.BasicConv2d.__init__, "eps="),
        ],
        reproduction="""
import paddle, torchvision
model = paddle.vision.models.inception_v3()
reference = torchvision.models.inception_v3(weights=None, init_weights=False)
print("paddle", model.inception_stem.conv_1a_3x3[1]._epsilon)
print("torch ", reference.Conv2d_1a_3x3.bn.eps)
""",
        proposal="`norm_layer=partial(nn.BatchNorm2D, epsilon=0.001)`, as `mobilenetv3.py` does, "
        "and published weights that were trained with it.",
        explains=setting("epsilon"),
        cure=use_epsilon_of_inception,
        mended="epsilon 0.001",
    ),
    Cause(
        name="inception-auxiliary",
        title="Inception V3: the auxiliary classifier is missing",
        what="The paper and torchvision have a second head on the 17x17 grid, whose loss is added "
        "in training. The port has none, nor an argument for it, so it cannot be trained as in the "
        "paper. In eval mode the head takes no part. To compare the rest, the "
        "reference is made with `aux_logits=False`.",
        places=lambda: [
            place(models.InceptionV3.__init__, "self.inception_block_list = "),
            place(reference_models.Inception3.__init__, "self.AuxLogits = inception_aux"),
        ],
        reproduction="""
import paddle, torchvision
model = paddle.vision.models.inception_v3()
reference = torchvision.models.inception_v3(weights=None, init_weights=False)
head = sum(p.numel() for p in reference.AuxLogits.parameters())
print("paddle", sum(p.size for p in model.parameters() if not p.stop_gradient))
print("torch ", sum(p.numel() for p in reference.parameters()), "of these in the head", head)
""",
        proposal="An argument `aux_logits`, which adds the head and its output in train mode.",
        explains=lambda finding: finding.where.startswith("AuxLogits."),
        mended="the reference without it: `aux_logits=False`",
        arguments={"aux_logits": False},
    ),
    Cause(
        name="squeezenet-pool",
        title="SqueezeNet: max pooling rounds down in place of up",
        what="torchvision's three pools have `ceil_mode=True`, the port's one pool has not. In "
        "SqueezeNet 1.0 the last feature map of a 224x224 image is 12x12 in place of 13x13. In "
        "SqueezeNet 1.1 the padding of the first convolution (see below) hides it at 224x224, and "
        "not at other sizes.",
        places=lambda: [
            place(models.SqueezeNet.__init__, "self._pool"),
            place(models.SqueezeNet.__init__, "self._pool", after="else:"),
            place(reference_models.SqueezeNet.__init__, "ceil_mode=True"),
        ],
        reproduction="""
import paddle, torch, torchvision
model = paddle.vision.models.squeezenet1_0()
reference = torchvision.models.squeezenet1_0(weights=None)
show = lambda name: lambda layer, x, y: print(name, list(y.shape))
model._conv9.register_forward_post_hook(show("paddle"))
reference.classifier[1].register_forward_hook(show("torch "))
model(paddle.zeros([1, 3, 224, 224]))
reference(torch.zeros(1, 3, 224, 224))
""",
        proposal="`MaxPool2D(kernel_size=3, stride=2, ceil_mode=True)` in both versions.",
        explains=setting("ceil_mode"),
        cure=round_pools_up,
        mended="ceil_mode=True",
    ),
    Cause(
        name="squeezenet-padding",
        title="SqueezeNet 1.1: the first convolution is padded",
        what="torchvision's first convolution has no padding, the port's has 1. So every feature "
        "map is shifted by a pixel, and larger by one at most sizes.",
        places=lambda: [
            place(models.SqueezeNet.__init__, "padding=1,", after="64,"),
            place(
                reference_models.SqueezeNet.__init__, "nn.Conv2d(3, 64, kernel_size=3, stride=2)"
            ),
        ],
        reproduction="""
import paddle, torch, torchvision
model = paddle.vision.models.squeezenet1_1()
reference = torchvision.models.squeezenet1_1(weights=None)
print("paddle", model._conv(paddle.zeros([1, 3, 224, 224])).shape)
print("torch ", list(reference.features[0](torch.zeros(1, 3, 224, 224)).shape))
""",
        proposal="`padding=0` together with `ceil_mode=True`, and published weights that were "
        "trained with these.",
        explains=setting("padding"),
        cure=do_not_pad_first,
        mended="padding=0 in the first convolution",
    ),
    Cause(
        name="shufflenet-width",
        title="ShuffleNet V2 x2.0: the second stage has 224 channels in place of 244",
        what="The paper's table and torchvision have 244, 488 and 976 channels in the three "
        "stages. The port has 224, 488 and 976: it looks like a slip of the hand. The weights of "
        "another implementation do not fit, and the network is a little smaller.",
        places=lambda: [
            place(models.ShuffleNetV2.__init__, "224, 488, 976"),
            place(reference_models.shufflenet_v2_x2_0, "244, 488, 976"),
        ],
        reproduction="""
import paddle, torchvision
model = paddle.vision.models.shufflenet_v2_x2_0()
reference = torchvision.models.shufflenet_v2_x2_0(weights=None)
print("paddle", sum(p.size for p in model.parameters() if not p.stop_gradient))
print("torch ", sum(p.numel() for p in reference.parameters()))
""",
        proposal="`stage_out_channels = [-1, 24, 244, 488, 976, 2048]`, and weights that were "
        "trained with it.",
        explains=lambda finding: finding.where == "2_1._conv_linear_1.0.weight",
        cure=widen_second_stage,
        mended="244 channels",
    ),
    Cause(
        name="alexnet-size",
        title="AlexNet: takes images of one size only",
        what="torchvision pools the last feature map to 6x6, so that any image of 63 pixels or "
        "more will do. The port flattens whatever there is, into a Linear that takes 256 * 6 * 6 "
        "values. At 224x224 both are the same. At 256x256 the port raises an error about `matmul` "
        "that does not mention the size of the image.",
        places=lambda: [
            place(models.AlexNet.forward, "paddle.flatten"),
            place(reference_models.AlexNet.__init__, "self.avgpool"),
        ],
        reproduction="""
import paddle, torch, torchvision
reference = torchvision.models.alexnet(weights=None)
print("torch ", list(reference(torch.zeros(1, 3, 256, 256)).shape))
try:
    paddle.vision.models.alexnet()(paddle.zeros([1, 3, 256, 256]))
except ValueError as error:
    print("paddle", type(error).__name__, "9216" in str(error))
""",
        proposal="`nn.AdaptiveAvgPool2D((6, 6))` before `flatten`. At 224x224 it changes nothing.",
        explains=lambda finding: finding.where == "_drop1" and finding.quantity == "shape",
        cure=pool_to_six,
        mended="AdaptiveAvgPool2D((6, 6)) after the features",
    ),
    Cause(
        name="googlenet",
        title="GoogLeNet: another network",
        what="This pair cannot be brought to agree by settings: (1) torchvision has a batch norm "
        "after each of its 59 convolutions; the port has none, and no bias in its place. (2) The "
        "large kernel of each Inception block is 5x5 in the port, as in the paper, and 3x3 in "
        "torchvision, which calls that a known bug that its weights hold "
        "([vision#906](https://github.com/pytorch/vision/issues/906)). (3) The port's pools round "
        "down: of a 224x224 image its feature maps are 55, 27, 13 and 6 wide, in torchvision and "
        "in the paper 56, 28, 14 and 7; and its fourth pool is 3x3, torchvision's 2x2. (4) So the "
        "side heads get 3x3 and not 4x4 values, have a Linear of 1152 and not 2048, and as they "
        "pool by a fixed 5x5 only images of about 224x224 will do. Their initialisation still "
        "reckons with 2048. (5) The port has no activation where torchvision and the paper have "
        "one: see the next two sections. (6) It returns the side heads in eval mode too, has a "
        'dropout of 0.4 for 0.2, and mode="downscale_in_infer". Of these (1), (3) and (5) are what '
        "someone who ports weights meets first.",
        places=lambda: [
            place(GOOGLENET.ConvLayer.__init__, "bias_attr=False"),
            place(REFERENCE_GOOGLENET.BasicConv2d.__init__, "self.bn"),
            place(GOOGLENET.Inception.__init__, "self._conv5 = "),
            place(REFERENCE_GOOGLENET.Inception.__init__, "kernel_size=3", after="906"),
            place(models.GoogLeNet.__init__, "self._pool = "),
            place(reference_models.GoogLeNet.__init__, "self.maxpool1"),
            place(reference_models.GoogLeNet.__init__, "self.maxpool4"),
            place(models.GoogLeNet.__init__, "self._fc_o1 = "),
            place(models.GoogLeNet.__init__, "self._pool_o1 = "),
            place(models.GoogLeNet.forward, "return out, out1, out2"),
        ],
        reproduction="",
        proposal="",
        explains=lambda finding: finding.where.startswith("_ince"),
    ),
    Cause(
        name="googlenet-reductions",
        title="GoogLeNet: no activation between two convolutions",
        what="In the paper and in torchvision every convolution ends in a ReLU. In the port an "
        "Inception block has one, after the four branches are put together. The 1x1 convolutions "
        "that reduce the channels, and those of the stem, end in none, nor in a bias. Two "
        "convolutions in a row are then one linear map: the 3x3 and 5x5 branches are of no more "
        "use than a single convolution of low rank.",
        places=lambda: [
            place(GOOGLENET.ConvLayer.forward, "self._conv(inputs)"),
            place(GOOGLENET.Inception.forward, "self._conv3r(inputs)"),
            place(GOOGLENET.Inception.forward, "self._conv3(conv3r)"),
            place(GOOGLENET.Inception.forward, "F.relu"),
            place(models.GoogLeNet.forward, "self._conv_1(x)"),
            place(REFERENCE_GOOGLENET.BasicConv2d.forward, "F.relu"),
        ],
        reproduction="""
import paddle
block = paddle.vision.models.googlenet()._ince3a
branch = lambda x: block._conv3(block._conv3r(x))
x = paddle.randn([1, 192, 8, 8])
print("f(x) + f(-x) is at most", (branch(x) + branch(-x)).abs().max().item())  # 0: linear
""",
        proposal="A ReLU, and a bias or a batch norm, in `ConvLayer`. The published weights have "
        "to be trained anew.",
    ),
    Cause(
        name="googlenet-second-head",
        title="GoogLeNet: the second side head has no activation between its two Linear layers",
        what="The first side head has `F.relu` between them, the second has not: its two layers "
        "are one linear map. It looks like a line that was forgotten.",
        places=lambda: [
            place(models.GoogLeNet.forward, "F.relu(out1)"),
            place(models.GoogLeNet.forward, "self._fc_o2(out2)"),
            place(models.GoogLeNet.forward, "self._drop_o2(out2)"),
        ],
        reproduction="""
import paddle
model = paddle.vision.models.googlenet()
show = lambda name: lambda layer, x: print(name, "takes negative values:", bool((x[0] < 0).any()))
model._drop_o1.register_forward_pre_hook(show("dropout of head 1"))
model._drop_o2.register_forward_pre_hook(show("dropout of head 2"))
model(paddle.randn([1, 3, 224, 224]))
""",
        proposal="`out2 = F.relu(out2)` after `self._fc_o2(out2)`.",
    ),
    Cause(
        name="grouped-convolution",
        title="Conv2D's default initialisation takes no account of groups",
        what="The default of a convolution's weight is normal with the deviation sqrt(2 / n), "
        "where n should be the number of values that go into one output. Paddle takes all input "
        "channels for it, although a grouped convolution sees in_channels / groups of them. So its "
        "weights are too small by the factor sqrt(groups): 22 for a depthwise convolution of 512 "
        "channels. MobileNet V2 and V3, ShuffleNet V2 and ResNeXt start from such weights. Batch "
        "norm after each convolution hides it in train mode. torchvision's ShuffleNet V2 takes "
        "PyTorch's default, which does count groups, and so differs. torchvision's MobileNets and "
        'ResNeXts do not: their `kaiming_normal_(mode="fan_out")` counts the outputs of all '
        "groups ([pytorch#23854](https://github.com/pytorch/pytorch/issues/23854)), and where a "
        "convolution has as many outputs as inputs, the two mistakes are the same number. "
        "[Paddle#79711](https://github.com/PaddlePaddle/Paddle/pull/79711), open, would change the "
        "default.",
        places=lambda: [place(nn.Conv2D.__mro__[1].__init__, "filter_elem_num = ")],
        reproduction="""
import paddle
paddle.seed(0)
conv = paddle.nn.Conv2D(512, 512, 3, groups=512)
print("deviation", round(conv.weight.std().item(), 3), "for", round((2 / 9) ** 0.5, 3))
""",
        proposal="`filter_elem_num = np.prod(self._kernel_size) * self._in_channels // "
        "self._groups`.",
    ),
    Cause(
        name="alexnet-initialisation",
        title="AlexNet: the last two layers are initialised with the first one's fan-in",
        what="Each layer is to be uniform within 1 / sqrt(fan_in), and a variable holds that. It "
        "is not set anew before the last two layers, so these have the bound of the layer before: "
        "1 / sqrt(9216) in place of 1 / sqrt(4096), two thirds of it.",
        places=lambda: [
            place(models.AlexNet.__init__, "stdv = 1.0 / math.sqrt(256 * 6 * 6)"),
            place(models.AlexNet.__init__, "self._fc7 = "),
            place(models.AlexNet.__init__, "self._fc8 = "),
        ],
        reproduction="""
import paddle
model = paddle.vision.models.alexnet()
for layer in (model._fc6, model._fc7, model._fc8):
    fan_in = layer.weight.shape[0]
    largest = layer.weight.max().item()
    print("fan_in", fan_in, "bound * sqrt(fan_in)", round(largest * fan_in**0.5, 3))
""",
        proposal="`stdv = 1.0 / math.sqrt(4096)` before `_fc7`.",
    ),
]
