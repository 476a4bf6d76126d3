"""torch_ref/train.py: the flags, recipes and lines of Checkpoint6/train.py, and what it trains."""

import argparse
import math
import os
import re
import shlex
import sys
import urllib.error
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, Result, records, same

import torch_ref
from alignment.files import load_record
from Checkpoint6 import arguments
from torch_ref import train

SMALL = "-b 4 -j 0 --train-crop-size 32 --val-crop-size 32 --val-resize-size 36 --device cpu"
# All that touches a weight is switched on; 7 steps in an epoch.
OPTIONS = shlex.split(
    f"{SMALL} --epochs 2 --lr 0.01 --opt rmsprop --lr-warmup-epochs 1 --lr-step-size 1 "
    "--auto-augment imagenet --model-ema --model-ema-steps 2 --random-erase 0.2 --mixup-alpha 0.2 "
    "--cutmix-alpha 1 --label-smoothing 0.1 --clip-grad-norm 1 --norm-weight-decay 0 --print-freq 2"
)


@pytest.fixture
def run(images, tmp_path, monkeypatch, capfd):
    """train.py in this process, which has PyTorch loaded."""

    def run_training(*options, data=images, out=tmp_path / "out", result=tmp_path / "result"):
        folders = ["--data-path", data, "--output-dir", out, "--result-dir", result]
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, [*OPTIONS, *folders, *options])])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            train.run()
        torch.use_deterministic_algorithms(False)
        return Result(leaving.value.code or 0, *capfd.readouterr())

    return run_training


def parse(images, *options):
    folders = ["--data-path", images, "--output-dir", "none"]
    return train.parse([str(x) for x in [*shlex.split(SMALL), *folders, *options]])


def weights(out):
    return train.load(out / "checkpoint.pth")


# --- the command line is the port's ---


def flags(parser):
    return {action.dest: action for action in parser._actions if action.dest != "help"}


