"""Training data: the same draws give torchvision's images, and the draws are distributed alike."""

import collections
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import autoaugment as tv

import paddle_mv3
import torch_ref
from alignment.stages import augmentation
from paddle_mv3.data import autoaugment, mixup, transforms

POLICIES = [None, "imagenet", "ra", "ta_wide", "augmix"]
FUSED = torch_ref.fused_multiply_add()
SPACES = {
    "imagenet": lambda w, h: tv.AutoAugment()._augmentation_space(10, (h, w)),
    "ra": lambda w, h: tv.RandAugment()._augmentation_space(31, (h, w)),
    "ta_wide": lambda w, h: tv.TrivialAugmentWide()._augmentation_space(31),
    "augmix": lambda w, h: tv.AugMix()._augmentation_space(10, (h, w)),
}


def picture(width, height, seed=0, contrast=1.0):
    """Smooth in parts, noisy in others; with full contrast from 0 to 255."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    waves = (
        np.sin(np.arange(width) / 7)[None, :, None] * np.cos(np.arange(height) / 5)[:, None, None]
    )
    pixels = np.where(noise[:1, :, :1] < 128, 127.5 + 127.5 * waves, noise)
    return Image.fromarray((60 + (pixels - 60) * contrast).astype(np.uint8))


def pictures(width, height):
    """Full and low contrast, four values only, grey."""
    image = picture(width, height)
    low = picture(width, height, contrast=0.3)
    return [image, low, image.point(lambda value: value // 64 * 80), image.convert("L")]


def operations(policy, width, height):
    """All operations of a policy at all magnitudes, of both signs where they have one."""
    for name, (magnitudes, signed) in SPACES[policy](width, height).items():
        for magnitude in magnitudes.reshape(-1).tolist():
            yield name, magnitude
            if signed:
                yield name, -magnitude


def same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize("policy", SPACES)
@pytest.mark.parametrize("size", [(32, 20), (2, 3), (1, 1)], ids=str)
def test_operations_on_pil_images(policy, size):
    images = pictures(*size)
    for name, magnitude in operations(policy, *size):
        for how in ("NEAREST", "BILINEAR", "BICUBIC"):
            for fill in (None, 128, (1, 2, 250), [7]):
                for image in images if fill in (None, [7]) else images[:1]:
                    port = autoaugment.apply_op(image, name, magnitude, Image.Resampling[how], fill)
                    expected = tv._apply_op(image, name, magnitude, InterpolationMode[how], fill)
                    assert same(port, expected), (name, magnitude, how, fill)
                if name not in autoaugment.GEOMETRIC:
                    break
            if name not in autoaugment.GEOMETRIC:
                break


@pytest.mark.parametrize("policy", SPACES)
@pytest.mark.parametrize("size", [(40, 31), (8, 8), (2, 3), (1, 1)], ids=str)
def test_operations_on_tensors(policy, size):
    """What AugMix is made of."""
    images = pictures(*size)
    for name, magnitude in operations(policy, *size):
        if name in ("Invert", "Identity"):  # not in AugMix
            continue
        for how in ("NEAREST", "BILINEAR"):
            for fill in (None, [128.0], [1.0, 2.0, 250.0]):
                for image in images if fill is None else images[:1]:
                    pixels = np.asarray(image).reshape(*size[::-1], -1)
                    ops = autoaugment.TensorOps(Image.Resampling[how], fill, FUSED)
                    batch = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
                    expected = tv._apply_op(batch, name, magnitude, InterpolationMode[how], fill)
                    port = ops.apply(pixels, name, magnitude)
                    assert same(port, expected[0].permute(1, 2, 0)), (name, magnitude, how, fill)
                if name not in autoaugment.GEOMETRIC:
                    break


def test_autocontrast_of_all_ranges():
    """On tensors, where the last bit of the scale decides."""
    ramp = np.arange(256, dtype=np.uint8)
    for low in (0, 1, 37):
        for high in range(low, 256):
            pixels = np.clip(ramp, low, high).reshape(16, 16, 1)
            expected = tv.F.autocontrast(torch.from_numpy(pixels).permute(2, 0, 1))
            port = autoaugment.TensorOps().apply(pixels, "AutoContrast", 0.0)
            assert same(port, expected.permute(1, 2, 0)), (low, high)


@pytest.mark.parametrize("policy", SPACES)
def test_matrices(policy):
    """In float64, to the last bit."""
    for name, magnitude in operations(policy, 224, 224):
        if name not in autoaugment.GEOMETRIC:
            continue
        shear, shift, angle = [0.0, 0.0], [0, 0], 0.0
        if name == "Rotate":
            angle = -magnitude
        elif name.startswith("Shear"):
            shear[name == "ShearY"] = math.degrees(math.atan(magnitude))
        else:
            shift[name == "TranslateY"] = int(magnitude)
        for corner in ((0.0, 0.0), (-112.0, -100.5)):
            center = corner if name.startswith("Shear") else (0.0, 0.0)
            expected = tv.F._get_inverse_affine_matrix(center, angle, shift, 1.0, shear)
            assert list(autoaugment._inverse_matrix(name, magnitude, corner)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("policy", SPACES)
@pytest.mark.parametrize("size", [(224, 224), (299, 201)], ids=str)
def test_operations_at_full_size(policy, size):
    image = picture(*size)
    pixels = np.asarray(image)
    batch = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    for name, magnitude in operations(policy, *size):
        for how in ("NEAREST", "BILINEAR"):
            ours, theirs = Image.Resampling[how], InterpolationMode[how]
            port = autoaugment.apply_op(image, name, magnitude, ours)
            assert same(port, tv._apply_op(image, name, magnitude, theirs, None)), (name, magnitude)
            if name not in ("Invert", "Identity"):
                port = autoaugment.TensorOps(ours, fused=FUSED).apply(pixels, name, magnitude)
                expected = tv._apply_op(batch, name, magnitude, theirs, None)[0].permute(1, 2, 0)
                assert same(port, expected), (name, magnitude, how)


@pytest.mark.parametrize("size", [(224, 224), (300, 200), (32, 32), (1, 1)], ids=str)
def test_magnitudes(size):
    """torchvision's, to the last bit but one: torch.linspace itself differs between CPUs."""
    policies = {
        "imagenet": autoaugment.AutoAugment(),
        "ra": autoaugment.RandAugment(),
        "ta_wide": autoaugment.TrivialAugmentWide(),
        "augmix": autoaugment.AugMix(),
    }
    for policy, expected in ((policies[name], space(*size)) for name, space in SPACES.items()):
        space = policy.augmentation_space(*size)
        assert space.keys() == expected.keys()
        for name, (magnitudes, signed) in expected.items():
            assert space[name][1] == signed
            if magnitudes.ndim == 0:
                assert space[name][0] is None
            else:
                assert np.allclose(space[name][0], magnitudes, rtol=2e-7, atol=3e-5 / 255)


