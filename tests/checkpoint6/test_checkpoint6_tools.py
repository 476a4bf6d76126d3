"""Checkpoint6/average_checkpoints.py, predict.py and export.py."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from conftest import ROOT, Result
from PIL import Image

import paddle_mv3
from alignment.files import load_pdparams
from Checkpoint6 import average_checkpoints, checkpoint, export, predict, tools, train
from Checkpoint6.arguments import parse

CLASSES = ["astronaut", "cat", "coffee", "flower", "galaxies", "pagoda", "retina", "rocket"]
ARGS = {
    "model": "mobilenet_v3_small",
    "val_crop_size": 64,
    "val_resize_size": 73,
    "interpolation": "bilinear",
    "lr": 0.1,
}


@pytest.fixture
def tool(capfd):
    """Runs a script in this process."""

    def run_tool(module, *options):
        capfd.readouterr()
        with pytest.raises(SystemExit) as leaving:
            tools.run(module.main, module.parser(), [*map(str, options)])
        out, err = capfd.readouterr()
        return Result(leaving.value.code or 0, out, err)

    return run_tool


@pytest.fixture(scope="module")
def arrays(data_dir):
    """Live weights for eight classes, whose logits are of the order 1."""
    found = load_pdparams(data_dir / "mv3_small_paddle.pdparams")
    found["classifier.3.weight"] = found["classifier.3.weight"][:, :8] * np.float32(0.01)
    found["classifier.3.bias"] = found["classifier.3.bias"][:8] * np.float32(0.01)
    return found


def save(path, arrays, **changes):
    """A checkpoint with what these scripts read of one."""
    state = {"model": arrays, "model_ema": None, "epoch": 3, "args": ARGS, "classes": CLASSES}
    checkpoint.save(path, {**state, **changes})
    return path


@pytest.fixture
def weights(arrays, tmp_path):
    return save(tmp_path / "weights.pdparams", arrays)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


# --- average_checkpoints.py ------------------------------------------------------------------


def small(seed, **changes):
    """{name: array} of every dtype that a checkpoint can hold."""
    rng = np.random.default_rng(seed)
    return {
        "weight": rng.standard_normal((64, 8), dtype=np.float32) * 1e3,
        "variance": rng.random(8, dtype=np.float32),
        "half": np.float16([seed, 1]),
        "bfloat16": np.uint16([0x3F80, 0x4040] if seed else [0x4040, 0x4040]),  # 1 and 3, 3 and 3
        "counter": np.int64([seed]),
        **changes,
    }


def test_the_average_is_the_mean_in_each_dtype(tool, tmp_path):
    files = [save(tmp_path / f"{i}.pdparams", small(i)) for i in range(3)]
    result = tool(average_checkpoints, *files, "--output", tmp_path / "out.pdparams")
    assert result.status == 0
    assert "the mean of 3 -> " in result.out and "1.pdparams: weights, epoch 3" in result.out
    found, state = checkpoint.read_weights(tmp_path / "out.pdparams")
    for name in ("weight", "variance", "half"):
        stack = np.stack([small(i)[name] for i in range(3)]).astype(np.float64)
        wanted = (stack.sum(axis=0) / 3).astype(stack[0].astype(small(0)[name].dtype).dtype)
        assert np.array_equal(found[name], wanted) and found[name].dtype == wanted.dtype
    assert found["counter"] == 2 and found["counter"].dtype == np.int64
    # (3 + 1 + 1) / 3 and 3; bfloat16 keeps eight bits
    assert found["bfloat16"].tolist() == [0x3FD5, 0x4040]
    assert state == {
        "model": state["model"],
        "args": ARGS,
        "classes": CLASSES,
        "averaged": [str(file) for file in files],
    }


def test_many_are_added_in_float64(tool, tmp_path):
    """In float32, 1 is lost beside 2 ** 25 each time."""
    values = [2.0**25, 1.0, 1.0, -(2.0**25)]
    files = [
        save(tmp_path / f"{i}.pdparams", {"weight": np.float32([value])})
        for i, value in enumerate(values)
    ]
    assert tool(average_checkpoints, *files, "--output", tmp_path / "out").status == 0
    assert checkpoint.read_weights(tmp_path / "out")[0]["weight"] == 0.5


def test_one_file_is_copied_and_state_dicts_are_averaged_too(tool, tmp_path, data_dir):
    plain = data_dir / "mv3_small_paddle.pdparams"
    assert tool(average_checkpoints, plain, "--output", tmp_path / "out").status == 0
    found, state = checkpoint.read_weights(tmp_path / "out")
    assert all(np.array_equal(found[name], x) for name, x in load_pdparams(plain).items())
    assert len(found) == 210 and state["classes"] is None and state["args"] == {}


def test_of_a_folder_the_best_or_the_newest(tool, tmp_path):
    folder = tmp_path / "output"
    for epoch in range(12):
        save(checkpoint.path_of(folder, epoch, 30), small(epoch))
    for epoch in (3, 10):
        save(folder / f"best_{epoch:04}.pdparams", small(epoch))
    out = tmp_path / "out"
    assert tool(average_checkpoints, folder, "--output", out).status == 0
    names = [os.path.basename(path) for path in checkpoint.load(out)["averaged"]]
    assert names == ["best_0003.pdparams", "best_0010.pdparams"]
    assert tool(average_checkpoints, folder, "--last", 2, "--output", out).status == 0
    names = [os.path.basename(path) for path in checkpoint.load(out)["averaged"]]
    assert names == ["checkpoint_0010_000030.pdparams", "checkpoint_0011_000030.pdparams"]
    assert checkpoint.load(out)["model"]["counter"] == 11
    line = tool(average_checkpoints, folder, "--last", 13, "--output", out).error_line
    assert "--last 13: " in line and "holds 12 checkpoint_*.pdparams" in line
    line = tool(average_checkpoints, tmp_path, "--output", out).error_line
    assert "no best_*.pdparams in" in line and "--last N" in line


def test_of_a_trainers_checkpoint_the_ema_weights_and_train_reads_the_result(tool, tmp_path):
    options = ["--data-path", str(tmp_path), "--model-ema", "--device", "cpu"]
    trainer = train.Trainer(parse("", options), 8, 1)
    state = trainer.state_dict()
    state["model_ema"]["module"] = {n: x + 1 for n, x in state["model"].items()}
    checkpoint.save(tmp_path / "a", {**state, "classes": CLASSES})
    result = tool(average_checkpoints, tmp_path / "a", "--output", tmp_path / "out")
    assert result.status == 0 and "a: averaged weights (EMA), epoch 0" in result.out
    args = parse("", ["--data-path", str(tmp_path), "--weights", str(tmp_path / "out")])
    train.load_weights(args, trainer.model, 8, print)
    for name, tensor in trainer.model.state_dict().items():
        assert np.array_equal(tensor.numpy(), state["model_ema"]["module"][name])


def test_arguments_that_differ_are_named(tool, tmp_path):
    save(tmp_path / "a", small(0))
    save(tmp_path / "b", small(1), args={**ARGS, "lr": 0.2})
    result = tool(average_checkpoints, tmp_path / "a", tmp_path / "b", "--output", tmp_path / "o")
    assert "arguments that differ, of the last: lr\n" in result.out
    assert checkpoint.load(tmp_path / "o")["args"]["lr"] == 0.2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arrays": small(1, extra=np.zeros(1))}, "extra is float64 [1] in the one and None in"),
        ({"arrays": small(1, weight=np.zeros((4, 8), "f4"))}, "weight is float32 [4, 8] in"),
        (
            {"arrays": small(1, half=np.zeros(2, "f4"))},
            "half is float32 [2] in the one and float16",
        ),
        ({"arrays": small(1, half=np.float16([np.inf, 0]))}, "half holds infinite values or NaN"),
        (
            {"args": {**ARGS, "model": "mobilenet_v3_large"}},
            "b and a are of other models: mobilenet_v3_large and mobilenet_v3_small",
        ),
        ({"classes": [*CLASSES[:-1], "ship"]}, "have other classes: ship and rocket"),
        ({"classes": CLASSES[:-1]}, "have other classes: None and rocket"),
    ],
)
def test_what_must_not_be_averaged(change, said, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a", small(0))
    save(tmp_path / "b", change.pop("arrays", small(1)), **change)
    assert said in tool(average_checkpoints, "a", "b", "--output", "out").error_line
    assert sorted(os.listdir()) == ["a", "b"]


def test_bad_files_and_names_are_refused(tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a", small(0))
    save(tmp_path / "cut", small(1))
    truncate(tmp_path / "cut")
    for options, said in (
        (["a", "cut", "--output", "out"], "cut"),
        (["a", "missing", "--output", "out"], "cannot read missing: No such file"),
        (["a", "./a", "--output", "out"], "a is given twice"),
        (["a", "--output", "../" + tmp_path.name + "/a"], "--output a is one of the inputs"),
        (["a", "--last", "2", "--output", "out"], "--last 2 chooses from a folder"),
        (["a", "--output", "a/out"], "cannot write a/out"),
    ):
        before = (tmp_path / "a").read_bytes()
        assert said in tool(average_checkpoints, *options).error_line
        assert sorted(os.listdir()) == ["a", "cut"]
        assert (tmp_path / "a").read_bytes() == before


# --- predict.py ------------------------------------------------------------------------------


@pytest.fixture
def pictures(image_dir, tmp_path):
    """A folder of seven images, one of them in a folder below, and a file that is none."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for i, name in enumerate(CLASSES[:7]):
        source = sorted((image_dir / name).iterdir())[0]
        below = "below" if i == 3 else ""
        shutil.copy(source, folder / below / f"{i}{source.suffix}")
    (folder / "readme.txt").write_text("text")
    return folder


