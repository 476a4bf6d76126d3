"""Training alignment: digits, statistics of several trainings, the comparison of two accuracies."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, Result, occupied
from PIL import Image
from scipy import stats

import torch_ref
from alignment import trainers
from alignment.files import CannotRun, load_pdparams, shown
from alignment.training import accuracy, significance
from alignment.training.digits import make_digits
from alignment.training.learning import ROUNDING, Training, judge
from Checkpoint6 import align_learning, compare_top1, tools


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "digits"
    assert make_digits(folder)
    return folder


# --- the images ---


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


def test_the_digits_are_all_there_and_split_by_class(digits):
    counts = {
        part: [len(list((digits / part / str(d)).iterdir())) for d in range(10)]
        for part in ("train", "val")
    }
    assert (sum(counts["train"]), sum(counts["val"])) == (1437, 360)
    for train, val in zip(counts["train"], counts["val"]):
        assert abs(val / (train + val) - 360 / 1797) < 0.01
    names = [path.name for path in digits.rglob("*.png")]
    assert len(set(names)) == 1797  # no scan is in both parts
    dataset = torch_ref.ImageFolder(str(digits / "val"))
    assert dataset.classes == [str(d) for d in range(10)]
    sizes = {Image.open(path).size for path, _ in dataset.samples}
    assert sizes == {(32, 32)}


def test_the_digits_are_what_scikit_learn_has(digits):
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    for path in sorted((digits / "val").rglob("*.png"))[::40]:
        scan = scans[int(path.stem)].reshape(8, 8)
        assert labels[int(path.stem)] == int(path.parent.name)
        small = np.asarray(Image.open(path).resize((8, 8), Image.Resampling.BOX), float)
        assert np.corrcoef(small.ravel(), scan.ravel())[0, 1] > 0.97


def test_the_digits_are_the_same_every_time(digits, tmp_path):
    make_digits(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(digits)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]  # no temporary is left
    assert not make_digits(tmp_path / "again")  # left as it is


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CannotRun, match="is not these 1,797 images"):
        make_digits(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


# --- the statistics ---


def samples(shift=0.0, count=8, spread=0.5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(97 + shift, spread, count), rng.normal(97, 2 * spread, count)


def test_the_comparison_is_welchs():
    for port, reference in (samples(), samples(shift=-3), samples(count=3)):
        found = significance.compare_means(port, reference)
        theirs = stats.ttest_ind(port, reference, equal_var=False)
        interval = theirs.confidence_interval(0.99)
        assert found.p == pytest.approx(theirs.pvalue)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
        # What the test says is what the threshold says.
        assert (abs(found.difference) <= found.tolerance) == (found.p >= 0.01)


def test_a_shift_is_found_and_equal_samples_pass():
    assert significance.compare_means(*samples(shift=-3)).p < 0.01
    wrong = sum(significance.compare_means(*samples(seed=s)).p < 0.01 for s in range(300))
    assert 1 <= wrong <= 9  # 3 to be expected


def test_what_the_test_can_find_is_found_as_often_as_said():
    spreads, counts = (0.5, 1.0), (8, 8)
    shift = significance.detectable(spreads, counts)
    rng = np.random.default_rng(0)
    port, reference = (rng.normal(m, s, (20000, 8)) for m, s in zip((shift, 0), spreads))
    found = stats.ttest_ind(port, reference, axis=1, equal_var=False).pvalue < 0.01
    # The degrees of freedom are estimated from the samples: a little less often.
    assert found.mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.slow
def test_a_margin_that_is_called_equivalent_holds():
    """At a true difference as large as the margin, it is called smaller one time in a hundred."""
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(97.7, 0.5, 8), rng.normal(97, 0.5, 8)) for _ in range(1000)]
    wrong = sum(significance.compare_means(*pair).equivalent < 0.7 for pair in pairs)
    assert 1 <= wrong <= 9


def test_results_that_are_all_the_same_are_not_exact():
    same = [97.5] * 3
    one_image_less = [97.5 - 100 / 360] * 3
    found = significance.compare_means(same, one_image_less, ROUNDING)
    assert abs(found.difference) <= found.tolerance < 0.5
    found, failure, _ = judge([97.5] * 3, [95.5] * 3, align_learning.LONG)
    assert abs(found.difference) > found.tolerance and failure is None


def test_a_known_spread_judges_single_trainings():
    spread = align_learning.SHORT.spread
    for shift in (0, 2.5, 2.65):
        found = significance.known_spread([80 + shift * spread * 2**0.5], [80], spread)
        assert (abs(found.difference) <= found.tolerance) == (shift < 2.576)
        assert found.p == pytest.approx(2 * stats.norm.sf(shift))


# --- compare_top1.py ---


TRAINING = {
    "model": "mobilenet_v3_small",
    "folder": "imagenet",
    "classes": 1000,
    "train": {"images": 1281167, "sha256": "a"},
    "val": {"images": 50000, "sha256": "b"},
    "epochs": 36,
    "images in a step": 16,
    "recipe": {"lr": 0.1, "opt": "sgd"},
    "seeds": [0],
}


def write_top1(path, value, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    trainers.write_top1(path, value, {**TRAINING, **changes})


@pytest.fixture
def compare(tmp_path, capfd):
    """compare_top1.py on two accuracies, in this process."""

    def run_comparison(port, reference, *options):
        for name, value in ((accuracy.PORT, port), (accuracy.REFERENCE, reference)):
            if value is not None:
                write_top1(tmp_path / name, value)
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            argv = ["--result-dir", str(tmp_path), *options]
            tools.run(compare_top1.main, compare_top1.parser(), argv)
        return Result(leaving.value.code or 0, *capfd.readouterr())

    return run_comparison


@pytest.mark.parametrize(
    ("port", "options", "status"),
    [
        (67.6, (), 0),
        (67.53, (), 0),
        (67.5, (), 1),
        (67.5, ("--tolerance", "0.2"), 0),
        (12.0, ("--tolerance", "1"), 1),
        (69.0, (), 0),
    ],
)
def test_an_accuracy_counts_where_it_is_below(compare, tmp_path, port, options, status):
    result = compare(port, 67.668, *options)
    assert result.status == status, result.out + result.err
    log = (tmp_path / "log" / "train_align_diff.log").read_text()
    assert f"check passed: {status == 0}" in log
    assert f"diff check {'passed' if status == 0 else 'failed'}" in log
    verdict = next(line for line in result.out.splitlines() if "ligned" in line.lower())
    assert verdict.startswith("NOT ALIGNED: top1" if status else "aligned: ")
    side = "1.332 points above" if port == 69 else "points below"
    assert side in result.out and side in log
    assert ("only an accuracy below" in result.out) == (port == 69)


def test_a_published_accuracy_takes_the_place_of_the_record(compare):
    assert compare(67.6, None, "--published", "67.668").status == 0
    assert compare(60.1, 60.0, "--published", "67.668").status == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"images": 200, "sha256": "c"}, "classes": 8, "folder": "lite_data"},
         "data: imagenet (1,281,167 and 50,000 images of 1,000 classes) | lite_data (200 "),
        ({"val": {"images": 50000, "sha256": "c"}}, "classes), whose files have other names"),
        ({"epochs": 15}, "trainings: epochs: 36 | 15. Train both with the same"),
        ({"model": "mobilenet_v3_large"}, "model: mobilenet_v3_small | mobilenet_v3_large"),
        ({"images in a step": 32}, "images in a step: 16 | 32"),
        ({"recipe": {"lr": 0.2, "wd": 0.1}}, "lr: 0.1 | 0.2; opt: sgd | None; wd: None | 0.1."),
    ],
)  # fmt: skip
def test_what_was_trained_otherwise_is_not_compared(compare, tmp_path, changes, message):
    write_top1(tmp_path / accuracy.PORT, 67.0)
    write_top1(tmp_path / accuracy.REFERENCE, 67.1, **changes)
    line = compare(None, None).error_line
    assert "are of two different trainings" in line and message in line
    assert not (tmp_path / "log").exists()
    assert compare(None, None, "--published", "67.1").status == 0


def test_other_seeds_and_their_mean_are_compared(compare, tmp_path):
    write_top1(tmp_path / accuracy.PORT, 67.0, seeds=[0, 1, 2], folder="elsewhere")
    write_top1(tmp_path / accuracy.REFERENCE, 67.1, seeds=[7])
    result = compare(None, None)
    assert result.status == 0, result.err
    text = "mobilenet_v3_small, 36 epochs on elsewhere (1,281,167 and 50,000 images of "
    text += "1,000 classes)"
    assert f"the port: {text}, mean of 3 seeds" in result.out


def test_what_an_accuracy_cannot_tell_is_not_judged(compare, tmp_path):
    few = {"val": {"images": 134, "sha256": "b"}, "classes": 8}
    for name in (accuracy.PORT, accuracy.REFERENCE):
        write_top1(tmp_path / name, 60.0, **few)
    line = compare(None, None).error_line
    assert "134 images" in line and "one of them is 0.746 points" in line and "--tolerance" in line
    assert compare(None, None, "--tolerance", "3").status == 0
    line = compare(None, None, "--published", "67.668", "--tolerance", "90").error_line
    assert "of ImageNet's 1,000 classes" in line and "8 classes" in line


def spoil(file, record):
    """Makes the description `file` of `record` useless in each of several ways."""
    good = file.read_text()
    for content in ("", "[" * 100_000, "{}", '{"sha256": 1, "training": {}}', "x" * 2_000_000):
        file.write_text(content)
        yield "is damaged"
    file.write_text(good)
    np.save(record, {"top1": np.array([50.0])}, allow_pickle=True)
    yield "is of another one"
    file.unlink()
    yield "there is no"
    file.mkdir()
    yield "cannot read"


@pytest.mark.parametrize("side", ["PORT", "REFERENCE"])
def test_an_accuracy_of_an_unknown_training_is_not_compared(compare, tmp_path, side):
    compare(67.0, 67.1)
    record = tmp_path / getattr(accuracy, side)
    for message in spoil(record.with_suffix(".json"), record):
        line = compare(None, None).error_line
        assert f"it cannot be told what {shown(record)} was trained on" in line and message in line
        assert line.endswith("Train again, or give --published")
        result = compare(None, None, "--published", "50")
        assert result.status == 0 and ("cannot be told" in result.out) == (side == "PORT")


class Folder:
    classes = ("b", "ä")

    def __init__(self, root, names):
        self.samples = [(f"{root}/{name}", 0) for name in names]


def test_the_data_is_told_by_the_names_of_its_files(tmp_path):
    recipe = {"model": "m", "epochs": 2, "batch_size": 4, "seed": 3, "lr": 0.1, "amp": None}

    def training(root, names=("ä/2.png", "b/1.png"), **more):
        sets = Folder(root / "train", names), Folder(root / "val", ["b/3.png"])
        return trainers.training_of({**recipe, **more}, 2, root, *sets)

    first = training(tmp_path)
    assert first["images in a step"] == 8 and first["recipe"] == {"lr": 0.1, "amp": None}
    # In another place, listed in another order, on twice as many devices with half of the images.
    other = training(tmp_path / "x", ("b/1.png", "ä/2.png"), seed=4, processes=2)
    assert trainers.differences(first, other) == [] and first["seeds"] != other["seeds"]
    (line,) = trainers.differences(first, training(tmp_path, ("b/1.png", "b/2.png")))
    assert line.endswith("whose files have other names")


@pytest.mark.slow
def test_both_trainers_say_what_they_trained_on(spawn, images, tmp_path, compare):
    short = ["--device", "cpu", "-j", 0, "--epochs", 1, "-b", 13, "--train-crop-size", 32]
    for script in ("Checkpoint6/train.py", "torch_ref/train.py"):
        folders = ["--output-dir", tmp_path / script, "--result-dir", tmp_path]
        assert spawn(ROOT / script, "--data-path", images, *folders, *short).status == 0
    result = compare(None, None, "--tolerance", "100")
    assert result.status == 0, result.err
    assert f"1 epochs on {images.name} (26 and 13 images of 3 classes)" in result.out


@pytest.mark.parametrize(
    ("port", "reference", "options", "message"),
    [
        (None, 67.6, (), "Checkpoint6/train.py writes it"),
        (67.6, None, (), "torch_ref/train.py writes it"),
        (float("nan"), 67.6, (), "holds no top-1 in per cent"),
        (6760.0, 67.6, (), "holds no top-1 in per cent"),
        (67.6, None, ("--published", "0.67668"), "0.67668 is not an accuracy in per cent"),
        (67.6, 67.6, ("--tolerance", "-1"), "-1 is not a number, 0 or more"),
    ],
)
def test_bad_input_is_one_line(compare, port, reference, options, message):
    assert message in compare(port, reference, *options).error_line


# --- align_learning.py ---

# A trainer that learns at once; each start of it is a line in the file `starts`.
TRAINER = """
import argparse, json, pathlib, sys, time
from unittest.mock import MagicMock
import numpy as np
sys.modules["paddle"] = sys.modules["torch"] = MagicMock()  # reprod_log imports them, for nothing
flags = argparse.ArgumentParser()
for name in ("seed", "epochs"):
    flags.add_argument("--" + name, type=int)