def test_magnitudes_are_exact_where_products_are_fused():
    if not FUSED[1]:
        pytest.skip("torch.linspace is computed in another order on this CPU")
    for count in (2, 10, 31, 64):
        for stop in (0.3, 0.99, 135.0, *(150 / 331 * side for side in range(1, 300))):
            assert same(autoaugment._linspace(0.0, stop, count), torch.linspace(0.0, stop, count))


SIZES = [(300, 200), (200, 300), (256, 256), (9, 7), (7, 9), (1000, 40), (257, 341), (1, 1)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("how", ["NEAREST", "BILINEAR", "BICUBIC"])
def test_preset_given_the_same_draws(policy, how):
    """Each stage and operation, under the reference's own labels."""
    if (policy, how) == ("augmix", "BICUBIC"):
        with pytest.raises(ValueError, match="BICUBIC: operations on tensors"):
            paddle_mv3.ClassificationPresetTrain(64, Image.Resampling.BICUBIC, 0.5, policy)
        return
    torch.manual_seed(0)
    options = {"auto_augment_policy": policy, "random_erase_prob": 0.5, "augmix_severity": 10}
    port = paddle_mv3.ClassificationPresetTrain(
        48, interpolation=Image.Resampling[how], fused=FUSED, **options
    )
    reference = torch_ref.ClassificationPresetTrain(
        48, interpolation=InterpolationMode[how], **options
    )
    assert port.settings == reference.settings
    for size in SIZES:
        image = picture(*size)
        for _ in range(4):
            state = torch.get_rng_state()
            expected, drawn, steps = reference.record(image)
            after = torch.get_rng_state()
            torch.set_rng_state(state)
            # Listening changes nothing.
            assert same(reference(image), expected)
            assert torch.equal(torch.get_rng_state(), after)
            assert augmentation.first_different_stage(port.steps(image, drawn), steps) is None
            out = port.apply(image, drawn)
            assert out.dtype == np.float32 and same(out, expected)


def test_chains_are_told_apart_on_tiny_images():
    """Where sharpness gives back the very tensor that it was given."""
    torch.manual_seed(2)
    port = paddle_mv3.ClassificationPresetTrain(2, auto_augment_policy="augmix", fused=FUSED)
    reference = torch_ref.ClassificationPresetTrain(2, auto_augment_policy="augmix")
    seen = set()
    for number in range(100):
        expected, drawn, _ = reference.record(picture(30, 20, number))
        chains = drawn["augment"]["chains"]
        assert len(chains) == 3 and all(1 <= len(chain) <= 3 for chain in chains)
        assert same(port.apply(picture(30, 20, number), drawn), expected)
        seen |= {name for chain in chains for name, _ in chain[:-1]}
    assert "Sharpness" in seen


@pytest.mark.parametrize(
    "arguments", [{"fill": 100}, {"fill": (9, 8, 7)}, {"chain_depth": 2}], ids=str
)
@pytest.mark.parametrize("how", ["NEAREST", "BILINEAR"])
def test_augmix_arguments(arguments, how):
    arguments = {"severity": 9, "mixture_width": 4, "all_ops": False, "alpha": 0.5, **arguments}
    reference = tv.AugMix(interpolation=InterpolationMode[how], **arguments)
    port = autoaugment.AugMix(interpolation=Image.Resampling[how], fused=FUSED, **arguments)
    torch.manual_seed(1)
    for seed in range(10):
        image = picture(40, 30, seed)
        expected, drawn, _ = torch_ref.record_policy(reference, image)
        assert same(port.apply(image, drawn), expected)
    rng = np.random.default_rng(0)
    drawn = [port.draw(40, 30, rng) for _ in range(200)]
    names = {name for d in drawn for chain in d["chains"] for name, _ in chain}
    assert not names & set(autoaugment.ENHANCE) and len(names) == 9
    assert all(len(d["chains"]) == len(d["weights"]) == 4 for d in drawn)
    depths = {len(chain) for d in drawn for chain in d["chains"]}
    assert depths == ({2} if "chain_depth" in arguments else {1, 2, 3})


def test_augmix_on_another_cpu(spawn):
    """Without fused multiply-add torchvision rounds otherwise, and so does the port when told."""
    paths = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    code = (
        f"import sys; sys.path[:0] = {paths}\n"
        "import torch_ref\n"  # before torchvision, which it may have to help
        "import test_augmentation as t\n"
        "assert t.FUSED[1] is False, t.FUSED\n"
        "t.test_operations_on_tensors('augmix', (40, 31))\n"
        "t.test_magnitudes((40, 31))\n"
        "t.FUSED = (t.FUSED[0], True)\n"
        "try:\n    t.test_operations_on_tensors('augmix', (40, 31))\n"
        "except AssertionError as error:\n    print('differs', error)\n"
    )
    result = spawn("-c", code, env={"ATEN_CPU_CAPABILITY": "default"})
    assert result.status == 0, result.err
    if os.uname().machine == "x86_64":
        assert "differs" in result.out


@pytest.mark.slow
def test_draws_are_distributed_alike(image_dir, tmp_path, monkeypatch):
    """Four times as many draws as in step 02, of another seed; total error rate 1e-6."""
    monkeypatch.setattr(augmentation, "DRAWS", 10_000)
    monkeypatch.setattr(augmentation, "IMAGES", 5)

    def presets(side, **options):
        return lambda size, **policy: side.ClassificationPresetTrain(
            size, random_erase_prob=0.3, hflip_prob=0.4, **policy, **options
        )

    compared = augmentation.compare_augmentation(
        presets(paddle_mv3, fused=FUSED),
        presets(torch_ref),
        POLICIES,
        [side.get_mixup_cutmix(0.4, 0.7, 1000) for side in (paddle_mv3, torch_ref)],
        torch_ref.ImageFolder(str(image_dir)),
        tmp_path / "log",
        seed=1,
    )
    assert compared.agrees, compared.lines()
    assert (
        len(compared.lines()) == 1
        and "statistics of the random numbers agree" in compared.lines()[0]
    )


@pytest.mark.parametrize("values", [2, 40, 600])
def test_error_rate_of_the_comparison(values):
    """Of samples of one distribution, no more than a share p is called different at level p."""
    rng = np.random.default_rng(values)
    chances = rng.dirichlet(np.full(values, 0.5))
    discrete, continuous = [], []
    for _ in range(1500):
        a, b = (rng.choice(values, 200, p=chances) for _ in range(2))
        discrete.append(augmentation._discrete(a.tolist(), b.tolist()).p)
        continuous.append(augmentation._continuous(a, b).p)
    for p in (np.array(discrete), np.array(continuous)):
        for level in (0.1, 0.01):
            assert (p < level).mean() <= level
    # And what differs is called different.
    a, b = rng.integers(0, 10, 2000).tolist(), rng.integers(0, 9, 2000).tolist()
    assert augmentation._discrete(a, b).p < 1e-9
    assert augmentation._continuous(rng.random(2000), rng.random(2000) ** 1.3).p < 1e-6


@pytest.mark.parametrize("value", [0, 0.5, (1.0, 2.0, 3.0), "random"], ids=str)
def test_erasing(value):
    port = transforms.RandomErasing(0.7, (0.1, 0.4), (0.5, 2.5), value)
    rng, width, height, count = np.random.default_rng(3), 50, 40, 2000
    drawn = [port.draw(width, height, rng) for _ in range(count)]
    boxes = [d for d in drawn if d is not None]
    # Four standard deviations.
    assert abs(len(boxes) / count - 0.7) < 4 * math.sqrt(0.7 * 0.3 / count)
    for top, left, h, w, _ in boxes:
        assert 0 <= top <= height - h and 0 <= left <= width - w
        assert 0.09 < h * w / (width * height) < 0.42 and 0.45 < h / w < 2.7
    array = rng.standard_normal((3, height, width), dtype=np.float32)
    top, left, h, w, content = boxes[0]
    expected = v2.functional.erase(
        torch.from_numpy(array.copy()), top, left, h, w, torch.from_numpy(content)
    )
    assert same(port.apply(array.copy(), boxes[0]), expected)
    assert same(port.apply(array.copy(), None), array)
    if value == "random":
        values = np.concatenate([box[4].ravel() for box in boxes])
        assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01
    else:
        assert np.array_equal(content.ravel(), np.atleast_1d(np.float32(value)))


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)], ids=str)
def test_mixing_given_the_same_draws(alphas):
    port = paddle_mv3.get_mixup_cutmix(*alphas, 10)
    reference = torch_ref.get_mixup_cutmix(*alphas, 10)
    torch.manual_seed(0)
    kinds = collections.Counter()
    for number, shape in enumerate([(6, 3, 33, 37), (1, 3, 5, 9), (7, 3, 1, 1)] * 20):
        rng = np.random.default_rng(number)
        images, labels = rng.standard_normal(shape, dtype=np.float32), rng.integers(0, 10, shape[0])
        before = images.copy()
        *expected, drawn = reference.record(torch.from_numpy(images), torch.from_numpy(labels))
        out = port.apply(images, labels, drawn)
        assert same(out[0], expected[0]) and same(out[1], expected[1])
        assert out[1].dtype == np.float32 and np.allclose(out[1].sum(axis=1), 1)
        assert np.array_equal(images, before)
        kinds["box" in drawn] += 1
        # Called, it applies what it draws.
        drawn = port.draw(shape, np.random.default_rng(5))
        called = port(images, labels, np.random.default_rng(5))
        assert all(map(same, called, port.apply(images, labels, drawn)))
    assert len(kinds) == sum(alpha > 0 for alpha in alphas)
    assert paddle_mv3.get_mixup_cutmix(0.0, 0.0, 10) is None