def by_hand(arrays, files, crop=64, resize=73):
    """(n, 8) probabilities, each image on its own."""
    model = paddle_mv3.mobilenet_v3_small(num_classes=8)
    checkpoint.load_model(model, arrays, "weights")
    model.eval()
    preset = paddle_mv3.ClassificationPresetEval(crop, resize)
    with paddle.no_grad():
        images = (preset(Image.open(file).convert("RGB"))[None] for file in files)
        logits = [model(paddle.to_tensor(image)) for image in images]
        return paddle.nn.functional.softmax(paddle.concat(logits)).numpy()


def as_table(results):
    """({file name: (8,) probabilities}) of predict.py's JSON with --topk 8."""
    table = {}
    for item in results:
        assert [row["name"] for row in item["topk"]] == [CLASSES[r["class"]] for r in item["topk"]]
        found = [row["probability"] for row in item["topk"]]
        assert found == sorted(found, reverse=True) and sum(found) == pytest.approx(1)
        by_class = sorted(item["topk"], key=lambda row: row["class"])
        table[os.path.basename(item["file"])] = [row["probability"] for row in by_class]
    return table


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_probabilities_are_the_models_in_batches_of_any_size(
    batch_size, tool, pictures, weights, arrays
):
    options = ["--weights", weights, "--topk", 99, "--json", "-b", batch_size]
    result = tool(predict, pictures, *options)
    assert result.status == 0 and result.err == ""
    table = as_table(json.loads(result.out))
    files = [*sorted(pictures.glob("[0-9].*")), *pictures.glob("below/*")]
    assert list(table) == [file.name for file in files]
    wanted = by_hand(arrays, files)
    assert np.ptp(wanted, axis=0).max() > 0.01  # the images do differ
    assert np.abs(np.array(list(table.values())) - wanted).max() < 1e-6


