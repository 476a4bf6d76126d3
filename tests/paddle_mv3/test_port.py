"""The port is torchvision's: network, initialisation, transforms, data set, metric."""

import numpy as np
import paddle
import pytest
import torch
import torchvision
from PIL import Image

import paddle_mv3
import torch_ref
from alignment.weights import make_alive
from paddle_mv3.data.dataset import load_image
from torch2paddle import convert, rules

MODELS = list(paddle_mv3.MODELS)


@pytest.mark.parametrize(
    ("model", "count"), [("mobilenet_v3_small", 2_542_856), ("mobilenet_v3_large", 5_483_032)]
)
def test_parameter_count_and_names(model, count):
    port, reference = paddle_mv3.MODELS[model](), torch_ref.MODELS[model]()
    trained = [parameter for parameter in port.parameters() if not parameter.stop_gradient]
    assert sum(parameter.size for parameter in trained) == count
    names = [name for name in reference.state_dict() if not name.endswith("num_batches_tracked")]
    assert [source for source, _ in rules(port).values()] == names
    prefixes = {name for name, _ in port.named_sublayers()}
    assert {name for name, _ in reference.named_modules() if name} == prefixes


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 10},
        {"width_mult": 0.35},
        {"width_mult": 1.25, "num_classes": 7},
        {"reduced_tail": True},
        {"dilated": True},
        {"reduced_tail": True, "dilated": True, "width_mult": 0.75},
    ],
    ids=str,
)
def test_arguments(model, arguments):
    """Same logits as torchvision's model with the same arguments, in eval mode."""
    reference = make_alive(torch_ref.MODELS[model](**arguments), seed=1, image_size=96)
    port = paddle_mv3.MODELS[model](**arguments)
    port.set_state_dict(convert(reference.state_dict(), port))
    port.eval()
    images = np.random.RandomState(0).rand(2, 3, 80, 96).astype("float32") - 0.5
    expected = reference(torch.from_numpy(images)).detach().numpy()
    logits = port(paddle.to_tensor(images)).numpy()
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_dropout_and_batch_norm_settings():
    port = paddle_mv3.mobilenet_v3_small(dropout=0.35)
    assert port.classifier[2].p == 0.35
    norms = [layer for layer in port.sublayers() if isinstance(layer, paddle.nn.BatchNorm2D)]
    assert len(norms) == 34
    assert {(norm._epsilon, norm._momentum) for norm in norms} == {(0.001, 0.99)}


def test_hardsigmoid_is_exact():
    x = np.linspace(-5, 5, 1001)
    port = paddle_mv3.model.Hardsigmoid()(paddle.to_tensor(x)).numpy()
    assert np.array_equal(port, torch.nn.functional.relu6(torch.from_numpy(x) + 3).numpy() / 6)
    assert np.abs(port - torch.nn.Hardsigmoid()(torch.from_numpy(x)).numpy()).max() < 3e-16


def test_initialisation():
    """Every parameter has the standard deviation and mean of torchvision's; constants exactly."""
    paddle.seed(0)
    torch.manual_seed(0)
    port, reference = paddle_mv3.mobilenet_v3_small(), torch_ref.mobilenet_v3_small()
    expected = reference.state_dict()
    table = rules(port)
    for name, tensor in port.state_dict().items():
        a, b = tensor.numpy(), expected[table[name][0]].numpy()
        if b.std() == 0:
            assert (a == b.flat[0]).all(), name
        else:
            # Of n normal draws the standard deviation is known to within sd / sqrt(2 n); 6 sigma.
            assert abs(a.std() / b.std() - 1) < 6 / np.sqrt(a.size), name
            assert abs(a.mean()) < 6 * b.std() / np.sqrt(a.size), name


def random_image(rng, width, height, mode="RGB"):
    channels = {"L": (), "RGB": (3,), "CMYK": (4,), "RGBA": (4,)}[mode]
    return Image.fromarray(rng.integers(0, 256, (height, width, *channels), dtype=np.uint8), mode)


SIZES = [(300, 200), (200, 300), (256, 256), (9, 7), (7, 9), (1000, 40), (257, 341), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (96, 110), (224, 232), (120, 100)])
def test_eval_preset_is_torchvisions_bit_for_bit(size, crop, resize):
    image = random_image(np.random.default_rng(0), *size)
    port = paddle_mv3.ClassificationPresetEval(crop, resize)(image)
    expected = torch_ref.ClassificationPresetEval(crop, resize)(image).numpy()
    assert port.dtype == expected.dtype
    assert np.array_equal(port, expected)


def test_image_folder_has_torchvisions_order_and_rules(tmp_path, image_dir):
    some = (image_dir / "cat" / "cat_view_01.JPEG").read_bytes()
    for name in ("b10", "b2", "B", "a", "é"):
        for file in ("z.JPEG", "A.png", "sub/x.jpeg", "sub2/y.WEBP", "note.txt", "list.json"):
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(some)
    (tmp_path / "readme.txt").write_text("not a class")
    port, reference = paddle_mv3.ImageFolder(tmp_path), torch_ref.ImageFolder(str(tmp_path))
    assert port.samples == reference.samples
    assert port.classes == reference.classes
    assert port.class_to_idx == reference.class_to_idx
    assert port.targets == reference.targets
    assert len(port) == len(reference) == 20


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "RGB"])
def test_images_are_decoded_as_torchvision_does(mode, tmp_path):
    image = random_image(np.random.default_rng(3), 40, 30, mode)
    path = str(tmp_path / ("x.png" if mode == "RGBA" else "x.jpg"))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated; torchvision does not turn it back
    image.save(path, exif=exif)
    expected = torchvision.datasets.folder.default_loader(path)
    assert np.array_equal(np.asarray(load_image(path)), np.asarray(expected))


def test_accuracy():
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((37, 12)).astype("float32")
    labels = rng.integers(0, 12, 37)
    ranks = (logits > logits[np.arange(37), labels][:, None]).sum(axis=1)
    expected = [100 * (ranks < k).sum() / 37 for k in (1, 5)]
    assert 0 < expected[0] < expected[1] < 100
    port = paddle_mv3.accuracy(paddle.to_tensor(logits), paddle.to_tensor(labels), topk=(1, 5))
    reference = torch_ref.accuracy(torch.from_numpy(logits), torch.from_numpy(labels), (1, 5))
    assert port == reference == expected
    batches = [
        (paddle.to_tensor(logits[i : i + 8]), paddle.to_tensor(labels[i : i + 8]))
        for i in range(0, 37, 8)
    ]
    assert paddle_mv3.evaluate(paddle.nn.Identity(), batches) == expected
