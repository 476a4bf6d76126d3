"""Step 02's edge cases, and how small a mistake in the data it would have seen."""

import functools

import numpy as np
import pytest
from PIL import Image

import paddle_mv3
import torch_ref
from alignment.diff import DiffHelper
from alignment.stages import augmentation, awkward
from alignment.stages import data_cases as cases
from alignment.stages.data import data_power
from alignment.stages.sampling import compare_sampling
from paddle_mv3.data import dataset


@pytest.fixture
def pictures_alone(monkeypatch):
    """compare_cases, with the sections of pictures and files alone."""
    for name in ("eval_presets", "train_presets", "policies", "operations", "erasing", "mixes"):
        monkeypatch.setattr(cases._Cases, name, lambda self: None)
    return functools.partial(cases.compare_cases, paddle_mv3, torch_ref)


@pytest.mark.parametrize("seed", range(5))
def test_no_false_alarm(seed, tmp_path):
    compared = cases.compare_cases(paddle_mv3, torch_ref, tmp_path / "log", seed)
    assert compared.agrees, (tmp_path / "log").read_text()
    assert not compared.not_compared
    (line,) = compared.lines()
    log = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(f"edge cases: {len(log)} agree")
    assert "pictures 101" in line


def test_what_differs_is_named_and_shown(pictures_alone, monkeypatch, tmp_path):
    load = dataset.load_image

    def turned(path):
        with Image.open(path) as image:
            if image.mode == "CMYK":
                raise ValueError("CMYK")
        return load(path).transpose(Image.Transpose.ROTATE_180)

    monkeypatch.setattr(dataset, "load_image", turned)
    compared = pictures_alone(tmp_path / "log")
    first, *more = compared.findings
    assert first.title == cases.TITLE
    assert first.text() == "pictures: PNG of mode 1: stage decode"
    assert "values differ, most at" in first.detail[0]
    refused = next(f.text() for f in more if "JPEG of mode CMYK" in f.where)
    assert "stage decode ValueError: CMYK" in refused and refused.endswith("| no error")
    (entry,) = compared.data["images"]
    assert entry["title"] == first.where and entry["port"] != entry["reference"]
    log = (tmp_path / "log").read_text().splitlines()
    assert sum(" differs  " in line for line in log) == len(compared.findings)


def test_a_codec_that_is_missing_is_named(pictures_alone, monkeypatch, tmp_path):
    Image.init()
    monkeypatch.delitem(Image.SAVE, "WEBP")
    compared = pictures_alone(tmp_path / "log")
    assert compared.agrees
    assert any(line.startswith("pictures: WebP of mode RGB") for line in compared.not_compared)
    assert all("WEBP" in line or "WebP" in line for line in compared.not_compared)


def test_pictures_are_what_they_are_called(tmp_path):
    made, lacking = awkward.pictures(tmp_path)
    assert not lacking and len(made) == 100
    modes = set()
    for what, name in made.items():
        with Image.open(tmp_path / "pictures" / name) as image:
            modes.add(image.mode)
            assert image.info.get("interlace", 0) == ("interlaced" in what)
            assert bool(image.info.get("progressive")) == ("progressive" in what)
            several = "animated" in what or "several" in what
            assert getattr(image, "n_frames", 1) > 1 if several else True, what
    wanted = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"}
    assert wanted <= modes


def sampler_of(side, dataset, rank, world_size, drop_last=False):
    if side == "port":
        return paddle_mv3.DistributedSampler(dataset, rank, world_size, drop_last=drop_last)
    return torch_ref.DistributedSampler(dataset, world_size, rank, drop_last=drop_last)


def test_a_sampler_that_refuses_what_the_reference_gives_is_found():
    def picky(dataset, rank, world_size, **more):
        if len(dataset) < world_size:
            raise ValueError("too few images")
        return sampler_of("port", dataset, rank, world_size, **more)

    reference = functools.partial(sampler_of, "reference")
    # To refuse where the reference gives nothing is right: cut, there is none for each process.
    variants = [{"drop_last": True}]
    assert compare_sampling(picky, reference, (256,), variants).agrees
    compared = compare_sampling(picky, reference, (256,))
    assert "1 images, 2 processes" in compared.lines()[0]
    assert "too few images | no error" in compared.lines()[0]


# --- power ---


@pytest.mark.parametrize("values", [2, 12])
def test_a_change_of_the_size_that_is_told_would_have_been_seen(values):
    """In half of all runs or so; of a third of it, hardly ever. Of chi-square."""
    rng, bound, count = np.random.default_rng(values), 1e-6, 400
    chances = np.full(values, 1 / values)
    sample = functools.partial(rng.choice, values, 1000)
    test = augmentation._discrete(sample(p=chances).tolist(), sample(p=chances).tolist())
    change = test.smallest_change(bound)
    seen = {}
    for part in (1, 1 / 3):
        other = chances - part * change / (values - 1)
        other[0] = chances[0] + part * change
        seen[part] = np.mean(
            [
                augmentation._discrete(sample(p=other).tolist(), sample(p=chances).tolist()).p
                < bound
                for _ in range(count)
            ]
        )
    assert seen[1] > 0.3 and seen[1 / 3] < 0.05


def test_a_value_that_never_came_and_a_distribution_function():
    rng, bound = np.random.default_rng(0), 1e-6
    certain = augmentation._discrete([1] * 300, [1] * 300)
    new = round(certain.smallest_change(bound) * 300)
    assert augmentation._discrete([1] * (300 - new - 1) + [2] * (new + 1), [1] * 300).p < bound
    assert augmentation._discrete([1] * (300 - new // 2) + [2] * (new // 2), [1] * 300).p > bound
    # So few that nothing would be seen.
    assert augmentation._discrete([1] * 5, [1] * 5).smallest_change(bound) == np.inf
    a, b = rng.random(500), rng.random(500)
    distance = augmentation._continuous(a, b).smallest_change(bound)
    assert augmentation._continuous(np.where(a < distance * 1.1, 0.0, a), a).p < bound


def test_one_unit_in_the_last_place_of_an_image_is_seen():
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((4, 3, 20, 20), dtype=np.float32)
    whole[0, 0, 0, 0] = 0.0
    others = rng.standard_normal((9, 3, 20, 20), dtype=np.float32)
    means = np.concatenate([x.mean(axis=(2, 3), dtype=np.float64) for x in (whole, others)])
    records = {"dataloader_0": whole, "all_means": means}
    power = data_power(records, 0.0, {"flip": 0.25, "erasing": np.inf})
    assert power.exact == power.recorded == whole.size and power.others == 9
    assert "flip: 0.25" in power.line() and "erasing" not in power.line()
    assert "power  erasing  inf" in power.lines()
    for place in ((0, 0, 0, 0), (3, 2, 19, 19)):
        changed = whole.copy()
        changed[place] = np.nextafter(changed[place], np.float32(9))
        helper = DiffHelper()
        helper.compare_info(records, {**records, "dataloader_0": changed})
        assert helper.judge(diff_threshold=0.0)["dataloader_0"].name == "misaligned"
    for number in range(9):
        changed = others[number].astype(np.float64)
        changed[1, 2, 3] += 2 * power.change
        assert (changed.mean(axis=(1, 2)) != others[number].mean(axis=(1, 2), dtype="f8")).any()
    # A threshold of which one unit would not be seen.
    assert data_power(records, 1e-9, {}).exact < whole.size
