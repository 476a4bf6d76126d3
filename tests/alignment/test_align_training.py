"""Checkpoint6/align_training.py: right trainers are called right; what it says, and refuses."""

import json
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from conftest import ROOT
from PIL import Image

from alignment.dropout import check_masks
from alignment.training import curves as free_runs
from alignment.training.lockstep import Follower
from alignment.training.quantities import compare_gradients
from alignment.training.replay import subset
from paddle_mv3 import ImageFolder

SCRIPT = "Checkpoint6/align_training.py"
SHORT = SCRIPT, "--steps", "10", "--processes", "1"


def rows(result_dir, kind):
    """Lines of the log with quantities of a kind."""
    log = (result_dir / "log" / "train_align_steps.log").read_text()
    return [line for line in log.splitlines() if f"  {kind:17}  " in line]


def test_both_trainers_take_the_same_steps(run, tmp_path):
    result = run(*SHORT)
    assert result.status == 0, result.out + result.err
    assert result.out.splitlines()[-1] == "aligned: both trainers take the same steps"
    assert "float64, 10 steps, each from the same state" in result.out
    assert not result.err
    folder = tmp_path / "result"
    # Each step, and in each all 142 parameters, 68 statistics, and both states of RMSprop.
    assert len(rows(folder, "update")) == 10 * 142
    assert len(rows(folder, "gradient")) == 9 * 142  # without the step that overflows
    assert len(rows(folder, "running statistic")) == 10 * 68
    assert len(rows(folder, "optimizer state")) == (10 - 0) * 2 * 142
    assert len(rows(folder, "moving average")) == 10 * (1 + 210)
    assert (
        len(rows(folder, "evaluation")) == 5 * (3 + 2 * 3) + 1
    )  # the last is on record + 1  # and what is recorded
    # The gradients that are compared are each framework's own: they differ, by rounding.
    values = [float(line.split()[-2]) for line in rows(folder, "gradient") if "epoch 4" in line]
    assert 0 < max(values) < 1e-6
    assert any("going on from a checkpoint" in line for line in rows(folder, "between steps"))
    assert any("32768.0 | 32768.0" in line for line in rows(folder, "loss scale"))
    rates = [line.split()[-3] for line in rows(folder, "learning rate")]
    assert len(set(rates)) > 3  # warm-up, the rate itself, a step down
    summary = json.loads((folder / "log" / "train_align_steps.json").read_text())
    assert summary["aligned"] and "moving average" in summary["compared"]
    with Image.open(folder / "log" / "train_align_steps.png") as picture:
        assert picture.width > 800


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--model", "mobilenet_v3_large"],
        ["--opt", "adamw", "--lr", "0.001", "--auto-augment", "ra", "--mixup-alpha", "0"],
        ["--opt", "sgd_nesterov", "--auto-augment", "ta_wide", "--lr-scheduler", "exponentiallr"],
        ["--opt", "sgd", "--cutmix-alpha", "0", "--mixup-alpha", "0", "--random-erase", "0"],
        ["@{recipes}/mobilenet_v3_small_600.txt", "-b", "8"],
        ["@{recipes}/mobilenet_v3_small_120.txt", "-b", "8", "--workers", "0"],
    ],
)
def test_other_recipes(options, run):
    options = [option.format(recipes=ROOT / "Checkpoint6" / "recipes") for option in options]
    result = run(*SHORT, *options, "--train-crop-size", "64")
    assert result.status == 0, result.out + result.err


@pytest.mark.slow
def test_repeated_augmentation(run, tmp_path):
    for part in ("train", "val"):
        for number in range(264):
            folder = tmp_path / part / f"class{number % 4}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 40), 64).convert("RGB").save(folder / f"{number}.png")
    result = run(
        *(SCRIPT, "--processes", "1", "--data-path", tmp_path, "--ra-sampler", "--epochs", "2"),
        *("--steps", "66", "--lr-warmup-epochs", "1", "--train-crop-size", "32"),
    )
    assert result.status == 0, result.out + result.err


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--opt", "adamw", "--lr", "0.001"]])
def test_two_processes_take_the_same_steps(options, run, tmp_path):
    result = run(SCRIPT, "--steps", "10", *options)
    assert result.status == 0, result.out + result.err
    assert "4 steps of 2 processes, compared with one process and with PyTorch's" in result.out
    folder = tmp_path / "result"
    assert len(rows(folder, "ranks")) == 2 * 4 * 2
    found = [line for line in rows(folder, "gradient") if line.startswith("2 processes")]
    assert len(found) == 2 * 4 * 142


def test_a_free_run_may_part_as_the_reference_alone_does():
    steps = np.arange(20)
    rounding = 1e-7 * 2.0**steps
    loss = 2 - 0.01 * steps

    def curves(factor):
        made = {"reference": loss, "port": loss + factor * rounding, "copy 1": loss - rounding}
        return {name: {"loss": x, "lr": loss} for name, x in made.items()}

    def agree(factor):
        return all(row.agrees for row in free_runs.compare_curves(curves(factor)))

    assert agree(2) and not agree(1000)