def test_flags_and_defaults_are_the_port_s(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    ours, theirs = flags(train.parser()), flags(arguments.parser(""))
    assert ours.keys() == theirs.keys()
    differ = set()
    for name, action in ours.items():
        other = theirs[name]
        for what in ("option_strings", "nargs", "const", "metavar"):
            if what != "metavar" or name != "skip_corrupt":
                assert getattr(action, what) == getattr(other, what), name
        assert type(action) is type(other), name
        assert set(action.choices or ()) == set(other.choices or ()), name
        if (action.default, action.required) != (other.default, other.required):
            differ.add(name)
    assert differ == {"data_path", "output_dir"}


def test_a_value_is_refused_where_the_port_refuses_it():
    theirs = flags(arguments.parser(""))
    for name, action in flags(train.parser()).items():
        for text in ("nan", "-1", "0", "0.5", "1", "1.5", "2", "1e3", "x", ""):
            assert accepts(action, text) == accepts(theirs[name], text), (name, text)


def accepts(action, text):
    if action.type is None:
        return action.choices is None or text in action.choices
    try:
        action.type(text)
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return True


@pytest.mark.parametrize("name", ["mobilenet_v3_small_600", "mobilenet_v3_small_120"])
def test_recipes_mean_the_same(name):
    argv = [f"@{ROOT}/Checkpoint6/recipes/{name}.txt", "--data-path", "x", "--device", "cpu"]
    ours, theirs = vars(train.parse([*argv])), vars(arguments.parse("", argv))
    for name in ("output_dir", "device", "cache_dir"):
        ours.pop(name, None), theirs.pop(name)
    assert ours == theirs


def test_what_decides_the_result_is_the_port_s(images):
    args = parse(images)
    port = arguments.parse("", ["--data-path", str(images), "--device", "cpu"])
    recipe = train.Trainer(args, 3, 7).recipe()
    assert recipe.keys() == {*arguments.recipe_of(port), "processes"}


# --- a training from beginning to end ---


def test_a_training_says_records_and_keeps_what_it_did(run, tmp_path):
    result = run()
    assert result.status == 0, result.err
    assert result.err == ""
    out = tmp_path / "out"
    assert (out / "train.log").read_text() == result.out

    steps = records(out, "train")
    assert [(e["epoch"], e["iter"], e["step"]) for e in steps] == [
        (0, 2, 2), (0, 4, 4), (0, 6, 6), (0, 7, 7),
        (1, 2, 9), (1, 4, 11), (1, 6, 13), (1, 7, 14),
    ]  # fmt: skip
    wanted = "epoch iter lr loss top1 top5 avg_reader_cost avg_batch_cost avg_samples avg_ips"
    assert all({"time", "kind", "step", *wanted.split()} == entry.keys() for entry in steps)
    assert [entry["lr"] for entry in steps] == [1e-4] * 4 + [0.01] * 4
    assert [entry["avg_samples"] for entry in steps] == [4, 4, 4, 2] * 2
    epochs = records(out, "epoch")
    assert [(e["epoch"], e["step"], e["images"]) for e in epochs] == [(0, 7, 26), (1, 14, 26)]
    images = np.array([8, 8, 8, 2])
    for entry, share in zip(epochs, (steps[:4], steps[4:])):
        for name in ("loss", "top1", "top5"):
            mean = np.dot([step[name] for step in share], images) / 26
            assert math.isclose(entry[name], mean, rel_tol=1e-12), name
    evaluations = records(out, "val")
    assert [set(e) - {"time", "kind", "step", "epoch"} for e in evaluations] == [
        {"top1", "top5", "loss"},
        {"ema_top1", "ema_top5", "ema_loss"},
    ] * 2
    record = load_record(tmp_path / "result" / "train_align_benchmark.npy")
    assert record.keys() == {"top1"} and record["top1"].tolist() == [evaluations[-1]["ema_top1"]]

    # The average is what is evaluated afterwards.
    told = "loss: {ema_loss:.6g}, top1: {ema_top1:.6g}, top5: 100\n".format(**evaluations[-1])
    assert run("--test-only", "--resume", "auto").out.endswith(told)
    result = run("--test-only", "--weights", out / "checkpoint.pth", "--use-deterministic-algorith")
    assert result.status == 0 and result.out.endswith(told)
    assert (out / "train.log").read_text().count("Eval") == 4


def test_without_an_average_the_model_is_evaluated(run, images, tmp_path):
    """By hand, over all images at once."""
    args = parse(images, "--epochs", 1, "--label-smoothing", 0.1)
    trainer, data, eval_data = train.set_up(args)
    told = []
    top1 = train.train(trainer, data, eval_data, lambda *line: told.append((line[0], line[2])))
    assert [kind for kind, _ in told] == ["train", "epoch", "val"]
    model = trainer.model.eval()
    batch, labels = map(torch.stack, zip(*((x, torch.tensor(y)) for x, y in eval_data[1])))
    with torch.no_grad():
        output = model(batch)
    loss = float(torch.nn.functional.cross_entropy(output, labels, label_smoothing=0.1))
    assert told[-1][1]["top1"] == top1 == 100 * int((output.argmax(1) == labels).sum()) / 13
    assert math.isclose(told[-1][1]["loss"], loss, rel_tol=1e-5)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_stopped_it_goes_on_bit_for_bit(workers, run, tmp_path, monkeypatch):
    assert run("-j", workers, out=tmp_path / "straight").status == 0
    tell = train.Report.__call__

    def interrupted(report, kind, trainer, values):
        tell(report, kind, trainer, values)
        if (kind, trainer.epoch, trainer.iteration) == ("train", 1, 4):
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(train.Report, "__call__", interrupted)
        assert run("-j", workers).status == 130
    assert weights(out)["epoch"] == 0 and len(records(out, "train")) == 6
    assert "--resume auto" in run().error_line
    result = run("-j", workers, "--resume", "auto")
    assert result.status == 0, result.err
    same(weights(tmp_path / "straight"), weights(out))
    assert [entry["step"] for entry in records(out, "train")] == [2, 4, 6, 7, 9, 11, 13, 14]

    # At its end there is nothing to do but to write the record, once more.
    record = tmp_path / "result" / "train_align_benchmark.npy"
    before = load_record(record)
    record.unlink()
    assert "[Train]" not in run("--resume", out / "checkpoint.pth").out
    assert load_record(record) == before and before["top1"] > 0


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("kind", ["steplr", "exponentiallr", "cosineannealinglr"])
def test_more_epochs_go_on_with_the_rates_of_a_training_of_so_many(kind, run, tmp_path):
    options = ["--lr-scheduler", kind, "-b", 13, "--print-freq", 9, "--lr-gamma", 0.5]
    assert run(*options, "--epochs", 5, out=tmp_path / "five").status == 0
    expected = [entry["lr"] for entry in records(tmp_path / "five")]
    assert run(*options, "--epochs", 3).status == 0
    before = weights(tmp_path / "out")
    line = run(*options, "--epochs", 2, "--resume", "auto").error_line
    assert "has done 3 epochs already, more than --epochs 2: give 3 or more" in line
    result = run(*options, "--epochs", 5, "--resume", "auto")
    assert result.status == 0, result.err
    entries = records(tmp_path / "out")
    assert [entry["epoch"] for entry in entries] == list(range(5))
    assert [entry["lr"] for entry in entries[3:]] == expected[3:]
    (line,) = re.findall("--epochs is 5 and was 3: .*", result.out)
    if kind == "cosineannealinglr":
        assert entries[2]["lr"] != expected[2]
        assert f"rate of epoch 3 becomes {expected[3]:.6g}, and would have been 0" in line
    else:
        assert f"{kind} goes on as it is, with a learning rate of {expected[3]:.6g}" in line
        straight, resumed = weights(tmp_path / "five"), weights(tmp_path / "out")
        for state in (straight, resumed):  # its decay was another in the first epochs
            del state["model_ema"], state["top1"]
        same(straight, resumed)
    decays = [1 - 0.00002 * 13 * 2 / epochs for epochs in (5, 3)]
    assert "it becomes {:.6g}, and was {:.6g}".format(*decays) in result.out

    trainer = train.Trainer(train.parse([*OPTIONS, *map(str, options), "--data-path", "x"]), 3, 2)
    trainer.args.epochs, trainer.classes = 9, before["classes"]
    trainer.load_state_dict(before, "x")
    after = trainer.state_dict()
    for state in (before, after):
        for group in state["optimizer"]["param_groups"]:
            del group["lr"]
    for name in ("model", "model_ema", "optimizer", "top1"):
        same(before[name], after[name], name)


def test_weights_for_other_classes_begin_a_fine_tuning(run, images, tmp_path):
    torch.manual_seed(5)
    state = torch_ref.mobilenet_v3_small(num_classes=5).state_dict()
    path = tmp_path / "five.pth"
    torch.save({"model": state}, path)
    line = f"{path} is of a model for 5 classes, and {images} has 3"
    short = ["--epochs", 1, "--lr-warmup-epochs", 0, "-b", 13, "--weights", path]
    result = run(*short)
    assert result.status == 0, result.err
    assert f"{line}: its last layer, classifier.3, is initialised anew" in result.out
    assert line not in run(*short, "--resume", "auto").out
    assert line + ": to be evaluated" in run("--test-only", *short).error_line

    trainer = train.Trainer(parse(images, "--weights", path, "--model-ema"), 3, 7)
    for model in (trainer.model, trainer.model_ema.module):
        found = model.state_dict()
        weight, bias = (found.pop(f"classifier.3.{name}") for name in ("weight", "bias"))
        same(dict(found), {name: state[name] for name in found})
        assert weight.shape == (3, 1024) and abs(weight.std() / 0.01 - 1) < 0.1 and not bias.any()


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_schedule_and_where_it_starts(images):
    def rates(*options):
        args = parse(images, "--epochs", 5, "--lr-warmup-epochs", 2, "--lr", 0.01, *options)
        trainer = train.Trainer(args, 3, 1)
        found = []
        data = (SimpleNamespace(), SimpleNamespace(set_epoch=found.append))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(train, "train_one_epoch", lambda t, *_: found.append(rate(t)))
            patched.setattr(train, "evaluate", lambda *_: 0.0)
            train.train(trainer, data, (None,), None)
        assert found[::2] == list(range(args.start_epoch, 5))
        return found[1::2]

    def rate(trainer):
        return trainer.optimizer.param_groups[0]["lr"]

    step = ["--lr-scheduler", "steplr", "--lr-step-size", 2, "--lr-gamma", 0.5]
    assert np.allclose(rates(*step), [1e-4, 1e-4, 0.01, 0.01, 0.005], rtol=1e-12)
    assert np.allclose(rates(*step, "--start-epoch", 3), [0.01, 0.005], rtol=1e-12)
    other = ["--lr-scheduler", "exponentiallr", "--lr-gamma", 0.5, "--lr-warmup-decay", 0.1]
    assert np.allclose(rates(*other), [1e-3, 1e-3, 0.01, 0.005, 0.0025], rtol=1e-12)
    other = ["--lr-scheduler", "cosineannealinglr", "--lr-warmup-method", "linear"]
    expected = [1e-4, 0.00505, 0.01, 0.008, 0.004]
    assert np.allclose(rates(*other, "--lr-min", 0.002), expected, rtol=1e-12)


# --- a step ---


def batches(count, size=2):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        images = torch.randn(size, 3, 32, 32, generator=generator)
        yield images, torch.randint(0, 3, (size,), generator=generator)


@pytest.mark.parametrize("amp", [None, "bfloat16", "float16"])
def test_gradients_are_clipped_at_their_own_size(amp, images):
    """With float16 they are 256 times as large until they are scaled back; as a rule 65536."""
    args = parse(images, "--lr", 1, "--momentum", 0, "--wd", 0, "--clip-grad-norm", 0.01)
    if amp:
        args.amp, args.amp_dtype = "O1", amp
    trainer = train.Trainer(args, 3, 1)
    assert (trainer.scaler is not None) == (amp == "float16")
    if trainer.scaler:
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=256)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.network.train()
    for batch in batches(1):
        trainer.step(*batch)
    moved = [(a - b.detach()).norm() for a, b in zip(before, trainer.model.parameters())]
    assert math.isclose(float(torch.stack(moved).norm()), 0.01, rel_tol=1e-3)