for name in ("output-dir", "result-dir", "weights", "data-path"):
    flags.add_argument("--" + name, type=pathlib.Path)
args = flags.parse_known_args()[0]
with open({starts!r}, "a") as file:
    file.write(f"{record} {{args.seed}}\\n")
assert args.weights.exists() and (args.data_path / "train" / "9").is_dir()
{then}
top1 = [{top1} + args.seed / 10 - 10 * (args.epochs - 1 - e) for e in range(args.epochs)]
args.output_dir.mkdir()
with open(args.output_dir / "train.jsonl", "w") as file:
    for value in top1:
        for kind in ("train", "epoch", "val"):
            file.write(json.dumps({{"kind": kind, "top1": value, "loss": 100 - value}}) + "\\n")
sys.path.insert(0, {root!r})
from alignment.trainers import write_top1
write_top1(args.result_dir / {record!r}, top1[-1], {training!r})
"""


class Learning:
    """align_learning.py in this process, with trainers that take no time."""

    def __init__(self, folder, monkeypatch, capfd):
        self.folder, self.capfd, self.monkeypatch = folder, capfd, monkeypatch
        self.trainers(97.0, 97.1)

    def trainers(self, port, reference, then=""):
        """`then` is code of the reference's."""
        fakes = []
        for framework, top1, code in zip(align_learning.FRAMEWORKS, (port, reference), ("", then)):
            script = self.folder / f"train_{framework.name}.py"
            names = {"starts": str(self.folder / "starts"), "record": framework.record}
            names |= {"root": str(ROOT), "training": TRAINING}
            script.write_text(TRAINER.format(top1=top1, then=code, **names))
            fakes.append(framework._replace(script=script))
        self.monkeypatch.setattr(align_learning, "FRAMEWORKS", tuple(fakes))

    def finished(self, port, reference, epochs=4, seeds=3, flags=align_learning.LONG.recipe):
        """Leaves trainings as if they had been run."""
        for framework, top1 in zip(align_learning.FRAMEWORKS, (port, reference)):
            for seed in range(seeds):
                training = Training(framework, seed, epochs, self.folder / "out", flags)
                values = [top1 + seed / 10 - 10 * (epochs - 1 - e) for e in range(epochs)]
                write_top1(training.folder / framework.record, values[-1])
                with open(training.folder / "train.jsonl", "w") as file:
                    for value in values:
                        for kind in ("train", "epoch", "val"):
                            entry = {"kind": kind, "top1": value, "loss": 100 - value}
                            file.write(json.dumps(entry) + "\n")
                training.finish()

    def starts(self):
        """(record, seed) of each training that was begun since the last call, sorted."""
        file = self.folder / "starts"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return sorted((name, int(seed)) for name, seed in map(str.split, lines))

    def run(self, *options):
        argv = ["--output-dir", self.folder / "out", "--result-dir", self.folder / "result"]
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            argv = [str(x) for x in (*argv, *options)]
            tools.run(align_learning.main, align_learning.parser(), argv)
        return Result(leaving.value.code or 0, *self.capfd.readouterr())


