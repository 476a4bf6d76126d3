"""Checkpoint6/train.py: trains, can be stopped at any moment, and goes on as if it had not been."""

import contextlib
import ctypes
import fcntl
import inspect
import multiprocessing
import os
import pickle
import random
import re
import resource
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from conftest import ROOT, Result, records, same

import paddle_mv3
from alignment.diff import DiffHelper
from alignment.files import CannotRun, shown
from Checkpoint6 import arguments, checkpoint, distributed, train
from Checkpoint6.data import training_data
from Checkpoint6.saver import Saver
from Checkpoint6.trainer import Diverged, Trainer, Window

TRAIN = ROOT / "Checkpoint6" / "train.py"
# Everything that a resumed training could get wrong is switched on; 7 steps in an epoch.
OPTIONS = shlex.split(
    "--epochs 2 -b 4 -j 0 --train-crop-size 32 --val-crop-size 32 --val-resize-size 36 --lr 0.01 "
    "--opt rmsprop --lr-warmup-epochs 1 --lr-step-size 1 --auto-augment imagenet --model-ema "
    "--model-ema-steps 2 --random-erase 0.2 --mixup-alpha 0.2 --label-smoothing 0.1 "
    "--clip-grad-norm 1 --norm-weight-decay 0 --print-freq 1 --save-steps 2"
)

SHORT = ["--epochs", 1, "--lr-warmup-epochs", 0, "-b", 13, "--save-steps", 0]