def test_text(tool, pictures, weights):
    image = sorted(pictures.glob("0.*"))[0]
    result = tool(predict, image, "--weights", weights, "--topk", 2)
    options = ["--weights", weights, "--topk", 2, "--json"]
    (item,) = json.loads(tool(predict, image, *options).out)
    rows = [
        f"    {row['probability']:.4f}  {row['class']:4}  {row['name']}" for row in item["topk"]
    ]
    assert result.out.splitlines() == [str(image), *rows]


def test_flags_go_before_what_the_checkpoint_says(tool, pictures, weights, arrays, tmp_path):
    image = sorted(pictures.glob("0.*"))[0]
    flags = ["--val-crop-size", 48, "--val-resize-size", 96]
    result = tool(predict, image, "--weights", weights, "--json", "--topk", 8, *flags)
    (found,) = as_table(json.loads(result.out)).values()
    assert np.abs(found - by_hand(arrays, [image], 48, 96)[0]).max() < 1e-6
    assert np.abs(found - by_hand(arrays, [image])[0]).max() > 1e-3
    other = save(tmp_path / "x", arrays, args={**ARGS, "interpolation": "nearest"})
    assert (
        tool(predict, image, "--weights", other).out
        != tool(predict, image, "--weights", other, "--interpolation", "bilinear").out
    )
    line = tool(predict, image, "--weights", weights, "--model", "mobilenet_v3_large").error_line
    assert "weights.pdparams does not fit the model: features.1.block.1.0.weight is none in" in line