def test_the_average_follows_in_warm_up_and_lags_behind_after_it(images):
    args = parse(images, "--epochs", 4, "--model-ema", "--model-ema-steps", 2,
                 "--model-ema-decay", 0.9, "--lr-warmup-epochs", 1)  # fmt: skip
    trainer = train.Trainer(args, 3, 4)
    trainer.network.train()
    decay = 1 - 0.1 * 4 * 2 / 4
    average = None
    for epoch in (0, 1):
        trainer.epoch, trainer.iteration = epoch, 0
        for i, batch in enumerate(batches(4)):
            trainer.step(*batch)
            weight = trainer.model.classifier[3].weight.detach()
            if i % 2 == 0:
                fresh = epoch == 0 or i == 0  # the first one after warm-up copies as well
                average = weight.clone() if fresh else decay * average + (1 - decay) * weight
            assert torch.allclose(trainer.model_ema.module.classifier[3].weight, average)
            assert trainer.model_ema.n_averaged == (0 if epoch == 0 else 1 + i // 2)
    assert not torch.equal(weight, average)


def test_what_takes_the_place_of_torchvision_s_is_used(images, monkeypatch):
    """Another program puts its data set, mixup and model here."""
    monkeypatch.setattr(torch_ref, "ImageFolder", lambda root, preset: Images(root))
    monkeypatch.setattr(torch_ref, "get_mixup_cutmix", lambda *_: lambda x, y: (x + 1, y))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))
    monkeypatch.setitem(torch_ref.MODELS, "mobilenet_v3_small", lambda num_classes: model)
    trainer, (loader, _, dataset), _ = train.set_up(parse(images))
    assert trainer.model is model and isinstance(dataset, Images)
    assert next(iter(loader))[0].unique().tolist() == [1]


