"""The port broken by hand, one mistake at a time: the step that owns it turns red.

Each mistake is a patch of the port, of the conversion, or of what a port calls of Paddle; none
touches a check.
"""

from functools import partial

import numpy as np
import paddle
import pytest
from paddle import nn
from PIL import Image

import paddle_mv3
import torch2paddle
from paddle_mv3 import dataset, metric, model, transforms

MISTAKES = {}


def mistake(step, name):
    def add(function):
        MISTAKES[f"{step}: {name}"] = function
        return function

    return add


@mistake("01", "batch norm epsilon left at Paddle's 1e-5")
def _(patch):
    patch(model, "batch_norm", lambda c: nn.BatchNorm2D(c, momentum=0.99, epsilon=1e-5))


@mistake("01", "swish for hard-swish")
def _(patch):
    patch(nn.Hardswish, "forward", lambda self, x: nn.functional.swish(x))


@mistake("01", "sigmoid for hard-sigmoid")
def _(patch):
    patch(model.Hardsigmoid, "forward", lambda self, x: nn.functional.sigmoid(x))


@mistake("01", "residual dropped")
def _(patch):
    patch(model.InvertedResidual, "forward", lambda self, x: self.block(x))


@mistake("01", "residual dropped in one block")
def _(patch):
    def forward(self, x):
        y = self.block(x)
        return y + x if self.use_res_connect and self.out_channels != 48 else y

    patch(model.InvertedResidual, "forward", forward)


@mistake("01", "mean and variance swapped in the conversion")
def _(patch):
    names = {"_mean": "running_var", "_variance": "running_mean"}
    patch(torch2paddle, "RENAMED", {nn.layer.norm._BatchNormBase: names})


@mistake("01", "statistics not loaded")
def _(patch):
    def load(self, state, *args, **kwargs):
        kept = {k: v for k, v in state.items() if not k.endswith(("_mean", "_variance"))}
        return set_state_dict(self, kept, *args, **kwargs)

    set_state_dict = nn.Layer.set_state_dict
    patch(nn.Layer, "set_state_dict", load)


@mistake("01", "padding one less in strided 5x5 convolutions")
def _(patch):
    class Conv2D(nn.Conv2D):
        def __init__(self, *args, padding=0, stride=1, **kwargs):
            padding -= stride == 2 and padding > 1
            super().__init__(*args, padding=padding, stride=stride, **kwargs)

    patch(nn, "Conv2D", Conv2D)


@mistake("01", "dropout left on: train mode")
def _(patch):
    patch(nn.Layer, "eval", lambda self: self.train())


@mistake("02", "BGR for RGB")
def _(patch):
    load = dataset.load_image
    patch(dataset, "load_image", lambda p: Image.fromarray(np.asarray(load(p))[..., ::-1].copy()))


@mistake("02", "bicubic for bilinear")
def _(patch):
    preset = partial(transforms.ClassificationPresetEval, interpolation=Image.Resampling.BICUBIC)
    patch(paddle_mv3, "ClassificationPresetEval", preset)


@mistake("02", "classes in another order")
def _(patch):
    find_classes = dataset.find_classes
    patch(dataset, "find_classes", lambda root: find_classes(root)[::-1])


@mistake("02", "labels from 1")
def _(patch):
    get = dataset.ImageFolder.__getitem__
    patch(
        dataset.ImageFolder, "__getitem__", lambda self, i: (get(self, i)[0], get(self, i)[1] + 1)
    )


@mistake("02", "labels as int32")
def _(patch):
    get = dataset.ImageFolder.__getitem__
    patch(
        dataset.ImageFolder,
        "__getitem__",
        lambda self, i: (get(self, i)[0], np.int32(get(self, i)[1])),
    )


@mistake("02", "last batch dropped")
def _(patch):
    patch(paddle_mv3, "DataLoader", partial(paddle_mv3.DataLoader, drop_last=True))


@mistake("02", "longer side resized")
def _(patch):
    def resize(image, size, interpolation):
        scale = size / max(image.size)
        return image.resize([max(1, round(side * scale)) for side in image.size], interpolation)

    patch(transforms, "resize", resize)


@mistake("02", "crop rounded down")
def _(patch):
    def center_crop(image, size):
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return image.crop((left, top, left + size, top + size))

    patch(transforms, "center_crop", center_crop)


@mistake("02", "EXIF orientation applied")
def _(patch):
    from PIL import ImageOps

    patch(dataset, "load_image", lambda p: ImageOps.exif_transpose(Image.open(p)).convert("RGB"))