def test_weights_alone_have_no_names_and_the_usual_preset(tool, pictures, arrays, tmp_path):
    image = sorted(pictures.glob("0.*"))[0]
    path = tmp_path / "plain.pdparams"
    paddle.save({name: paddle.to_tensor(array) for name, array in arrays.items()}, str(path))
    (item,) = json.loads(tool(predict, image, "--weights", path, "--json").out)
    assert [row["name"] for row in item["topk"]] == [None] * 5
    wanted = by_hand(arrays, [image], 224, 256)[0]
    for row in item["topk"]:
        assert row["probability"] == pytest.approx(wanted[row["class"]], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "\n".join(f" n{i}\r" for i in range(8)) + "\n\n"),
        ("names.json", json.dumps([f"n{i}" for i in range(8)])),
        ("names.json", json.dumps({str(i): ["n0144", f"n{i}"] for i in range(8)})),
        ("names.json", json.dumps({str(i): f"n{i}" for i in reversed(range(8))})),
    ],
)
def test_class_names(name, text, tool, pictures, weights, tmp_path):
    (tmp_path / name).write_text(text, newline="")
    options = ["--weights", weights, "--json", "--class-names", tmp_path / name]
    for item in json.loads(tool(predict, pictures, *options).out):
        assert [row["name"] for row in item["topk"]] == [f"n{r['class']}" for r in item["topk"]]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("names.txt", "a\nb\nc", "names.txt names 3 classes and the model has 8"),
        ("names.txt", "a\n\nc\nd\ne\nf\ng\nh", "names.txt has no name for class 1"),
        ("names.txt", b"\xff\xfe\x00", "cannot read "),
        ("names.json", "[1, 2", "cannot read "),
        ("names.json", "3", "is neither a list of class names nor a dictionary"),
        ("names.json", '{"1": "a"}', "names.json has no name for class 0"),
        ("names.json", "[]", "names.json names 0 classes"),
    ],
)
def test_class_names_that_do_not_fit(name, text, said, tool, pictures, weights, tmp_path):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    options = ["--weights", weights, "--class-names", tmp_path / name]
    result = tool(predict, pictures, *options)
    assert said in result.error_line and result.out == ""


def test_an_image_that_cannot_be_decoded_is_named_and_the_others_predicted(tool, pictures, weights):
    options = ["--weights", weights, "--json", "--topk", 8, "-b", 3]
    whole = as_table(json.loads(tool(predict, pictures, *options).out))
    bad = sorted(pictures.glob("1.*"))[0]
    truncate(bad)
    result = tool(predict, pictures, *options)
    assert result.status == 1
    (line,) = result.err.splitlines()
    assert line.startswith(f"error: cannot decode image {bad}")
    table = as_table(json.loads(result.out))
    del whole[bad.name]
    assert list(table) == list(whole)
    assert np.allclose(list(table.values()), list(whole.values()), atol=1e-6)
    result = tool(predict, bad, "--weights", weights)
    assert result.status == 1 and result.out == ""