@pytest.mark.slow
def test_half_precision_is_found_in_the_free_run(run, monkeypatch):
    """In float64 its steps are right: the port rounds only what is float32."""
    forward = paddle.nn.Conv2D.forward

    def rounded(self, x):
        out = forward(self, x)
        if out.dtype == paddle.float32:
            out = out + (out.astype("float16").astype("float32") - out).detach()
        return out

    monkeypatch.setattr(paddle.nn.Conv2D, "forward", rounded)
    result = run(*SHORT)
    assert result.status == 1
    assert "NOT ALIGNED: the two trainings differ" in result.out
    assert "First difference: float32, step " in result.out and "free run" in result.out


@pytest.mark.slow
def test_a_line_is_on_all_steps_since_the_last(run, monkeypatch):
    from Checkpoint6 import trainer

    add = trainer.Window.add

    def newest(self, loss, hits, images):
        add(self, loss, hits, images)
        self.losses = [loss] * len(self.losses)

    monkeypatch.setattr(trainer.Window, "add", newest)
    result = run(SCRIPT, "--steps", "15", "--processes", "1")
    assert result.status == 1
    assert "First difference: the time before step 2: log train loss" in result.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "9"], "--steps 9: give 10 or more"),
        (["--steps", "x"], "--steps"),
        (["-b", "5"], "--batch-size 5: give an even number, 4 or more"),
        (["--auto-augment", "augmix"], "augmix"),
        (["--resume", "auto"], "--resume"),
        (["--weights", "x.pdparams"], "--weights"),
        (["--sync-bn"], "--sync-bn"),
        (["--amp"], "--amp"),
        (["--ra-sampler"], "256"),
        (["--data-path", "nowhere"], "nowhere"),
        (["--steps", "1000"], "has 166 images"),
    ],
)
def test_what_cannot_be_compared_is_said(options, words, run):
    result = run(*SHORT, *options)
    assert words in result.error_line


def test_an_image_that_cannot_be_decoded_is_named_where_it_is(run, tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        for number in range(40):
            (tmp_path / part / "a" / f"{number}.png").write_bytes(b"no image")
    result = run(*SHORT, "--data-path", tmp_path)
    assert f"{tmp_path}/train/a/0.png" in result.error_line


def test_a_result_folder_that_cannot_be_is_said_first(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(*SHORT, "--result-dir", tmp_path / "file" / "result")
    assert "cannot write" in result.error_line
    assert not result.out


def test_a_subset_takes_classes_by_turns(tmp_path):
    for name, count in (("a", 5), ("b", 1), ("c", 3)):
        (tmp_path / "from" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (4, 4)).save(tmp_path / "from" / name / f"{number}.png")
    subset(ImageFolder, tmp_path / "from", tmp_path / "to", 6)
    found = sorted(str(path.relative_to(tmp_path / "to")) for path in tmp_path.glob("to/*/*"))
    assert [path[0] for path in found] == list("aaabcc")


def test_masks_are_told_from_each_other():
    rng = np.random.default_rng(0)
    module = SimpleNamespace(p=0.2)

    def step(mask):
        return {"drop": (module, {"shape": mask.shape, "factor": mask / 0.8})}

    def agree(*masks):
        earlier = {}
        return all(found == 0 for m in masks for _, found in check_masks(step(m), earlier))

    one, other = (rng.random((4, 200)) > 0.2 for _ in range(2))
    assert agree(one, other)
    assert not agree(one, one)
    assert not agree(np.repeat(one[:1], 4, axis=0))
    few = np.ones((4, 3))
    assert agree(few, few)  # by chance


def test_gradients_that_a_factor_is_all_of_are_called_so():
    a, b = {"x.y.w": np.ones(3), "x.y.b": None}, {"x.y.w": np.full(3, 2.0), "x.y.b": None}
    assert compare_gradients("", b, a)[0].name == "3.46410162 | 1.73205081, 2 times"
    b["x.y.w"][0] = 3
    assert compare_gradients("", b, a)[0].kind == "gradient"
    assert all(row.agrees for row in compare_gradients("", a, a))


def test_a_follower_runs_only_while_it_is_waited_for():
    said = []

    def run():
        for number in range(3):
            said.append(number)
            follower.pause()
        said.append("end")

    follower = Follower(run)
    assert said == []
    assert follower.resume() and said == [0]
    assert follower.resume() and follower.resume() and said == [0, 1, 2]
    assert not follower.resume() and said[-1] == "end" and follower.ended
    assert not follower.resume()


def test_a_follower_that_is_left_runs_no_further():
    said = []

    def run():
        try:
            follower.pause()
            said.append("further")
        finally:
            said.append("left")

    follower = Follower(run)
    follower.resume()
    follower.leave()
    assert said == ["left"] and follower.ended


def test_what_a_follower_raises_reaches_its_leader():
    def run():
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        Follower(run).resume()