def test_draws_depend_on_seed_epoch_and_index_alone(image_dir):
    """Those of all stages, and of the mixing of batches, whatever the number of workers."""

    def images(seed=0, epoch=0, workers=0):
        preset = paddle_mv3.ClassificationPresetTrain(
            crop_size=32, auto_augment_policy="augmix", random_erase_prob=0.5
        )
        dataset = paddle_mv3.ImageFolder(image_dir, preset, seed=seed)
        draws = [paddle_mv3.Draw(index, epoch) for index in range(16)]
        loader = paddle_mv3.DataLoader(
            dataset,
            batch_sampler=[draws[:8], draws[8:]],
            num_workers=workers,
            batch_transform=paddle_mv3.get_mixup_cutmix(0.2, 1.0, 8),
            seed=seed,
        )
        batches = list(loader)
        assert all(labels.shape == [8, 8] for _, labels in batches)
        return np.concatenate([images.numpy() for images, _ in batches])

    first = images()
    assert np.array_equal(first, images())
    assert np.array_equal(first, images(workers=2))
    assert not np.array_equal(first, images(seed=1))
    assert not np.array_equal(first, images(epoch=1))


@pytest.mark.parametrize("module", [autoaugment, mixup, transforms])
def test_workers_run_pil_and_numpy_only(module):
    imported = set(
        re.findall(r"^\s*(?:from|import) (\w+)", Path(module.__file__).read_text(), re.M)
    )
    assert imported <= {"functools", "math", "numpy", "PIL"}