@pytest.fixture
def run(images, tmp_path, monkeypatch, capfd):
    """train.py in this process, which has Paddle loaded."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run_training(*options, data=images, out=tmp_path / "out", result=tmp_path / "result"):
        folders = ["--data-path", data, "--output-dir", out, "--result-dir", result]
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, [*OPTIONS, *folders, *options])])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            train.run()
        return Result(leaving.value.code or 0, *capfd.readouterr())

    yield run_training
    for number, handler in handlers.items():
        signal.signal(number, handler)


def start(images, out, *options, launch=(), **more):
    """train.py in a process of its own, and a group of its own."""
    command = [sys.executable, *launch, TRAIN, *OPTIONS, "--data-path", images]
    command += ["--output-dir", out, "--result-dir", out / "result", *options]
    return subprocess.Popen(
        [str(x) for x in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **more,
    )


def wait_for(process, text, seen=""):
    """Reads lines until one has `text`."""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"no {text!r} in:\n{seen}")


def finish(process):
    out = process.communicate(timeout=600)[0]
    return process.returncode, out


@pytest.fixture(scope="module")
def straight(images, tmp_path_factory):
    """The last checkpoint of a training that nobody stopped."""
    out = tmp_path_factory.mktemp("straight")
    status, text = finish(start(images, out))
    assert status == 0, text
    return last(out)


def last(out):
    return checkpoint.load(checkpoint.checkpoints(out)[0])


# --- a training from beginning to end ---


def test_a_training_says_records_and_keeps_what_it_did(run, tmp_path):
    result = run()
    assert result.status == 0, result.err
    out = tmp_path / "out"
    number = r"[\d.e+-]+"
    line = (
        rf"\[[\d/]+ [\d:]+\] \[Train\] epoch: 0, iter: 1/7, lr: {number}, loss: {number}, "
        rf"top1: {number}, top5: {number}, avg_reader_cost: {number} sec, avg_batch_cost: {number} "
        rf"sec, avg_samples: 4\.0, avg_ips: {number} images/sec, eta: \d+:\d\d:\d\d"
    )
    assert re.search(line, result.out), result.out
    assert (out / "train.log").read_text() in result.out

    steps = records(out)
    assert [entry["step"] for entry in steps] == list(range(1, 15))
    wanted = "epoch iter lr loss top1 top5 avg_reader_cost avg_batch_cost avg_samples avg_ips eta"
    assert all(set(wanted.split()) <= entry.keys() for entry in steps)
    assert [entry["lr"] for entry in steps] == [1e-4] * 7 + [0.01] * 7
    assert [entry["avg_samples"] for entry in steps] == [4, 4, 4, 4, 4, 4, 2] * 2
    evaluations = records(out, "val")
    assert [set(e) - {"time", "kind", "step", "epoch"} for e in evaluations] == [
        {"top1", "top5", "loss"},
        {"ema_top1", "ema_top5", "ema_loss"},
    ] * 2
    assert_logs_are_whole(out)

    top1 = DiffHelper().load_info(str(tmp_path / "result" / "train_align_paddle.npy"))["top1"]
    assert top1.tolist() == [evaluations[-1]["ema_top1"]]
    names = sorted(path.name for path in out.glob("*.pdparams"))
    assert names[1:] == [f"checkpoint_0001_00000{i}.pdparams" for i in (3, 5, 7)]
    best = max(evaluations[1::2], key=lambda e: e["ema_top1"])
    assert names[0] == f"best_{best['epoch']:04}.pdparams"

    again = run("--test-only", "--weights", out / names[0])
    assert f"top1: {best['ema_top1']:.5g}" in again.out
    assert "top1" in run("--test-only", "--resume", "auto").out


def assert_logs_are_whole(out):
    """Each step once, in train.jsonl and for VisualDL, however often the training was stopped."""
    from visualdl import LogReader

    steps = records(out)
    assert [entry["step"] for entry in steps] == list(range(1, 15))
    for kind, times in (("epoch", 1), ("val", 2)):
        assert [entry["step"] for entry in records(out, kind)] == [7] * times + [14] * times
    (file,) = (out / "vdl").iterdir()
    data = LogReader(file_path=str(file)).get_data("scalar", "train/loss")
    assert [record.id for record in data] == list(range(1, 15))
    losses = [entry["loss"] for entry in steps]
    assert np.allclose([record.value for record in data], losses, rtol=1e-6)


@pytest.mark.parametrize("name", ["mobilenet_v3_small_600", "mobilenet_v3_small_120"])
def test_recipes_are_the_published_ones(name, run):
    path = ROOT / "Checkpoint6" / "recipes" / f"{name}.txt"
    args = arguments.parse("", [f"@{path}", "--data-path", "x", "--device", "cpu"])
    recipe = arguments.recipe_of(args)
    common = {"model": "mobilenet_v3_small", "lr_scheduler": "steplr", "momentum": 0.9}
    published = {
        "mobilenet_v3_small_600": {
            "epochs": 600, "batch_size": 128, "opt": "rmsprop", "lr": 0.064, "weight_decay": 1e-5,
            "lr_step_size": 2, "lr_gamma": 0.973, "auto_augment": "imagenet", "random_erase": 0.2,
        },
        "mobilenet_v3_small_120": {
            "epochs": 120, "batch_size": 2048 // 8, "opt": "sgd", "lr": 0.8, "lr_step_size": 30,
            "lr_gamma": 0.1, "auto_augment": None, "random_erase": 0.0, "label_smoothing": 0.0,
        },
    }  # fmt: skip
    wanted = common | published[name]
    assert {key: recipe[key] for key in wanted} == wanted
    shorter = ["--train-crop-size", 32, "--epochs", 1, "-b", 8, "--lr-warmup-epochs", 0]
    assert run(f"@{path}", *shorter).status == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "--batch-size 12", "--lr 0.02", "--opt sgd", "--opt adamw", "--momentum 0.5", "--wd 0.1",
        "--norm-weight-decay 0.1", "--bias-weight-decay 0.1", "--label-smoothing 0.3",
        "--mixup-alpha 0", "--cutmix-alpha 1", "--auto-augment ra", "--random-erase 0.9",
        "--auto-augment ra --ra-magnitude 20", "--auto-augment ta_wide", "--auto-augment augmix",
        "--auto-augment augmix --augmix-severity 9", "--clip-grad-norm 0.01", "--seed 1",
        "--model-ema-steps 1 --model-ema-decay 0.5", "--interpolation bicubic",
        "--train-crop-size 40", "--model mobilenet_v3_large", "--ra-sampler",
        "--ra-sampler --ra-reps 2",
    ],
)  # fmt: skip
def test_a_flag_changes_what_is_trained(options, run, images, tmp_path):
    """Each on its own; that it changes it as PyTorch's does is what the numbered steps compare."""
    data, few = images, []
    if "--ra-sampler" in options:  # needs 256 images
        data, few = tmp_path / "many", ["--train-crop-size", 8, "-b", 64]
        for path in images.rglob("*.png"):
            for i in range(10):
                target = data / path.relative_to(images).with_stem(f"{path.stem}_{i}")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    without = [] if options != "--ra-sampler --ra-reps 2" else ["--ra-sampler"]
    if "augmix-severity" in options or "ra-magnitude" in options:
        without = options.split()[:2]
    states = []
    for more in (without, options.split()):
        out = tmp_path / f"out{len(states)}"
        result = run(*SHORT, *few, *more, data=data, out=out)
        assert result.status == 0, result.err
        states.append(last(out))
    a, b = (state["model_ema" if "ema" in options else "model"] for state in states)
    a, b = (state.get("module", state) for state in (a, b))
    assert a.keys() != b.keys() or any(not np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_schedules_and_where_a_training_starts(run, tmp_path):
    epochs = ["--epochs", 5, "--lr-warmup-epochs", 2, "-b", 26, "--save-steps", 0]
    expected = {
        "--lr-scheduler steplr --lr-step-size 2 --lr-gamma 0.5": [1e-4, 1e-4, 0.01, 0.01, 0.005],
        "--lr-scheduler exponentiallr --lr-gamma 0.5 --lr-warmup-decay 0.1": [
            1e-3, 1e-3, 0.01, 0.005, 0.0025,
        ],
        "--lr-scheduler cosineannealinglr --lr-warmup-method linear --lr-min 0.002": [
            1e-4, 0.00505, 0.01, 0.008, 0.004,
        ],
        "--lr-scheduler steplr --start-epoch 3 --lr-step-size 2": [0.01, 0.001],
    }  # fmt: skip
    for i, (options, rates) in enumerate(expected.items()):
        out = tmp_path / str(i)
        assert run(*epochs, *options.split(), out=out).status == 0
        assert np.allclose([entry["lr"] for entry in records(out)], rates, rtol=1e-12), options


@pytest.mark.slow
def test_flags_that_change_how_and_not_what(run, images, tmp_path, monkeypatch, straight):
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    data = damage(images, tmp_path / "data", [])
    for path in data.rglob("*"):  # what has just changed is not remembered
        if path.is_dir():
            os.utime(path, (1e9, 1e9))
    how = ["--cache-dataset", "--use-deterministic-algorithms", "-j", 1, "--keep-last", 1]
    how += ["--print-freq", 3, "--keep-best", 2, "--skip-corrupt", 5, "--device", "cpu"]
    result = run(*how, data=data)
    assert result.status == 0, result.err
    same(straight, last(tmp_path / "out"))
    assert len(list((cache / "paddle_mv3").iterdir())) == 2
    assert len(checkpoint.checkpoints(tmp_path / "out")) == 1


def test_published_weights_are_asked_for(run, data_dir, tmp_path, monkeypatch):
    import torch2paddle

    asked = []

    def prepare(args):
        asked.append((args.model, args.pretrained))
        return None, data_dir / "mv3_small_paddle.pdparams"

    monkeypatch.setattr(torch2paddle, "prepare", prepare)
    for option in (["--pretrained"], ["--weights", "IMAGENET1K_V1"]):
        result = run(*option, *SHORT, out=tmp_path / option[0])
        assert result.status == 0 and "1000 classes" in result.out, result.err
    assert asked == [("mobilenet_v3_small", True)] * 2
    result = run("--test-only", "--pretrained")
    assert re.search("1000 classes.*has 3.*without", result.error_line, re.I)


@pytest.mark.parametrize("epochs", [1, 2, 15])
def test_a_try_out_of_any_length_has_a_warm_up_that_fits(epochs, monkeypatch):
    monkeypatch.setattr(arguments, "unpack_once", lambda *_: None)
    args = arguments.parse("", ["--epochs", str(epochs), "--device", "cpu"])
    assert args.lr_warmup_epochs == min(1, epochs - 1)
    args = arguments.parse("", ["--epochs", "3", "--lr-warmup-epochs", "2", "--device", "cpu"])
    assert args.lr_warmup_epochs == 2
    assert arguments.parse("", ["--device", "cpu"]).epochs == arguments.TRY_OUT["epochs"]


def five_classes(folder):
    """Weights for five classes, each entry a number of its own: as a state_dict and a checkpoint
    with an average, which is what counts of it.
    """
    paddle.seed(5)
    model = paddle_mv3.mobilenet_v3_small(num_classes=5)
    arrays = checkpoint.to_arrays(model.state_dict())
    paddle.save(model.state_dict(), str(folder / "five.pdparams"))
    other = {name: array + 1 for name, array in arrays.items()}
    state = {"model": other, "model_ema": {"n_averaged": 3, "module": arrays}}
    checkpoint.save(folder / "checkpoint.pdparams", state)
    return arrays


@pytest.mark.parametrize("name", ["five.pdparams", "checkpoint.pdparams"])
def test_weights_for_other_classes_begin_a_fine_tuning(name, run, images, tmp_path):
    arrays = five_classes(tmp_path)
    line = f"{shown(tmp_path / name)} is of a model for 5 classes, and {shown(images)} has 3"
    options = ["--weights", tmp_path / name]
    result = run(*options, *SHORT)
    assert result.status == 0, result.err
    assert f"{line}: its last layer, classifier.3, is initialised anew" in result.out
    assert line in (tmp_path / "out" / "train.log").read_text()
    assert line + ": to be evaluated" in run("--test-only", *options).error_line
    assert line not in run("--resume", "auto", *options, *SHORT).out  # it begins with no weights

    args = arguments.parse("", [*OPTIONS, "--data-path", str(images), *map(str, options)])
    said = []
    trainer = train.make_trainer(args, SimpleNamespace(classes="abc"), 7, 0, 1, said.append)
    assert len(said) == 1
    for model in (trainer.model, trainer.model_ema.module):
        state = checkpoint.to_arrays(model.state_dict())
        weight, bias = (state.pop(f"classifier.3.{name}") for name in ("weight", "bias"))
        assert all(np.array_equal(array, arrays[name]) for name, array in state.items())
        # torchvision's: normal with a deviation of 0.01, bias 0.
        assert weight.shape == (1024, 3) and abs(weight.std() / 0.01 - 1) < 0.1
        assert abs(weight.mean()) < 0.001 and not bias.any()


def test_a_new_last_layer_excuses_nothing_else(run, tmp_path):
    large = checkpoint.to_arrays(paddle_mv3.mobilenet_v3_large(num_classes=5).state_dict())
    checkpoint.save(tmp_path / "large.pdparams", {"model": large})
    line = run("--weights", tmp_path / "large.pdparams").error_line
    assert "large.pdparams does not fit the model: features" in line


@pytest.mark.parametrize(
    ("weight", "bias"), [((7, 5), 5), ((1024, 4), 5), ((1024, 0), 0), ((1024, 3), 5), ((5,), 5)]
)
def test_a_damaged_last_layer_is_none_of_other_classes(weight, bias, run, tmp_path):
    arrays = five_classes(tmp_path)
    arrays["classifier.3.weight"] = np.ones(weight, np.float32)
    arrays["classifier.3.bias"] = np.ones(bias, np.float32)
    checkpoint.save(tmp_path / "x.pdparams", {"model": arrays})
    line = run("--weights", tmp_path / "x.pdparams").error_line
    assert "x.pdparams does not fit the model: classifier.3." in line


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_not_begun_with(number, run, tmp_path):
    arrays = five_classes(tmp_path)
    arrays["features.0.1._variance"][2] = number
    checkpoint.save(tmp_path / "x.pdparams", {"model": arrays})
    line = run("--weights", tmp_path / "x.pdparams").error_line
    assert "x.pdparams cannot be used: features.0.1._variance in it holds infinite values" in line


@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_weights_of_another_dtype_are_to_be_converted(dtype, run, tmp_path):
    arrays = {name: array.astype(dtype) for name, array in five_classes(tmp_path).items()}
    checkpoint.save(tmp_path / "x.pdparams", {"model": arrays})
    line = run("--weights", tmp_path / "x.pdparams").error_line
    assert f"is {dtype} [" in line and line.endswith("The dtype differs: convert it to float32")


@pytest.mark.slow
def test_without_arguments_it_learns_lite_data(spawn, tmp_path):
    result = spawn(TRAIN, "--output-dir", tmp_path, "--result-dir", tmp_path, cwd=TRAIN.parent)
    assert result.status == 0, result.err
    assert records(tmp_path, "val")[-1]["top1"] > 30  # by chance 12


@pytest.mark.slow
def test_a_bar_on_a_terminal(images, tmp_path):
    main, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, TRAIN, *OPTIONS, "--data-path", images, "--output-dir", tmp_path]
    command += ["--result-dir", tmp_path]
    process = subprocess.Popen([str(x) for x in command], stdout=terminal, stderr=terminal)
    os.close(terminal)
    text = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(main, 4096):
            text += part
    assert process.wait() == 0
    assert b"epoch 0:" in text and b"/7 [" in text