def test_the_largest_share_of_a_mixed_label_counts(images):
    trainer = train.Trainer(parse(images), 3, 1)
    output = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
    shares = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])
    assert train.sums_of(trainer, torch.tensor(0.5), output, shares).tolist() == [2, 1, 2, 1.0]


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_images(count, images):
    args = parse(images)
    shares = [train.evaluation_data(args, rank, count)[0].dataset.indices for rank in range(count)]
    assert sorted(i for share in shares for i in share) == list(range(13))
    samplers = [train.training_data(args, rank, count)[1] for rank in range(count)]
    drawn = [list(sampler) for sampler in samplers]
    assert {i for share in drawn for i in share} == set(range(26))
    assert {len(share) for share in drawn} == {math.ceil(26 / count)}


class Images(list):
    classes = ("a", "b", "c")

    def __init__(self, root):
        super().__init__((torch.zeros(3, 32, 32), i % 3) for i in range(8))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "-b 6", "--lr 0.02", "--opt adamw", "--opt rmsprop", "--opt sgd_nesterov",
        "--momentum 0.5", "--wd 0.1", "--norm-weight-decay 0.1", "--bias-weight-decay 0.1",
        "--label-smoothing 0.3", "--mixup-alpha 1", "--cutmix-alpha 1", "--auto-augment imagenet",
        "--auto-augment ra", "--auto-augment ra --ra-magnitude 20", "--auto-augment ta_wide",
        "--auto-augment augmix", "--auto-augment augmix --augmix-severity 9", "--random-erase 0.9",
        "--clip-grad-norm 0.01", "--seed 1", "--interpolation bicubic", "--train-crop-size 40",
        "--model mobilenet_v3_large", "--ra-sampler", "--ra-sampler --ra-reps 2",
    ],
)  # fmt: skip
def test_a_flag_changes_what_is_trained(options, images, monkeypatch):
    if "--ra-sampler" in options:  # needs 256 images
        folder = torch_ref.ImageFolder

        def many(*args):
            dataset = folder(*args)
            dataset.samples = dataset.samples * 10
            return dataset

        monkeypatch.setattr(torch_ref, "ImageFolder", many)
        images_of = ["--train-crop-size", 8, "-b", 64]
    else:
        images_of = []
    options = options.split()
    without = [*options[: 2 * (options[0] == "--auto-augment")], *options[: "--ra-reps" in options]]
    found = []
    for more in (without if without != options else [], options):
        trainer, data, eval_data = train.set_up(parse(images, *images_of, "--epochs", 1, *more))
        train.train(trainer, data, eval_data, lambda *_: None)
        found.append(trainer.model.state_dict())
    a, b = found
    assert a.keys() != b.keys() or any(not torch.equal(a[name], b[name]) for name in a)