@pytest.fixture
def learning(tmp_path, monkeypatch, capfd):
    return Learning(tmp_path, monkeypatch, capfd)


def verdict(result):
    return next(x for x in result.out.splitlines() if x.startswith(("aligned", "NOT ALIGNED")))


LONG = ("--seeds", 3, "--epochs", 4)


def test_both_sides_that_learn_are_aligned(learning, tmp_path):
    result = learning.run(*LONG)
    assert result.status == 0, result.out + result.err
    assert verdict(result).startswith("aligned: 1 array, largest mean difference 0.1 (top1)")
    assert "paddle: 97.100 ± 0.100 (97.00, 97.10, 97.20)" in result.out
    assert "paddle minus torch: -0.100 points, 99 % interval" in result.out
    records = [
        np.load(tmp_path / "result" / f"train_align_{name}.npy", allow_pickle=True).item()
        for name in ("paddle", "benchmark")
    ]
    assert [record["top1"].tolist() for record in records] == [
        [pytest.approx(97.1)],
        [pytest.approx(97.2)],
    ]
    log = (tmp_path / "result" / "log" / "train_align_diff.log").read_text()
    assert "diff check passed" in log and "Welch" in log
    with Image.open(tmp_path / "result" / "log" / "train_align.png") as picture:
        assert picture.width == 800 and picture.format == "PNG"