def test_training_runs_without_torch(images, tmp_path, spawn):
    script = tmp_path / "without_torch.py"
    script.write_text(
        "import runpy, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    short = ["--epochs", "1", "--lr-warmup-epochs", "0", "-b", "13"]
    folders = ["--data-path", images, "--output-dir", tmp_path, "--result-dir", tmp_path]
    result = spawn(script, TRAIN, *OPTIONS, *folders, *short)
    assert result.status == 0, result.err


# --- stopped, and going on ---


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_stopped_by_a_signal_it_saves_and_goes_on_bit_for_bit(number, images, tmp_path, straight):
    process = start(images, tmp_path, "-j", 2)
    wait_for(process, "epoch: 0, iter: 3/7")
    os.killpg(process.pid, number)  # as a terminal or a launcher does: workers too
    status, text = finish(process)
    assert status == 128 + number, text
    assert "--resume auto" in text.splitlines()[-1] and "Traceback" not in text
    stopped = last(tmp_path)
    assert (stopped["epoch"], stopped["iteration"]) == (0, len(records(tmp_path)))

    status, text = finish(start(images, tmp_path, "-j", 0, "--resume", "auto"))
    assert status == 0, text
    same(straight, last(tmp_path))
    assert_logs_are_whole(tmp_path)


RATES = {  # of epochs 0 to 4 of a training of 5
    "--lr-scheduler steplr": [1e-4, 0.01, 0.001, 0.0001, 0.00001],
    "--lr-scheduler exponentiallr --lr-gamma 0.5": [1e-4, 0.01, 0.005, 0.0025, 0.00125],
    "--lr-scheduler cosineannealinglr --lr-min 0.002": [
        1e-4, 0.01, 0.002 + 0.004 * (1 + 0.5**0.5), 0.006, 0.002 + 0.004 * (1 - 0.5**0.5),
    ],
}  # fmt: skip


@pytest.mark.parametrize("options", RATES, ids=lambda text: text.split()[1])
def test_more_epochs_go_on_with_the_rates_of_a_training_of_so_many(options, run, tmp_path):
    options = [*options.split(), "-b", 13, "--save-steps", 0]
    first = run(*options, "--epochs", 3)
    assert first.status == 0, first.err
    state = last(tmp_path / "out")
    result = run(*options, "--epochs", 5, "--resume", "auto")
    assert result.status == 0, result.err
    entries = records(tmp_path / "out")
    rates = [1e-4, 0.01, 0.006] if "cosine" in options[1] else RATES[" ".join(options[:-4])][:3]
    rates += RATES[" ".join(options[:-4])][3:]
    assert np.allclose([e["lr"] for e in entries], np.repeat(rates, 2), rtol=1e-12)

    (line,) = re.findall(r"--epochs is 5 and was 3: .*", result.out)
    if "cosine" in options[1]:
        assert "learning rate of epoch 3 becomes 0.006, and would have been 0.002" in line
    else:
        assert f"goes on as it is, with a learning rate of {rates[3]:.6g} in epoch 3" in line
    decays = [1 - 0.00002 * 13 * 2 / epochs for epochs in (5, 3)]
    assert "it becomes {:.6g}, and was {:.6g}".format(*decays) in result.out
    assert last(tmp_path / "out")["args"]["epochs"] == 5 and state["args"]["epochs"] == 3


def test_in_the_middle_of_an_epoch_all_but_the_rate_is_what_it_was(images, straight):
    options = [*OPTIONS, "--data-path", str(images), "--device", "cpu"]
    cosine = {**straight["args"], "lr_scheduler": "cosineannealinglr"}
    middle = {**straight, "epoch": 1, "iteration": 3, "args": cosine}
    options += ["--lr-scheduler", "cosineannealinglr", "--epochs", "9"]
    args = arguments.parse("", options)
    arguments.require_same_recipe(args, 1, SizedAs(straight["classes"], 26), middle, "x")
    trainer = Trainer(args, 3, 7)
    trainer.set_state_dict(middle, "x")
    (line, _) = trainer.other_epochs(2)
    assert "epoch 1 becomes 0.01, and would have been 0.01" in line
    after = trainer.state_dict()
    for name in ("model", "model_ema", "optimizer", "epoch", "iteration", "sums", "best"):
        same(after[name], middle[name], name)


class SizedAs:
    def __init__(self, classes, length):
        self.classes, self.length = classes, length

    def __len__(self):
        return self.length


def test_fewer_epochs_than_are_done_are_refused(run, tmp_path, straight):
    path = checkpoint.path_of(tmp_path / "out", 1, 7)
    checkpoint.save(path, {**straight, "args": {**straight["args"], "lr_warmup_epochs": 0}})
    line = run("--resume", "auto", "--epochs", 1, "--lr-warmup-epochs", 0).error_line
    assert "is in its epoch 1, counted from 0, and --epochs 1 ends before that: give 2" in line


def test_another_number_of_threads_is_said(run, tmp_path, straight):
    checkpoint.save(checkpoint.path_of(tmp_path / "out", 1, 7), {**straight, "threads": 64})
    assert "OMP_NUM_THREADS=64" in run("--resume", "auto").out
    checkpoint.save(checkpoint.path_of(tmp_path / "out", 1, 7), straight)
    assert "OMP_NUM_THREADS" not in run("--resume", "auto").out


@pytest.mark.slow
def test_killed_at_twenty_moments_it_ends_with_the_same_weights(images, tmp_path):
    long = ["--epochs", 40, "--lr-gamma", 0.9, "-j", 1, "--save-steps", 3]
    status, text = finish(start(images, tmp_path / "straight", *long))
    assert status == 0, text
    rng = random.Random(0)
    out, reached = tmp_path / "killed", set()
    for i in range(20):
        process = start(images, out, *long, "--resume", "auto")
        if i % 5:  # after so many steps, however slow they are; else while it starts
            for _ in range(rng.randint(4, 12)):
                wait_for(process, "[Train] epoch")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=rng.uniform(0.0, 0.3) if i % 5 else rng.uniform(1.0, 3.5))
        assert process.poll() is None, "it was faster than this test thinks"
        process.kill()
        process.wait()
        reached.update(path.name for path in checkpoint.checkpoints(out))
    assert len(reached) > 10
    status, text = finish(start(images, out, *long, "--resume", "auto"))
    assert status == 0, text
    same(last(tmp_path / "straight"), last(out))
    assert not list(out.glob(".*"))
    assert [entry["step"] for entry in records(out)] == list(range(1, 281))
    # The workers went with their process.
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(out) not in listing


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(run, images, tmp_path, straight):
    assert run("--epochs", 2).status == 0
    newest, second, third = checkpoint.checkpoints(tmp_path / "out")
    newest.write_bytes(newest.read_bytes()[:-1000])
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.write_bytes(content)
    result = run("--resume", "auto")
    assert result.status == 0, result.err
    for path in (newest, second):
        assert re.search(rf"{path.name} is .*(cut short|damaged)", result.out)
    assert f"going on from {shown(third)}" in result.out
    same(straight, last(tmp_path / "out"))

    checkpoint.save(tmp_path / "averaged.pdparams", {"model": straight["model"]})
    result = run("--resume", tmp_path / "averaged.pdparams")
    assert result.status == 2 and "weights alone" in result.error_line
    newest.write_bytes(b"")
    result = run("--resume", newest)
    assert result.status == 2 and newest.name in result.error_line