def test_bad_input_is_one_line(tool, pictures, weights, arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.pth").write_text("")
    save(tmp_path / "cut", arrays)
    truncate(tmp_path / "cut")
    save(tmp_path / "other", {"weight": np.zeros(1)})
    save(tmp_path / "unknown", arrays, args={"model": "resnet"})
    save(tmp_path / "short", arrays, classes=CLASSES[:3])
    nan = {**arrays, "classifier.0.bias": np.full(1024, np.nan, np.float32)}
    save(tmp_path / "nan", nan)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 0)
    for options, said in (
        (["missing.jpg"], "no such image or folder: missing.jpg"),
        (["empty"], "no images in empty: looked for .jpg"),
        (["pictures", "--device", "gpu"], "--device gpu: Paddle sees no GPU"),
        (["pictures", "--weights", "missing"], "cannot read missing: No such file"),
        (["pictures", "--weights", "x.pth"], "x.pth is PyTorch's. Convert it: python torch2pad"),
        (["pictures", "--weights", "cut"], "cut is not"),
        (["pictures", "--weights", "other"], "there is no classifier.3.bias in it"),
        (["pictures", "--weights", "unknown"], "unknown is of the model 'resnet'"),
        (["pictures", "--weights", "short"], "short names 3 classes and the model has 8"),
        (["pictures", "--weights", "nan"], "the model's logits are infinite or no numbers"),
    ):
        default = [] if "--weights" in options else ["--weights", weights]
        assert said in tool(predict, *options, *default).error_line


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_weights_in_16_bits(kind, tool, pictures, arrays, tmp_path):
    """As --amp O2 leaves them: all but those of batch norm, which stay in float32."""
    norms = {
        n for n, x in arrays.items() if x.ndim == 1 and not n.endswith(("fc1.bias", "fc2.bias"))
    }
    halves = {
        name: array if name in norms else paddle.to_tensor(array).astype(kind).numpy()
        for name, array in arrays.items()
    }
    wide = {
        name: array
        if name in norms
        else paddle.to_tensor(array).astype(kind).astype("float32").numpy()
        for name, array in arrays.items()
    }
    assert any(halves[name].dtype != np.float32 for name in halves)
    image = sorted(pictures.glob("0.*"))[0]
    options = ["--json", "--topk", 8, "--weights", save(tmp_path / "x", halves)]
    (found,) = as_table(json.loads(tool(predict, image, *options).out)).values()
    assert np.abs(found - by_hand(wide, [image])[0]).max() < 1e-6


# --- export.py -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few_images(image_dir, tmp_path_factory):
    """A folder of three images."""
    folder = tmp_path_factory.mktemp("few")
    for name in ("cat", "coffee", "rocket"):
        shutil.copy(image_dir / name / f"{name}_view_00.JPEG", folder)
    return folder


@pytest.fixture
def fake_formats(monkeypatch):
    """Exports without the work; `change` is made to the logits that each runner gives."""
    fake = SimpleNamespace(change=lambda logits: logits)

    def write_paddle(trained, folder):
        fake.model = trained.model
        for files, _ in export.FORMATS.values():
            for file in files:
                (folder / file).write_text(file)

    def start(folder):
        return lambda images: fake.change(tools.logits_of(fake.model, images))

    monkeypatch.setattr(export, "write_paddle", write_paddle)
    monkeypatch.setattr(export, "write_onnx", lambda folder, opset: None)
    for name, (files, runners) in export.FORMATS.items():
        runners = dict.fromkeys(runners, start)
        monkeypatch.setitem(export.FORMATS, name, (files, runners))
    return fake