def test_both_sides_begin_with_the_same_weights_of_each_seed(learning, tmp_path):
    learning.run("--seeds", 2, "--epochs", 2)
    biases = []
    for seed in range(2):
        file = tmp_path / "out" / "weights" / f"seed{seed}"
        reference = torch.load(file.with_suffix(".pth"), weights_only=True)
        port = load_pdparams(file.with_suffix(".pdparams"))
        weight = reference["classifier.3.weight"].numpy()
        assert weight.shape[0] == 10 and np.array_equal(weight.T, port["classifier.3.weight"])
        biases.append(weight)
    assert not np.array_equal(*biases)


@pytest.mark.parametrize(
    ("port", "reference", "message"),
    [
        (95.5, 98.0, "NOT ALIGNED: top1: mean difference 2.5, threshold"),
        (98.0, 95.5, "NOT ALIGNED: top1: mean difference 2.5, threshold"),
        (10.0, 97.0, "NOT ALIGNED: top1: paddle reached 10.10 %, and has to reach 95 %"),
        (97.0, 10.0, "NOT ALIGNED: top1: torch reached 10.10 %, and has to reach 95 %"),
        (94.0, 94.0, "NOT ALIGNED: top1: paddle reached 94.10 %, and has to reach 95 %"),
    ],
)
def test_a_side_that_learns_less_is_not_aligned(learning, tmp_path, port, reference, message):
    learning.finished(port, reference)
    result = learning.run(*LONG)
    assert result.status == 1, result.out + result.err
    assert message in verdict(result)
    log = (tmp_path / "result" / "log" / "train_align_diff.log").read_text()
    assert "diff check failed" in log