@mistake("02", "mean and std in the order of BGR")
def _(patch):
    table = transforms.normalization_table
    patch(
        transforms,
        "normalization_table",
        lambda: table(transforms.MEAN[::-1], transforms.STD[::-1]),
    )


@mistake("02", "normalised without dividing by 255")
def _(patch):
    table = transforms.normalization_table
    patch(transforms, "normalization_table", lambda: table() * 255)


@mistake("03", "top-4 for top-5")
def _(patch):
    correct = metric.topk_correct
    patch(metric, "topk_correct", lambda o, t, topk: correct(o, t, [min(k, 4) for k in topk]))


@mistake("03", "fraction for per cent")
def _(patch):
    evaluate = metric.evaluate
    patch(paddle_mv3, "evaluate", lambda *a, **k: [x / 100 for x in evaluate(*a, **k)])


@mistake("03", "mean of the batches' means")
def _(patch):
    def evaluate(network, batches, topk):
        each = [metric.accuracy(network(x), y, topk) for x, y in batches]
        return [float(np.mean(column)) for column in zip(*each)]

    patch(paddle_mv3, "evaluate", evaluate)


@mistake("03", "last batch left out")
def _(patch):
    evaluate = metric.evaluate
    patch(paddle_mv3, "evaluate", lambda network, b, topk: evaluate(network, b[:-1], topk))


@mistake("04", "sum for mean")
def _(patch):
    patch(nn, "CrossEntropyLoss", partial(nn.CrossEntropyLoss, reduction="sum"))


@mistake("04", "softmax before a loss that applies it")
def _(patch):
    loss = nn.CrossEntropyLoss
    patch(nn, "CrossEntropyLoss", lambda: lambda x, y: loss()(nn.functional.softmax(x), y))


@mistake("04", "label smoothing that the reference has not")
def _(patch):
    patch(nn, "CrossEntropyLoss", partial(nn.CrossEntropyLoss, label_smoothing=0.1))


@mistake("05", "no momentum")
def _(patch):
    momentum = paddle.optimizer.Momentum
    patch(paddle.optimizer, "Momentum", lambda lr, m, **k: momentum(lr, 0.0, **k))


@mistake("05", "Nesterov momentum")
def _(patch):
    momentum = paddle.optimizer.Momentum
    patch(paddle.optimizer, "Momentum", partial(momentum, use_nesterov=True))


@mistake("05", "schedule that never steps")
def _(patch):
    decay = paddle.optimizer.lr.StepDecay
    patch(paddle.optimizer.lr, "StepDecay", partial(decay, last_epoch=-1, verbose=False))
    patch(decay, "get_lr", lambda self: self.base_lr)


@mistake("05", "schedule one step late")
def _(patch):
    decay = paddle.optimizer.lr.StepDecay
    patch(decay, "get_lr", lambda self: self.base_lr * self.gamma ** max(0, self.last_epoch - 1))


@mistake("05", "gradients not cleared")
def _(patch):
    patch(paddle.optimizer.Momentum, "clear_grad", lambda self: None)


@mistake("05", "batch norm frozen")
def _(patch):
    norm = model.batch_norm

    def frozen(channels):
        layer = norm(channels)
        layer._use_global_stats = True
        return layer

    patch(model, "batch_norm", frozen)


SCRIPTS = {
    "01": "01_test_forward.py",
    "02": "02_test_data.py",
    "03": "03_test_metric.py",
    "04": "04_test_loss.py",
    "05": "05_test_backward.py",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_right_step_is_red(name, run, monkeypatch, tmp_path, data_dir):
    # Weights are converted anew, as the conversion may be what is broken.
    weights = "mobilenet_v3_small-047dcff4.pth"
    for file in ("fake_data.npy", "fake_label.npy", weights):
        (tmp_path / file).symlink_to(data_dir / file)
    MISTAKES[name](lambda target, attribute, value: monkeypatch.setattr(target, attribute, value))
    result = run(SCRIPTS[name[:2]], "--data-dir", tmp_path)
    assert result.status == 1, result.out + result.err
    assert "diff check failed" in result.out and "NOT ALIGNED: " in result.out
    assert "Look at: " in result.out.splitlines()[-1]


@pytest.mark.parametrize("step", ["01", "02"])
def test_a_metric_or_loss_that_is_broken_leaves_earlier_steps_green(step, run, monkeypatch):
    for name in ("03: top-4 for top-5", "04: sum for mean", "05: no momentum"):
        MISTAKES[name](monkeypatch.setattr)
    assert run(SCRIPTS[step]).status == 0