def test_a_course_that_was_given_up_is_put_aside(run, tmp_path, straight):
    out = tmp_path / "out"
    early = {**straight, "epoch": 0, "iteration": 7}
    checkpoint.save(checkpoint.path_of(out, 0, 7), early)
    later = checkpoint.path_of(out, 5, 0)
    checkpoint.save(later, straight)
    result = run("--resume", checkpoint.path_of(out, 0, 7), "--keep-last", 1)
    assert result.status == 0 and f"abandoned_{later.name}" in result.out
    assert [path.name for path in checkpoint.checkpoints(out)] == [
        "checkpoint_0001_000007.pdparams"
    ]
    assert (out / f"abandoned_{later.name}").exists()


def test_files_are_told_apart_by_number(tmp_path):
    """An epoch may have a million steps and more; what is not the training's is left alone."""
    moments = [(0, 7), (0, 999999), (0, 1000000), (1, 3)]
    for moment in moments:
        checkpoint.path_of(tmp_path, *moment).touch()
    other = tmp_path / "checkpoint_mine.pdparams"
    other.touch()
    newest_first = [checkpoint.path_of(tmp_path, *moment) for moment in reversed(moments)]
    assert checkpoint.checkpoints(tmp_path) == newest_first
    (renamed,) = checkpoint.set_aside(tmp_path, 0, 1000000)
    assert renamed.name == f"abandoned_{newest_first[0].name}"
    checkpoint.prune(checkpoint.checkpoints(tmp_path), 1)
    assert checkpoint.checkpoints(tmp_path) == newest_first[1:2] and other.exists()


def test_damaged_checkpoints_alone_are_no_reason_to_begin_anew(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("checkpoint_0000_000003.pdparams", "checkpoint_0000_000005.pdparams"):
        (out / name).write_bytes(b"half")
    result = run("--resume", "auto")
    assert result.status == 2 and "damaged: 2" in result.err and "--output-dir" in result.err
    assert len(checkpoint.checkpoints(out)) == 2


def test_a_best_that_could_not_be_kept_is_not_the_best(run, tmp_path, monkeypatch):
    copy, calls = checkpoint.copy, []

    def full_at_first(*paths):
        calls.append(paths)
        if len(calls) == 1:
            raise CannotRun("cannot write x: No space left on device")
        copy(*paths)

    monkeypatch.setattr(checkpoint, "copy", full_at_first)
    assert run().status == 0
    assert len(calls) == 2 and (tmp_path / "out" / "best_0001.pdparams").exists()


@pytest.mark.slow
def test_a_full_disk_stops_no_training(images, tmp_path, straight):
    process = start(images, tmp_path)
    wait_for(process, "epoch: 0, iter: 3/7")
    # No file may grow above a megabyte now: what a write to a full disk meets, half-way.
    unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 20, -1))
    seen = wait_for(process, "NOT SAVED")
    assert "going" in seen or "goes on" in seen
    kept = checkpoint.checkpoints(tmp_path)
    assert kept and all(checkpoint.load(path) for path in kept)
    wait_for(process, "epoch: 0 done")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
    status, text = finish(process)
    assert status == 0, text
    same({**straight, "best": {}}, last(tmp_path))  # that of epoch 0 could not be kept
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_full_disk_under_the_screen(images, tmp_path, straight):
    """As where a launcher writes what is said into a file."""
    with open("/dev/full", "w") as full:
        command = [sys.executable, TRAIN, *OPTIONS, "--data-path", images, "--output-dir", tmp_path]
        command = [str(x) for x in [*command, "--result-dir", tmp_path]]
        assert subprocess.run(command, stdout=full, stderr=full, timeout=100).returncode == 0
    same(straight, last(tmp_path))


def test_a_worker_whose_parent_has_died_while_it_started_ends():
    def work(parent):
        os.getppid = lambda: parent or os.getpid()
        distributed.in_worker(0)
        time.sleep(parent or 60)

    fork = multiprocessing.get_context("fork")
    for parent, status in ((os.getpid(), -signal.SIGKILL), (0, 1)):
        worker = fork.Process(target=work, args=(parent,))
        worker.start()
        worker.join(2 if parent else 30)
        worker.kill()  # of no effect on one that has ended
        worker.join()
        assert worker.exitcode == status