def test_the_short_form_can_fail(learning):
    short = align_learning.SHORT
    form = {"epochs": short.epochs, "seeds": short.seeds, "flags": short.recipe}
    learning.finished(79.0, 80.0, **form)
    result = learning.run("--short")
    assert result.status == 0 and "too short to reach 95 %" in result.out, result.out + result.err
    learning.finished(10.0, 80.0, **form)
    result = learning.run("--short")
    assert result.status == 1 and verdict(result).startswith("NOT ALIGNED: top1: mean difference")


def test_what_is_finished_is_not_run_again(learning):
    learning.trainers(97.0, 97.1, then="if args.seed == 1: sys.exit('error: the disk is full')")
    result = learning.run(*LONG, "--jobs", 1)
    line = result.error_line
    assert "torch_seed1_epochs4 ended with exit status 1: the disk is full. Its log: " in line
    assert os.path.exists(line.split("Its log: ")[1])
    port, reference = accuracy.PORT, accuracy.REFERENCE
    assert learning.starts() == [(reference, 0), (reference, 1), (port, 0), (port, 1)]

    learning.trainers(97.0, 97.1)
    result = learning.run(*LONG)
    assert result.status == 0 and "3 are there already" in result.out
    assert learning.starts() == [(reference, 1), (reference, 2), (port, 2)]
    # Fewer and more seeds, and other arguments.
    assert learning.run("--seeds", 2, "--epochs", 4).status == 0
    assert learning.starts() == []
    assert learning.run("--seeds", 2, "--epochs", 2).status == 0
    assert len(learning.starts()) == 4