def test_export_gives_the_models_logits_and_needs_no_network(
    tool, weights, arrays, image_dir, tmp_path, monkeypatch
):
    def refuse(*arguments, **options):
        raise AssertionError(f"a process is started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(os, "system", refuse)
    monkeypatch.delenv("POLYGRAPHY_AUTOINSTALL_DEPS", raising=False)
    folder = tmp_path / "new" / "exported"
    result = tool(export, "--weights", weights, "--output-dir", folder, "--images", image_dir)
    assert (result.status, result.err) == (0, "")
    assert "POLYGRAPHY_AUTOINSTALL_DEPS" not in os.environ
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    for runner in ("Paddle", "Paddle with oneDNN", "ONNX Runtime"):
        assert f" {runner} " in result.out
    assert result.out.count("16 of 16") == 3 and "Paddle2ONNX" not in result.out
    names = ["inference.json", "inference.onnx", "inference.pdiparams"]
    assert sorted(os.listdir(folder)) == names
    assert os.listdir(tmp_path / "new") == ["exported"]

    # As a user would run them: sizes of batches that the check has not seen.
    import onnx
    import onnxruntime

    files = sorted(image_dir.rglob("*_00.JPEG"))[:5]
    preset = paddle_mv3.ClassificationPresetEval(64, 73)
    images = np.stack([preset(Image.open(file).convert("RGB")) for file in files])
    wanted = by_hand(arrays, files)
    session = onnxruntime.InferenceSession(
        str(folder / "inference.onnx"), providers=["CPUExecutionProvider"]
    )
    outputs = [session.run(None, {"image": images})[0], export.run_paddle(folder, True)(images)]
    for logits in outputs:
        found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert np.abs(found - wanted).max() < 1e-5
    assert [x.version for x in onnx.load(folder / "inference.onnx").opset_import] == [17]


@pytest.mark.parametrize("change", ["bias", "one image", "NaN", "shape", "broken", "batch of one"])
def test_an_export_whose_check_fails_is_not_left(
    change, tool, weights, few_images, tmp_path, fake_formats
):
    def wrong(logits):
        if change == "bias":
            return logits + np.float32(0.01)
        if change == "one image":
            logits[-1, 3] += 0.01
        if change == "NaN":
            logits[0, 0] = np.nan
        if change == "shape":
            return logits[:, :1]
        if change == "broken":
            raise RuntimeError("no kernel")
        if change == "batch of one" and len(logits) == 1:
            logits += np.float32(0.01)
        return logits

    fake_formats.change = wrong
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "inference.onnx").write_text("mine")
    before = sorted(os.listdir(tmp_path))
    options = ["--weights", weights, "--output-dir", folder, "--images", few_images]
    result = tool(export, *options)
    assert result.status == 1 and result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("error: ") and line.endswith("Nothing was written")
    assert "inference.json, inference.pdiparams" in line and "Paddle" in line
    said = {
        "NaN": "by nan of their spread",
        "shape": "their shape is (3, 1)",
        "broken": "no kernel",
    }
    assert said.get(change, "is the most for rounding") in line
    assert os.listdir(folder) == ["inference.onnx"]
    assert (folder / "inference.onnx").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == before
    fake_formats.change = lambda logits: logits
    assert tool(export, *options).status == 0
    assert (folder / "inference.onnx").read_text() == "inference.onnx"
    assert len(os.listdir(folder)) == 3


def test_only_the_format_that_is_wanted(tool, weights, few_images, tmp_path, fake_formats):
    options = ["--weights", weights, "--images", few_images]
    for name in ("paddle", "onnx"):
        result = tool(export, *options, "--output-dir", tmp_path / name, "--format", name)
        assert result.status == 0
        assert sorted(os.listdir(tmp_path / name)) == export.FORMATS[name][0]