def test_shared_memory_of_the_dead_is_freed():
    dead = subprocess.Popen(["true"])
    dead.wait()
    folder = distributed.SHARED_MEMORY
    old, new, alive = (
        folder / f"paddle_{pid}_{name}"
        for pid, name in ((dead.pid, "old"), (dead.pid, "new"), (os.getpid(), "test"))
    )
    try:
        for path in (old, new, alive):
            path.write_text("x")
        for path in (old, alive):
            os.utime(path, (0, 0))
        distributed.free_shared_memory()
        assert [path.exists() for path in (old, new, alive)] == [False, True, True]
    finally:
        for path in (old, new, alive):
            path.unlink(missing_ok=True)


def test_what_cannot_be_saved_at_the_end_is_no_success(run, monkeypatch):
    def full(*_):
        raise CannotRun("cannot write x: No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    result = run()
    assert result.status == 2 and "No space left" in result.error_line
    assert "NOT SAVED" in result.out and "epoch: 1 done" in result.out


def test_a_worker_that_dies_is_replaced(images, tmp_path, straight):
    process = start(images, tmp_path, "-j", 1)
    seen = wait_for(process, "epoch: 0, iter: 2/7")
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:
        workers = [int(pid) for pid in file.read().split()]
    os.kill(workers[-1], signal.SIGKILL)
    status, text = finish(process)
    assert status == 0, seen + text
    same(straight, last(tmp_path))


# --- bad input ---


def damage(images, folder, names):
    """A copy of `images` in which some files are cut short."""
    for path in images.rglob("*.png"):
        target = folder / path.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        target.write_bytes(data[: len(data) // 2] if path.name in names else data)
    return folder


def test_a_corrupt_image_is_named_or_skipped(run, images, tmp_path):
    data = damage(images, tmp_path / "damaged", ["5.png", "20.png"])
    # Of one image of 32 pixels, as may be left of a batch, batch norm has no variance.
    size = "--train-crop-size", 64
    result = run(*size, data=data)
    assert result.status == 2 and re.search(r"(5|20)\.png", result.error_line), result.err
    one = run(*size, "--skip-corrupt", 1, "--resume", "auto", data=data)
    assert one.status == 2 and re.search(r"(5|20)\.png", one.error_line), one.err

    # 5.png is damaged in val too.
    result = run(*size, "--skip-corrupt", 3, "--resume", "auto", data=data)
    assert result.status == 0, result.err
    named = re.findall(r"\w+/\w/\d+\.png", one.out + result.out)
    assert sorted(named) == ["train/c/20.png", "train/c/5.png", "val/c/5.png"]
    state = last(tmp_path / "out")
    assert sorted(os.path.basename(path) for path in state["skipped"]) == [
        "20.png",
        "5.png",
        "5.png",
    ]
    assert [entry["images"] for entry in records(tmp_path / "out", "epoch")] == [24, 24]


def test_a_corrupt_image_of_an_evaluation_is_told_as_one_of_a_training(run, images, tmp_path):
    data = damage(images, tmp_path / "data", [])
    next(data.glob("val/*/5.png")).write_bytes(b"no image")
    advice = "leave out up to N such files: {}--skip-corrupt N"
    line = run(*SHORT, data=data).error_line
    assert "5.png" in line and line.endswith(advice.format("--resume auto ")), line
    result = run(*SHORT, "--resume", "auto", "--skip-corrupt", 1, data=data)
    assert result.status == 0, result.err
    line = run("--test-only", "--resume", "auto", data=data).error_line
    assert "5.png" in line and line.endswith(advice.format("")), line


def test_a_last_batch_without_variance_is_one_line(run):
    line = run(*SHORT, "-b", 5).error_line  # 26 images
    assert "epoch 0, iteration 5: a batch of 1 at --train-crop-size 32" in line
    assert "--batch-size" in line


def test_batches_of_which_nothing_is_left_are_left_out(run, images, tmp_path):
    """Of train 22 of 26 images are damaged, of val 12 of 13."""
    names = [f"{i}.png" for i in range(26) if i not in (0, 13, 14, 25)]
    data = damage(images, tmp_path / "damaged", names)
    # Of one image of 32 pixels batch norm has no variance.
    options = ["-b", 2, "--mixup-alpha", 0, "--skip-corrupt", 34, "--print-freq", 3]
    options += ["--train-crop-size", 64]
    result = run(*options, data=data)
    assert result.status == 0, result.err
    assert result.out.count("no image of the batch can be read: the step is skipped") == 1
    out = tmp_path / "out"
    assert [entry["images"] for entry in records(out, "epoch")] == [4, 4]
    steps = {entry["step"] for entry in records(out, "epoch")}
    assert steps == {13, 26} and last(out)["iteration"] == 13
    assert {entry["top1"] for entry in records(out, "val") if "top1" in entry} <= {0, 100}
    # In the middle of an epoch it goes on as if it had not been stopped.
    state, course = last(out), tmp_path / "course"
    middle = [path for path in checkpoint.checkpoints(out) if "0001_000009" in path.name]
    course.mkdir()
    middle[0].rename(course / middle[0].name)
    assert run(*options, "--resume", "auto", data=data, out=course).status == 0
    same({**state, "skipped": 0}, {**last(course), "skipped": 0})


def test_images_none_of_which_can_be_read(run, images, tmp_path):
    every = [f"{i}.png" for i in range(26)]
    data = damage(images, tmp_path / "damaged", every)
    line = run("--skip-corrupt", 100, "--save-steps", 0, data=data).error_line
    assert f"no batch of {shown(data / 'train')} has an image that can be read" in line
    assert not checkpoint.checkpoints(tmp_path / "out")
    for path in images.glob("train/*/*.png"):
        (data / path.relative_to(images)).write_bytes(path.read_bytes())
    line = run("--skip-corrupt", 100, "--epochs", 1, "--lr-warmup-epochs", 0, data=data).error_line
    assert "not one image to evaluate could be read" in line


def test_not_a_number_stops_with_the_step_and_the_rate(run, tmp_path):
    rising = ["--lr", "1e30", "--lr-warmup-decay", "1e-33", "--clip-grad-norm", "1e9"]
    result = run(*rising, "--print-freq", 7, "--save-steps", 0)
    assert result.status == 1
    found = re.search(
        r"loss is (nan|inf) in epoch 1, iteration (\d), at a learning rate of 1e\+30\. .*"
        r"checkpoint_0000_000007", result.err
    )  # fmt: skip
    assert found and 1 <= int(found[2]) <= 3, result.err
    state = last(tmp_path / "out")
    assert all(np.isfinite(array).all() for array in state["model"].values())


class Images(list):
    classes = ()


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    trainer = make_trainer(["--output-dir", str(tmp_path)])
    loader = SimpleNamespace(skipped={})
    with paddle.no_grad():
        trainer.model.classifier[0].bias[3] = float("inf")
    saver = Saver(trainer, loader, Images(), None)
    with pytest.raises(Diverged, match=r"classifier\.0\.bias .* at a learning rate of"):
        saver()
    assert not list(tmp_path.iterdir())


def test_augmentation_follows_the_seed(images):
    def item(seed):
        args = arguments.parse(
            "", [*OPTIONS, "--data-path", str(images), "--device", "cpu", "--seed", seed]
        )
        return training_data(args, 0, 1)[2][0][0]

    assert np.array_equal(item("3"), item("3")) and not np.array_equal(item("3"), item("4"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lr", "0.02"], ["--lr is 0.02 and was 0.01"]),
        (["--model", "mobilenet_v3_large"], ["--model is mobilenet_v3_large"]),
        (["--seed", "3", "-b", "8"], ["--seed is 3 and was 0", "--batch-size is 8 and was 4"]),
        (["--wd", "0"], ["--wd is 0.0 and was 0.0001"]),
    ],
)
def test_another_training_is_not_resumed(options, words, run, images, tmp_path, straight):
    path = checkpoint.path_of(tmp_path / "out", 0, 7)
    checkpoint.save(path, straight)
    result = run("--resume", "auto", *options)
    assert result.status == 2
    for word in [*words, path.name, "--weights"]:
        assert word in result.error_line
    assert checkpoint.checkpoints(tmp_path / "out") == [path]
    assert not (tmp_path / "out" / "arguments.json").exists()


def test_a_changed_data_set_is_not_trained_on(run, images, tmp_path, straight):
    data = damage(images, tmp_path / "data", [])
    checkpoint.save(checkpoint.path_of(tmp_path / "out", 0, 7), straight)
    (data / "train" / "a" / "0.png").unlink()
    result = run("--resume", "auto", data=data)
    assert result.status == 2 and "number of images is 25 and was 26" in result.error_line
    for part in ("train", "val"):
        (data / part / "a").rename(data / part / "d")
    result = run("--resume", "auto", data=data)
    assert result.status == 2 and "list of classes is b, c, d and was a, b, c" in result.error_line


def test_what_can_be_said_before_training_is(run, images, tmp_path):
    cases = {
        "torch": (["--weights", "x.pth"], "torch2paddle.py"),
        "missing": (["--data-path", tmp_path / "none"], "none/train"),
        "amp": (["--amp"], "--amp.*CPU"),
        "repeated": (["--ra-sampler"], "26 images"),
        "start": (["--start-epoch", "2"], "--start-epoch 2.*--epochs is 2"),
        "flag": (["--lr", "-1"], "--lr: -1"),
        "warmup": (["--lr-warmup-epochs", "2"], "lr_warmup_epochs is 2"),
        "nothing": (["--test-only"], "--test-only"),
        "resume": (["--resume", tmp_path / "none"], "none"),
    }
    for name, (options, pattern) in cases.items():
        result = run(*options, out=tmp_path / name)
        assert result.status == 2, name
        assert re.search(pattern, result.error_line), (name, result.err)
        assert "[Train]" not in result.out

    (tmp_path / "file").write_text("")
    for options in ({"out": tmp_path / "file" / "out"}, {"result": tmp_path / "file" / "result"}):
        result = run(**options)
        assert result.status == 2 and "cannot write" in result.error_line
        assert "[Train]" not in result.out
    checkpoint.save(tmp_path / "out" / "checkpoint_0000_000001.pdparams", {"model": {}})
    result = run()
    assert result.status == 2 and "--resume auto" in result.error_line


def test_folders_with_other_classes(run, images, tmp_path):
    data = damage(images, tmp_path / "data", [])
    (data / "val" / "c").rename(data / "val" / "d")
    result = run(data=data)
    assert result.status == 2 and "c is in one of them only" in result.error_line


# --- checkpoints ---


def make_trainer(options=(), classes=3):
    args = arguments.parse("", [*OPTIONS, "--data-path", "x", "--device", "cpu", *options])
    return Trainer(args, classes, 7)


def batches(seed, count):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        images = rng.standard_normal((2, 3, 32, 32)).astype("float32")
        yield paddle.to_tensor(images), paddle.to_tensor(rng.integers(0, 3, 2))


@pytest.mark.parametrize(
    "options",
    [
        ["--opt", "sgd", "--momentum", "0"],
        ["--opt", "sgd"],
        ["--opt", "sgd_nesterov"],
        ["--opt", "adamw", "--bias-weight-decay", "0"],
        ["--opt", "rmsprop", "--sync-bn"],
        ["--model-ema-steps", "1", "--lr-warmup-epochs", "0"],
    ],
    ids=" ".join,
)
def test_every_optimizer_goes_on_bit_for_bit(options, tmp_path):
    trainer = make_trainer(options)
    for batch in batches(0, 2):
        trainer.step(*batch)
    path = checkpoint.path_of(tmp_path, 0, 2)
    checkpoint.save(path, trainer.state_dict())
    other = make_trainer(options)  # in this process its parameters have other names
    other.set_state_dict(checkpoint.load(path), path)
    for batch in batches(1, 2):
        assert [float(trainer.step(*batch)[0])] == [float(other.step(*batch)[0])]
    same(trainer.state_dict(), other.state_dict())


def test_the_seed_decides_with_which_weights_a_training_begins():
    def weight(seed):
        return make_trainer(["--seed", seed]).model.classifier[0].weight.numpy()

    assert np.array_equal(weight("3"), weight("3")) and not np.array_equal(weight("3"), weight("4"))


def test_what_a_line_says_of_time_is_of_one_step():
    trainer, window = make_trainer(), Window()
    for images, labels in batches(0, 4):
        loss, output = trainer.step(images, labels)
        window.add(loss, paddle_mv3.topk_correct(output, labels, trainer.topk), len(labels))
    window.reader_cost, window.begin = 1.0, time.perf_counter() - 8
    sums, steps, reader_cost, batch_cost = window.read(trainer)
    assert (sums[0], steps, reader_cost) == (8, 4, 0.25) and 2 <= batch_cost < 2.5


def test_synchronized_batch_norm_is_asked_for():
    for options in ([], ["--sync-bn"]):
        layers = make_trainer(options).model.sublayers()
        synchronised = [layer.sync for layer in layers if isinstance(layer, paddle_mv3.BatchNorm2D)]
        assert synchronised and set(synchronised) == {bool(options)}


@pytest.mark.parametrize(("level", "dtype"), [("O1", "float16"), ("O2", "bfloat16")])
def test_mixed_precision_goes_on(level, dtype, tmp_path, monkeypatch):
    """Paddle ignores it on the CPU: there this shows the calls and the state alone."""
    device = "gpu" if paddle.device.cuda.device_count() else "cpu"
    decorate, decorated = paddle.amp.decorate, []

    def recording(*models, **options):
        decorated.append(options)
        return decorate(*models, **options)

    monkeypatch.setattr(paddle.amp, "decorate", recording)

    def make():
        args = arguments.parse("", [*OPTIONS, "--data-path", "x", "--device", device])
        args.amp, args.amp_dtype = level, dtype
        return Trainer(args, 3, 7)

    trainer = make()
    for batch in batches(0, 2):
        trainer.step(*batch)
    path = checkpoint.path_of(tmp_path, 0, 2)
    checkpoint.save(path, trainer.state_dict())
    other = make()
    other.set_state_dict(checkpoint.load(path), path)
    for batch in batches(1, 2):
        assert float(trainer.step(*batch)[0]) == float(other.step(*batch)[0])
    same(trainer.state_dict(), other.state_dict())
    wanted = {"level": level, "dtype": dtype, "master_weight": True}  # updated in float32
    assert decorated == ([wanted, wanted] if level == "O2" else [])


def test_gradients_are_scaled_as_by_pytorch(monkeypatch):
    """Where it scales at all: Paddle does so on a GPU alone."""
    import torch

    def made(**given):
        wanted = inspect.signature(scaler).bind(None, **given)
        wanted.apply_defaults()
        return wanted.arguments

    scaler = paddle.amp.GradScaler.__init__
    monkeypatch.setattr(paddle.amp, "GradScaler", made)
    trainer = make_trainer()
    assert trainer.gradient_scaler() is None
    trainer.args.amp, trainer.args.amp_dtype = "O1", "bfloat16"
    assert trainer.gradient_scaler() is None
    trainer.args.amp_dtype = "float16"
    found = trainer.gradient_scaler()
    default = {
        name: parameter.default
        for name, parameter in inspect.signature(torch.amp.GradScaler).parameters.items()
    }
    assert found["init_loss_scaling"] == default["init_scale"]
    assert found["incr_ratio"] == default["growth_factor"]
    assert found["decr_ratio"] == default["backoff_factor"]
    assert found["incr_every_n_steps"] == default["growth_interval"]
    assert found["decr_every_n_nan_or_inf"] == 1 and found["use_dynamic_loss_scaling"]


def test_states_in_16_bits_survive(tmp_path):
    model = paddle.nn.Linear(3, 2)
    for dtype in ("bfloat16", "float16"):
        model.to(dtype=dtype)
        path = checkpoint.path_of(tmp_path, 0, 0)
        checkpoint.save(path, {"model": checkpoint.to_arrays(model.state_dict())})
        other = paddle.nn.Linear(3, 2)
        other.to(dtype=dtype)
        checkpoint.load_model(other, checkpoint.load(path)["model"], path)
        for name, tensor in other.state_dict().items():
            assert tensor.dtype == model.state_dict()[name].dtype
            assert np.array_equal(tensor.numpy(), model.state_dict()[name].numpy())


def test_paddle_reads_a_checkpoint(tmp_path, straight):
    path = checkpoint.path_of(tmp_path, 1, 7)
    checkpoint.save(path, straight)
    loaded = paddle.load(str(path))
    model = paddle_mv3.mobilenet_v3_small(num_classes=3)
    missing, unexpected = model.set_state_dict(loaded["model"])
    assert not missing and not unexpected
    for name, tensor in model.state_dict().items():
        assert np.array_equal(tensor.numpy(), straight["model"][name]), name


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harm",)


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = checkpoint.path_of(tmp_path, 0, 0)
    checkpoint.save(path, {"model": {}, "args": Harmful()})
    with pytest.raises(CannotRun, match="system"):
        checkpoint.load(path)
    (tmp_path / "plain.pdparams").write_bytes(pickle.dumps({"x": Harmful()}))
    with pytest.raises(CannotRun):
        checkpoint.read_weights(tmp_path / "plain.pdparams")
    assert not (tmp_path / "harm").exists()


def test_every_cut_of_a_checkpoint_is_found(tmp_path):
    path = checkpoint.path_of(tmp_path, 0, 0)
    checkpoint.save(path, {"model": {"w": np.arange(3.0)}})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(checkpoint.Damaged):
            checkpoint.load(path)
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 16
        path.write_bytes(changed)
        with pytest.raises(checkpoint.Damaged):
            checkpoint.load(path)


def test_weights_of_another_model_name_what_differs(tmp_path):
    model = paddle_mv3.mobilenet_v3_small(num_classes=3)
    arrays = checkpoint.to_arrays(paddle_mv3.mobilenet_v3_large(num_classes=3).state_dict())
    before = checkpoint.to_arrays(model.state_dict())
    with pytest.raises(CannotRun, match=r"features\.1.*in the file and .* in the model"):
        checkpoint.load_model(model, arrays, "x.pdparams")
    same(before, checkpoint.to_arrays(model.state_dict()))


# --- several processes ---

LAUNCH = ["-m", "paddle.distributed.launch", "--nproc_per_node"]


def start_ranks(ranks, images, out, *options):
    """Crops of 64: a rank's last batch may be one image, of which batch norm needs four values."""
    launch = [*LAUNCH, ranks, "--log_dir", out / "log"]
    return start(images, out, "--train-crop-size", 64, *options, launch=launch)


@pytest.mark.slow
def test_two_ranks_train_one_model(images, tmp_path):
    short = ["--epochs", 1, "--lr-warmup-epochs", 0]
    status, text = finish(start_ranks(2, images, tmp_path, "-b", 2, "-j", 1, *short))
    assert status == 0, text
    assert [entry["images"] for entry in records(tmp_path, "epoch")] == [26]
    assert [entry["avg_samples"] for entry in records(tmp_path)] == [4, 4, 4, 4, 4, 4, 2]
    state = last(tmp_path)
    assert state["world_size"] == 2

    # Each rank's batch norm has seen its own images; what was evaluated is what was saved.
    trainer = make_trainer()
    checkpoint.load_model(trainer.model, state["model"], "")
    preset = paddle_mv3.ClassificationPresetEval(32, 36)
    dataset = paddle_mv3.ImageFolder(images / "val", preset)
    loader = paddle_mv3.DataLoader(dataset, batch_size=2)
    values = paddle_mv3.evaluate(trainer.model, loader, (1, 3), trainer.criterion)
    told = records(tmp_path, "val")[0]
    assert values == [told["top1"], told["top5"], told["loss"]]
    result = finish(start(images, tmp_path, "-b", 2, "--resume", "auto", *short))
    assert result[0] == 2 and "the number of processes is 1 and was 2" in result[1]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_stop_together_and_go_on_bit_for_bit(ranks, images, tmp_path):
    options = ["-b", 2, "-j", 1]
    status, text = finish(start_ranks(ranks, images, tmp_path / "straight", *options))
    assert status == 0, text
    out = tmp_path / "stopped"
    process = start_ranks(ranks, images, out, *options)
    wait_for(process, "epoch: 0, iter: 2/")
    os.kill(process.pid, signal.SIGTERM)  # the launcher
    finish(process)
    deadline = time.monotonic() + 30
    while str(out) in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert (last(out)["epoch"], last(out)["iteration"]) >= (0, 2)
    status, text = finish(start_ranks(ranks, images, out, *options, "--resume", "auto"))
    assert status == 0, text
    assert "going on from" in text
    same(last(tmp_path / "straight"), last(out))


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all(images, tmp_path):
    """While they evaluate, or soon after: what it evaluates has been saved."""
    process = start_ranks(2, images, tmp_path, "-b", 2, "--epochs", 500)
    wait_for(process, "epoch: 1 done")
    os.kill(ranks_of(process)["1"], signal.SIGTERM)
    status, text = finish(process)
    assert status != 0 and "Traceback" not in text and "error: rank" not in text, text
    assert "stopped by SIGTERM, all is saved" in text
    state = last(tmp_path)
    assert (state["epoch"], state["iteration"]) > (1, 6)


def ranks_of(process):
    """{rank: process id} of what a launcher has started.

    A launcher starts other programs as well; one that has ended has no environment left to read.
    """
    ranks = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            environment = Path(f"/proc/{pid}/environ").read_text()
            if rank := re.search(r"PADDLE_TRAINER_ID=(\d)", environment):
                ranks[rank[1]] = int(pid)
    return ranks


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["alive", "stopped"])
def test_a_rank_that_is_killed_takes_the_others_along(launcher, images, tmp_path):
    """With the launcher stopped, as where the other machine's launcher is gone too."""
    process = start_ranks(2, images, tmp_path, "-b", 2, "--epochs", 500)
    wait_for(process, "epoch: 0, iter: 3/")
    ranks = ranks_of(process)
    if launcher == "stopped":
        os.kill(process.pid, signal.SIGSTOP)
    os.kill(ranks["1"], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while "error: rank 1" not in (said := (tmp_path / "log" / "workerlog.0").read_text()):
        assert time.monotonic() < deadline, said
        time.sleep(0.2)
    assert "gone without a word" in said and "--resume auto" in said
    os.kill(process.pid, signal.SIGCONT)
    status, _ = finish(process)
    assert status not in (0, None)


@pytest.mark.parametrize("said", [True, False])
def test_a_cpp_exception_waits_for_the_word_on_who_is_gone(said, monkeypatch):
    monkeypatch.setattr(distributed, "_companions", "some")
    monkeypatch.setattr(distributed, "SAID_WITHIN", 60 if said else 0.1)
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        distributed._wait_before_abort()
        if said:
            threading.Timer(0.1, os._exit, [7]).start()
        ctypes.CDLL("libstdc++.so.6")["_ZSt9terminatev"]()  # std::terminate
        os._exit(8)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (7 if said else -signal.SIGABRT)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_an_image_that_one_rank_cannot_read_loses_no_step_of_any(ranks, images, tmp_path):
    data, out = damage(images, tmp_path / "data", ["5.png"]), tmp_path / "out"
    options = ["-b", 2, "-j", 1, "--save-steps", 0, "--print-freq", 100]
    status, text = finish(start_ranks(ranks, data, out, *options))
    assert status != 0 and "Traceback" not in text, text
    for rank in range(ranks):
        said = (out / "log" / f"workerlog.{rank}").read_text()
        (line,) = [line for line in said.splitlines() if "error: " in line]
        assert "5.png" in line and "--resume auto --skip-corrupt N" in line, said
    state = last(out)
    dataset = SizedAs("abc", 26)
    shares = [[*paddle_mv3.DistributedSampler(dataset, rank, ranks)] for rank in range(ranks)]
    samples = paddle_mv3.ImageFolder(data / "train").samples
    place = min(
        number
        for share in shares
        for number, draw in enumerate(share)
        if samples[draw.index][0].endswith("/5.png")
    )
    assert (state["epoch"], state["iteration"]) == (0, place // 2) and place > 1
    assert state["sums"][0] == place // 2 * 2 * ranks

    # Mended, it ends as if there had been nothing.
    for path in images.rglob("5.png"):
        (data / path.relative_to(images)).write_bytes(path.read_bytes())
    status, text = finish(start_ranks(ranks, data, out, *options, "--resume", "auto"))
    assert status == 0, text
    status, text = finish(start_ranks(ranks, data, tmp_path / "straight", *options))
    assert status == 0, text
    same(last(tmp_path / "straight"), last(out))


@pytest.mark.slow
def test_ranks_leave_out_a_step_together(images, tmp_path):
    data = damage(images, tmp_path / "data", ["5.png", "6.png", "7.png"])
    options = ["-b", 1, "-j", 1, "--skip-corrupt", 6, "--save-steps", 0, "--train-crop-size", 64]
    out = tmp_path / "out"
    status, text = finish(start_ranks(2, data, out, *options))
    assert status == 0 and "Traceback" not in text, text
    said = (out / "log" / "workerlog.0").read_text()
    assert said.count("no image of the batch of a process can be read") == 1
    # Of 13 steps of two images each, at most three are left out, whole.
    counts = [entry["images"] for entry in records(out, "epoch")]
    assert all(count in (20, 22, 24) for count in counts), counts


@pytest.mark.slow
def test_an_image_that_one_rank_cannot_evaluate_ends_all(images, tmp_path):
    """What is evaluated has been saved."""
    data = damage(images, tmp_path / "data", [])
    path = next(data.glob("val/*/5.png"))
    path.write_bytes(b"no image")
    status, text = finish(start_ranks(2, data, tmp_path / "out", "-b", 2))
    assert status == 2 and "Traceback" not in text, text
    for rank in range(2):
        said = (tmp_path / "out" / "log" / f"workerlog.{rank}").read_text()
        (line,) = [line for line in said.splitlines() if "error: " in line]
        assert "5.png" in line and "--resume auto --skip-corrupt N" in line, said
    assert (last(tmp_path / "out")["epoch"], last(tmp_path / "out")["iteration"]) == (0, 7)


SYNC = """
import sys
sys.path.insert(0, {root!r})
import numpy as np
import paddle
import paddle_mv3
paddle.set_default_dtype("float64")
paddle.distributed.init_parallel_env()
rank = paddle.distributed.get_rank()
data = dict(np.load(sys.argv[1]))
part = slice(0, 3) if rank == 0 else slice(3, 8)
norm = paddle_mv3.BatchNorm2D(4, momentum=0.9, epsilon=1e-3)
norm.weight.set_value(paddle.to_tensor(data["weight"]))
paddle_mv3.synchronize_batch_norm(norm)
x = paddle.to_tensor(data["x"][part], stop_gradient=False)
y = norm(x)
(y * paddle.to_tensor(data["g"][part])).sum().backward()
results = [y, x.grad, norm.weight.grad, norm.bias.grad, norm._mean, norm._variance]
np.savez(f"{{sys.argv[2]}}/{{rank}}.npz", *[r.numpy() for r in results])
"""


@pytest.mark.slow
def test_synchronized_batch_norm_is_that_of_one_process(tmp_path, spawn):
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((8, 4, 5, 6)), "g": rng.standard_normal((8, 4, 5, 6))}
    data["weight"] = rng.uniform(0.5, 2, 4)
    np.savez(tmp_path / "data.npz", **data)
    script = tmp_path / "sync.py"
    script.write_text(SYNC.format(root=str(ROOT)))
    launch = [*LAUNCH, 2, "--log_dir", tmp_path / "log"]
    result = spawn(*launch, script, tmp_path / "data.npz", tmp_path)
    assert result.status == 0, result.out + result.err

    paddle.set_default_dtype("float64")
    try:
        norm = paddle_mv3.BatchNorm2D(4, momentum=0.9, epsilon=1e-3)
    finally:
        paddle.set_default_dtype("float32")
    norm.weight.set_value(paddle.to_tensor(data["weight"]))
    x = paddle.to_tensor(data["x"], stop_gradient=False)
    y = norm(x)
    (y * paddle.to_tensor(data["g"])).sum().backward()
    first, second = (list(np.load(tmp_path / f"{rank}.npz").values()) for rank in (0, 1))
    expected = [y, x.grad, norm.weight.grad, norm.bias.grad, norm._mean, norm._variance]
    for i, want in enumerate(expected):
        got = (
            np.concatenate([first[i], second[i]])
            if i < 2
            else first[i] + second[i]
            if i < 4
            else second[i]
        )
        assert np.allclose(got, want.numpy(), rtol=1e-12, atol=1e-12), i
    assert np.array_equal(first[5], second[5])