def test_a_training_that_was_cut_off_is_begun_anew(learning, tmp_path):
    learning.finished(97.0, 97.1)
    (tmp_path / "out" / "torch_seed1_epochs4" / "finished.json").unlink()
    assert learning.run(*LONG).status == 0
    assert learning.starts() == [(accuracy.REFERENCE, 1)]


def test_a_result_that_was_changed_is_said(learning, tmp_path):
    learning.finished(97.0, 97.1)
    folder = tmp_path / "out" / "paddle_seed2_epochs4"
    write_top1(folder / accuracy.PORT, 50.0)
    assert "does not fit its record" in learning.run(*LONG).error_line
    (folder / "train.jsonl").write_text("{}\n")
    assert "cannot read" in learning.run(*LONG).error_line


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from Checkpoint6 import align_learning, tools
align_learning.FRAMEWORKS = tuple(
    framework._replace(script=Path({folder!r}) / f"train_{{framework.name}}.py")
    for framework in align_learning.FRAMEWORKS
)
tools.run(align_learning.main, align_learning.parser())
"""


def test_a_signal_ends_the_trainings_as_well(learning, tmp_path):
    learning.trainers(97, 97, then=f"open({str(tmp_path / 'up')!r}, 'w'); time.sleep(600)")
    code = RUN.format(root=str(ROOT), folder=str(tmp_path))
    command = [sys.executable, "-c", code, "--output-dir", tmp_path / "out"]
    command += ["--result-dir", tmp_path / "result", *LONG]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([str(x) for x in command], **pipes) as process:
        while not (tmp_path / "up").exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        process.terminate()
        out, _ = process.communicate(timeout=60)  # it does not wait for the ten minutes
    assert process.returncode == 143 and "Traceback" not in out, out
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert f"{tmp_path}/out" not in listing
    assert not (tmp_path / "result" / ".lock").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", 1), "a spread needs 2 or more"),
        (("--short", "--epochs", 9), "known for 5 epochs only"),
        (("--epochs", 1), "1 is not a whole number, 2 or more"),
        (("--jobs", 0), "0 is not a whole number above 0"),
    ],
)
def test_bad_options_are_one_line(learning, options, message):
    assert message in learning.run(*options).error_line


@pytest.mark.parametrize("option", ["output-dir", "result-dir"])
def test_two_at_once_do_not_share_a_folder(option, learning, tmp_path):
    folder = tmp_path / {"output-dir": "out", "result-dir": "result"}[option]
    with occupied(folder) as process:
        line = learning.run(*LONG).error_line
    assert f"another run (process {process.pid}) is writing into" in line
    assert line.endswith(f"or give another --{option}")


@pytest.mark.slow
def test_the_trainers_themselves_learn(spawn, tmp_path):
    """The real ones, for two epochs: too few to learn, which is said."""
    script = ROOT / "Checkpoint6" / "align_learning.py"
    options = ["--seeds", 2, "--epochs", 2, "--output-dir", tmp_path / "out"]
    options += ["--result-dir", tmp_path / "result"]
    result = spawn(script, *options, timeout=600)
    assert result.status == 1, result.out + result.err
    assert "has to reach 95 %" in verdict(result)
    entries = [
        json.loads(line)
        for name in ("paddle", "torch")
        for line in (tmp_path / "out" / f"{name}_seed0_epochs2" / "train.jsonl").open()
    ]
    # From the same weights: the first epoch's losses are those of chance, and alike.
    losses = [e["loss"] for e in entries if e["kind"] == "epoch" and e["epoch"] == 0]
    assert losses == pytest.approx([np.log(10)] * 2, abs=0.1)
    again = spawn(script, *options)
    assert again.status == 1 and "4 are there already" in again.out