def test_what_parts_is_named(image_dir, tmp_path, monkeypatch):
    """A stage, an operation, a setting, a statistic; and the log has a line for each comparison."""
    monkeypatch.setattr(augmentation, "IMAGES", 20)
    monkeypatch.setattr(augmentation, "DRAWS", 400)
    monkeypatch.setattr(transforms.RandomErasing, "draw", lambda self, width, height, rng: None)
    rotate = autoaugment.apply_op
    monkeypatch.setattr(
        autoaugment,
        "apply_op",
        lambda image, name, m, *a: (
            rotate(image, name, m + 1, *a) if name == "Rotate" else rotate(image, name, m, *a)
        ),
    )

    def preset(side, **options):
        return lambda size, **policy: side.ClassificationPresetTrain(
            size, random_erase_prob=0.5, **policy, **options
        )

    compared = augmentation.compare_augmentation(
        preset(paddle_mv3, ra_magnitude=8),
        preset(torch_ref),
        ["ra"],
        [side.get_mixup_cutmix(0.4, 0.7, 1000) for side in (paddle_mv3, torch_ref)],
        torch_ref.ImageFolder(str(image_dir)),
        tmp_path / "log",
    )
    text = "\n".join(compared.lines())
    assert not compared.agrees
    assert "Differs (port | reference): policy ra, magnitude: 8 | 9" in text
    assert "First difference in training: policy ra" in text and "stage Rotate" in text
    log = (tmp_path / "log").read_text()
    assert log.count("\nimage ") == 20 and log.count("\nbatch ") == augmentation.BATCHES
    assert any("erasing at all" in line and "differs" in line for line in log.splitlines())
    assert any(
        "policy ra, operation 1, magnitude" in x and "differs" in x for x in log.splitlines()
    )


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        (("imagenet", "augmix"), "what is sampled: list | dict"),
        ((None, "ra"), "what is sampled: NoneType | list"),
        (("ra", None), "what is sampled: list | NoneType"),
        (("ra", "ta_wide"), "policy wanted, number of operations: 2 2000 | 0 times of 2000"),
    ],
    ids=str,
)
def test_another_policy(policies, message, image_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(augmentation, "IMAGES", 8)
    monkeypatch.setattr(augmentation, "DRAWS", 2000)
    port, reference = (
        lambda size, auto_augment_policy, side=side, policy=policy: side.ClassificationPresetTrain(
            size, auto_augment_policy=policy
        )
        for side, policy in zip((paddle_mv3, torch_ref), policies)
    )
    mixes = [side.get_mixup_cutmix(0.4, 0.7, 1000) for side in (paddle_mv3, torch_ref)]
    folder = torch_ref.ImageFolder(str(image_dir))
    log = tmp_path / "log"
    compared = augmentation.compare_augmentation(port, reference, ["wanted"], mixes, folder, log)
    assert not compared.agrees and compared.lines()[0].startswith(
        "Differs (port | reference): policy wanted, policy: "
    )
    assert any(message in line for line in log.read_text().splitlines() if "differs" in line)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: paddle_mv3.ClassificationPresetTrain(auto_augment_policy="aa"), "'aa'.*ta_wide"),
        (lambda: paddle_mv3.ClassificationPresetTrain(hflip_prob=2), "hflip_prob is 2"),
        (lambda: paddle_mv3.ClassificationPresetTrain(random_erase_prob=-1), "p is -1"),
        (lambda: paddle_mv3.RandAugment(magnitude=31), "magnitude is 31: give 0 to 30"),
        (lambda: paddle_mv3.RandAugment(num_magnitude_bins=1), "num_magnitude_bins is 1"),
        (lambda: paddle_mv3.AugMix(severity=11), "severity is 11: give 1 to 10"),
        (lambda: paddle_mv3.AutoAugment("cifar10"), "policy 'cifar10'"),
        (lambda: paddle_mv3.RandomErasing(value="mean"), "value is 'mean'"),
        (lambda: paddle_mv3.RandomErasing(value=(1, 2)), "value is"),
        (lambda: paddle_mv3.RandomErasing(scale=(0.5, 0.1)), "scale is"),
        (lambda: paddle_mv3.RandomErasing(ratio=(0, 1)), "ratio is"),
        (lambda: autoaugment.apply_op(picture(4, 4), "Blur", 1.0), "unknown operation 'Blur'"),
        (lambda: autoaugment.apply_op(picture(4, 4), "Posterize", 9), "0 to 8 bits, not 9"),
        (
            lambda: autoaugment.apply_op(picture(4, 4), "Rotate", 9.0, fill=(1, 2)),
            "fill .* has 2 values",
        ),
        (
            lambda: paddle_mv3.AugMix()(Image.new("CMYK", (4, 4)), np.random.default_rng(0)),
            "mode CMYK",
        ),
        (lambda: paddle_mv3.get_mixup_cutmix(-1, 0, 10), "alpha is -1"),
        (lambda: paddle_mv3.MixUp(1.0, 0), "num_classes is 0"),
        (lambda: mixed(np.zeros((2, 3, 4, 4)), np.zeros(2, np.int64)), "images are float64"),
        (lambda: mixed(np.zeros((2, 3, 4, 4), np.float32), np.zeros(3, np.int64)), "labels are"),
        (lambda: mixed(np.zeros((1, 3, 4, 4), np.float32), np.array([10])), "label 10 is not"),
    ],
)  # fmt: skip
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def mixed(images, labels):
    return paddle_mv3.CutMix(1.0, 10)(images, labels, np.random.default_rng(0))