# --- bad input ---


def test_what_can_be_said_before_training_is(run, images, tmp_path):
    large = torch_ref.mobilenet_v3_large(num_classes=3).state_dict()
    torch.save(large, tmp_path / "large.pth")
    torch.save({**large, "model_ema": 3}, tmp_path / "odd.pth")
    thousand = torch_ref.mobilenet_v3_small().state_dict()
    torch.save({"model": thousand}, tmp_path / "thousand.pth")
    infinite = torch_ref.mobilenet_v3_small(num_classes=3).state_dict()
    infinite["features.0.1.running_var"][2] = math.inf
    torch.save(infinite, tmp_path / "infinite.pth")
    for name, shape in {"narrow": (5, 7), "uneven": (4, 1024), "none": (0, 1024)}.items():
        head = {"classifier.3.weight": torch.ones(shape), "classifier.3.bias": torch.ones(5)}
        if name == "none":
            head["classifier.3.bias"] = torch.ones(0)
        torch.save({**infinite, **head}, tmp_path / f"{name}.pth")
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    torch.save({"x": print}, tmp_path / "code.pth")
    half = (tmp_path / "large.pth").read_bytes()[:-1000]
    (tmp_path / "half.pth").write_bytes(half)
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    cases = [
        ("--lr nan", "--lr: nan is not a number, 0 or more"),
        ("-b 0", "--batch-size: 0 is not"),
        ("--epochs 0", "--epochs: 0 is not"),
        ("--momentum -1", "--momentum: -1"),
        ("--random-erase 2", "--random-erase: 2 is not a number from 0 to 1"),
        ("--start-epoch 2", "--start-epoch 2 .*--epochs 2"),
        ("--lr-warmup-epochs 2", "--lr-warmup-epochs 2 .*--epochs 2"),
        ("--lr-warmup-decay 0", "--lr-warmup-decay is 0"),
        ("--ra-magnitude 31", "--ra-magnitude is 31: give 0 to 30"),
        ("--augmix-severity 11", "--augmix-severity is 11"),
        ("--seed 4294967296", "--seed: 4294967296 is more than 4294967295"),
        ("--amp", "--amp needs a GPU"),
        ("--sync-bn", "--sync-bn needs a GPU"),
        ("--ra-sampler", "26 images are too few"),
        ("-b 5", "--batch-size 5 leaves one image of 26"),
        ("-b 1", "--batch-size 1 leaves one image of 26"),
        ("--test-only", "--test-only"),
        ("--test-only --resume auto", "no checkpoint in .*out"),
        ("--weights x.pth --pretrained", "give one of them"),
        ("--nonsense", "--nonsense"),
        ("@none.txt", "none.txt"),
        (f"--data-path {tmp_path}/none", "/none/train: No such file"),
        (f"--weights {tmp_path}/lost.pth", r"cannot read .*lost\.pth: No such file"),
        (f"--weights {tmp_path}/large.pth", "large.pth does not fit the model"),
        (f"--weights {tmp_path}/odd.pth", "odd.pth does not fit the model"),
        (f"--test-only --weights {tmp_path}/thousand.pth", "thousand.pth is .* 1000 .* has 3"),
        (
            f"--weights {tmp_path}/infinite.pth",
            r"infinite.pth .*: features\.0\.1\.running_var in it",
        ),
        (f"--weights {tmp_path}/narrow.pth", r"narrow.pth does not fit .* classifier\.3"),
        (f"--weights {tmp_path}/uneven.pth", r"uneven.pth does not fit .* classifier\.3"),
        (f"--weights {tmp_path}/none.pth", r"none.pth does not fit .* classifier\.3"),
        (f"--weights {tmp_path}/tensor.pth", "tensor.pth holds no weights: a Tensor"),
        (f"--weights {tmp_path}/code.pth", "code.pth: it holds more than weights"),
        (f"--weights {tmp_path}/half.pth", "half.pth: not written by torch.save, or damaged"),
        (f"--resume {tmp_path}/lost.pth", r"cannot read .*lost\.pth"),
        (f"--resume {tmp_path}/text.pth", "text.pth: not written by"),
        (f"--resume {tmp_path}/empty.pth", "empty.pth: not written by"),
        (f"--resume {tmp_path}/large.pth", "large.pth is no checkpoint of this trainer"),
    ]
    if not torch.cuda.is_available():
        cases.append(("--device gpu", "PyTorch sees 0 GPUs"))
    for options, pattern in cases:
        result = run(*options.split())
        assert result.status == 2, options
        assert re.search(pattern, result.error_line), (options, result.err)
        assert "[Train]" not in result.out
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "below"
    for options in ({"out": below}, {"result": below}, {"out": "/proc"}):  # /proc takes no files
        result = run(**options)
        assert "cannot write" in result.error_line and "[Train]" not in result.out