def test_top1_and_difference():
    reference = np.float32([[0, 1, 0.99999], [5, 1, 0]])
    assert export.compare(reference, reference, 1e-4) == (0, 2, None)
    # Two logits that are as close as the difference may change places,
    near = reference + np.float32([[0, -0.00002, 0], [0, 0, 0]])
    relative, same, wrong = export.compare(reference, near, 1e-4)
    assert relative == pytest.approx(4e-6, rel=0.01) and same == 1 and wrong is None
    # others may not: 0.0003 apart, each 0.0002 off.
    reference[0, 2] = 0.9997
    swapped = reference + np.float32([[0, -0.0002, 0.0002], [0, 0, 0]])
    assert export.compare(reference, swapped, 1e-4)[1:] == (1, "1 of 2 images have another top-1")


def test_logits_that_are_too_small_are_not_passed(tool, few_images, tmp_path, fake_formats):
    paddle.seed(0)
    fresh = paddle_mv3.mobilenet_v3_small(num_classes=8).state_dict()
    path = save(tmp_path / "fresh", checkpoint.to_arrays(fresh))
    options = ["--weights", path, "--output-dir", tmp_path / "exported", "--images", few_images]
    result = tool(export, *options)
    assert result.status == 1 and "too little to judge what is exported" in result.err
    assert os.listdir(tmp_path) == ["fresh"]
    # The same of large logits that depend on no image.
    fresh["classifier.3.bias"].set_value(np.arange(8, dtype=np.float32))
    save(path, checkpoint.to_arrays(fresh))
    assert "too little to judge" in tool(export, *options).err


def test_the_bound_follows_the_models_own_rounding(arrays, few_images):
    """An offset on all logits costs them bits: here about 1e-4 of their spread."""
    model = paddle_mv3.mobilenet_v3_small(num_classes=8)
    offset = {**arrays, "classifier.3.bias": arrays["classifier.3.bias"] + np.float32(1000)}
    images = export.check_images(few_images, paddle_mv3.ClassificationPresetEval(64, 73))
    bounds = []
    for weights in (arrays, offset):
        checkpoint.load_model(model, weights, "weights")
        model.eval()
        reference = tools.logits_of(model, images)
        bounds.append(export.bound_for(model, images, reference))
        for name, tensor in model.state_dict().items():
            assert np.array_equal(tensor.numpy(), weights[name])
        assert np.array_equal(tools.logits_of(model, images), reference)
    assert 1e-5 <= bounds[0] < 3e-4 and 10 * bounds[0] < bounds[1] < 0.05


def test_a_model_that_rounding_upsets_is_not_judged(
    tool, arrays, few_images, tmp_path, fake_formats
):
    """Logits that are tiny differences of large numbers."""
    upset = {**arrays, "classifier.3.bias": np.full(8, 1e5, np.float32)}
    path = save(tmp_path / "upset", upset)
    options = ["--weights", path, "--output-dir", tmp_path / "out", "--images", few_images]
    result = tool(export, *options)
    assert result.status == 1 and "too much to judge what is exported" in result.err
    assert os.listdir(tmp_path) == ["upset"]