def test_published_weights_without_a_network(run, monkeypatch):
    asked = []

    def offline(url, **_):
        asked.append(url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    for option in (["--pretrained"], ["--weights", "IMAGENET1K_V1"]):
        assert "cannot download https://" in run(*option).error_line
    assert asked == [torch_ref.WEIGHTS["mobilenet_v3_small"]] * 2


def test_missing_packages_are_said_before_training(run, monkeypatch):
    find = train.importlib.util.find_spec
    monkeypatch.setattr(
        train.importlib.util, "find_spec", lambda name: None if name == "paddle" else find(name)
    )
    assert "missing paddle" in run().error_line


def test_another_training_is_not_resumed(run, images, tmp_path):
    trainer = train.Trainer(train.parse([*OPTIONS, "--data-path", "x"]), 3, 7)
    trainer.classes = ["a", "b", "c"]
    out = tmp_path / "out"
    out.mkdir()
    torch.save(trainer.state_dict(), out / "checkpoint.pth")
    before = (out / "checkpoint.pth").read_bytes()
    for options, words in {
        "--lr 0.02": ["lr is 0.02 and was 0.01"],
        "--opt sgd -b 8": ["opt is sgd and was rmsprop", "batch_size is 8 and was 4"],
    }.items():
        line = run("--resume", "auto", *options.split()).error_line
        assert all(word in line for word in words), line
    data = copy(images, tmp_path / "two", lambda path: path.parent.name != "c")
    said = "checkpoint.pth is of another training: the list of classes is a, b and was a, b, c"
    assert said in run("--resume", "auto", data=data).error_line
    assert (out / "checkpoint.pth").read_bytes() == before


def copy(images, folder, wanted=lambda path: True):
    for path in filter(wanted, images.rglob("*.png")):
        target = folder / path.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


def test_folders_that_do_not_fit_together(run, images, tmp_path):
    data = copy(images, tmp_path / "data")
    (data / "val" / "c").rename(data / "val" / "d")
    assert "the same class folders, not c, d" in run(data=data).error_line
    (data / "val" / "d").rename(data / "val" / "c")
    for path in (data / "train" / "b").iterdir():
        path.unlink()
    assert "classes b" in run(data=data).error_line


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_file_that_is_no_image_is_named(workers, damage, part, run, images, tmp_path):
    data = copy(images, tmp_path / "data")
    path = next(data.glob(f"{part}/*/5.png"))
    content = {"cut": path.read_bytes()[:-2000], "text": b"no image", "empty": b""}[damage]
    path.write_bytes(content)
    line = run("-j", workers, "--epochs", 1, "--lr-warmup-epochs", 0, data=data).error_line
    assert line.startswith(f"error: cannot decode image {path}: ")


def test_a_loss_that_is_no_number_ends_it(run):
    result = run("--lr", "1e30", "--lr-warmup-epochs", 0, "--clip-grad-norm", "1e9")
    assert result.status == 1
    pattern = r"error: the loss is (nan|inf) in epoch 0, iteration \d, at a learning rate of 1e\+30"
    assert re.match(pattern, result.err), result.err


def test_a_full_disk_is_one_line(run, tmp_path, monkeypatch):
    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("unexpected pos 64 vs 0")  # what torch.save says then

    monkeypatch.setattr(torch, "save", full)
    assert "cannot write" in run().error_line
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["train.jsonl", "train.log"]


# --- several processes ---

RANK = """
import os, sys
sys.path.insert(0, {root!r})
import torch
from torch_ref import train
set_up, trainers = train.set_up, []
def remember(*args):
    found = set_up(*args)
    trainers.append(found[0])
    return found
train.set_up = remember
try:
    train.run()
finally:
    state = trainers[0].model.state_dict()
    torch.save(state, os.path.join({out!r}, "rank" + os.environ["RANK"] + ".pth"))
"""


@pytest.mark.slow
def test_two_processes_train_one_model(images, tmp_path, spawn):
    script, out = tmp_path / "rank.py", tmp_path / "out"
    script.write_text(RANK.format(root=str(ROOT), out=str(tmp_path)))
    options = [*OPTIONS, "-b", 5, "--data-path", images, "--output-dir", out]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, script]
    result = spawn(*launch, *options, "--result-dir", out)
    assert result.status == 0, result.out + result.err
    first, second = (train.load(tmp_path / f"rank{rank}.pth") for rank in (0, 1))
    same(first, second)
    state = weights(out)
    same(first, state["model"])
    assert state["args"]["processes"] == 2
    assert [entry["images"] for entry in records(out, "epoch")] == [26, 26]
    assert [entry["avg_samples"] for entry in records(out, "train")] == [10, 6] * 2

    # What was evaluated in shares is what is saved.
    args = parse(images, "--test-only", "--weights", out / "checkpoint.pth",
                 "--label-smoothing", 0.1)  # fmt: skip
    loader, dataset = train.evaluation_data(args)
    told, lines = records(out, "val")[-1], []
    train.evaluate(train.Trainer(args, len(dataset.classes), 0), loader, lambda *x: lines.append(x))
    assert lines[0][2]["top1"] == told["ema_top1"]
    assert math.isclose(lines[0][2]["loss"], told["ema_loss"], rel_tol=1e-6)

    alone = spawn(ROOT / "torch_ref" / "train.py", *options, "-b", 4, "--resume", "auto")
    assert "processes is 1 and was 2" in alone.error_line
    assert os.path.getsize(out / "train_align_benchmark.npy")