def test_export_refuses_bad_input(tool, weights, few_images, tmp_path, monkeypatch, fake_formats):
    monkeypatch.chdir(tmp_path)
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(next(few_images.iterdir()), one)
    bad = tmp_path / "bad"
    shutil.copytree(one, bad)
    (bad / "z.jpg").write_text("text")
    out = ["--output-dir", "out"]
    for options, said in (
        ([*out, "--images", one], "one holds one image: a check needs two or more"),
        ([*out, "--images", bad], "cannot decode image"),
        ([*out, "--images", "missing"], "no such image or folder: missing"),
        (
            ["--output-dir", "weights.pdparams", "--images", few_images],
            "weights.pdparams: File exi",
        ),
    ):
        assert said in tool(export, "--weights", weights, *options).error_line
        assert sorted(os.listdir()) == ["bad", "one", "weights.pdparams"]
    with monkeypatch.context() as patch:
        patch.setattr(
            export, "write_onnx", lambda folder, opset: (folder / "x" / "y").write_text("")
        )
        line = tool(export, "--weights", weights, *out, "--images", few_images).error_line
        assert "cannot write out: No such file" in line and "Make room" in line
        assert sorted(os.listdir()) == ["bad", "one", "weights.pdparams"]
    for opset in (6, 22, "x"):  # paddle2onnx ends the process
        assert tool(export, "--weights", weights, *out, "--opset", opset).status == 2
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    line = tool(export, "--weights", weights, *out, "--images", few_images).error_line
    assert "missing package: paddle2onnx" in line and "--format paddle" in line
    options = [*out, "--images", few_images, "--format", "paddle"]
    assert tool(export, "--weights", weights, *options).status == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["features.0.1._variance", "features.5.block.2.fc2.bias", "classifier.0.bias"]
)
def test_weights_that_change_on_the_way_are_found(
    name, tool, weights, image_dir, tmp_path, monkeypatch
):
    write_paddle = export.write_paddle

    def perturbed(trained, folder):
        tensor = trained.model.state_dict()[name]
        tensor.set_value(tensor * 1.1)
        write_paddle(trained, folder)

    monkeypatch.setattr(export, "write_paddle", perturbed)
    options = ["--weights", weights, "--output-dir", tmp_path / "out", "--images", image_dir]
    result = tool(export, *options)
    assert result.status == 1 and "gives other logits than the model: by " in result.err
    assert sorted(os.listdir(tmp_path)) == ["weights.pdparams"]


def test_what_libraries_write_is_shown_if_they_fail(capfd):
    with export.silenced():
        os.write(1, b"noise\n")
        os.write(2, b"noise\n")
    assert capfd.readouterr() == ("", "")
    with pytest.raises(RuntimeError), export.silenced():
        os.write(1, b"why it failed\n")
        raise RuntimeError
    assert capfd.readouterr() == ("", "why it failed\n")


@pytest.mark.slow
@pytest.mark.parametrize("opset", [7, 13, 21])
def test_every_opset_that_is_offered(opset, tool, weights, image_dir, tmp_path):
    import onnx

    options = ["--weights", weights, "--output-dir", tmp_path / "out", "--images", image_dir]
    result = tool(export, *options, "--format", "onnx", "--opset", opset)
    assert (result.status, result.err) == (0, "")
    (file,) = (tmp_path / "out").iterdir()
    assert [x.version for x in onnx.load(file).opset_import] == [opset]


# In a process of its own, from another folder: no torch, no process, no connection.
ALONE = """
import runpy, sys, warnings
sys.modules["torch"] = None
warnings.filterwarnings("ignore", message="No ccache")
import paddle  # looks for a compiler cache, by a process

def watch(event, arguments):
    if event.startswith(("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn",
                         "socket.connect")):
        sys.__stdout__.write(f"EVENT {event}\\n")

sys.addaudithook(watch)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_alone_without_torch_processes_and_network(spawn, arrays, image_dir, tmp_path):
    save(tmp_path / "weights", arrays)
    caches = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for script, options in (
        ("average_checkpoints.py", ["weights", "--output", "averaged"]),
        ("predict.py", [image_dir / "cat", "--weights", "averaged", "--device", "cpu"]),
        ("export.py", ["--weights", "averaged", "--output-dir", "out", "--images", image_dir]),
    ):
        result = spawn("-c", ALONE, ROOT / "Checkpoint6" / script, *options, env=caches)
        assert (result.status, result.err) == (0, "")
        assert "EVENT" not in result.out
    assert len(os.listdir(tmp_path / "out")) == 3
    # ONNX Runtime keeps an id of the machine there, unless it is told not to report.
    assert not list(tmp_path.rglob("Microsoft"))


@pytest.mark.slow
def test_a_reader_that_leaves_ends_predict_quietly(weights, image_dir):
    command = [sys.executable, ROOT / "Checkpoint6" / "predict.py", image_dir]
    process = subprocess.Popen(
        [*command, "--weights", weights, "-b", "1", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141
