"""Bad input and bad machines: one clear line, exit status 2, nothing lost or half written."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT

WEIGHTS = "mobilenet_v3_small-047dcff4.pth"


@pytest.fixture
def own_data(tmp_path, data_dir):
    """A copy of the data folder that a test may damage."""
    return shutil.copytree(data_dir, tmp_path / "data")


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "text"])
def test_damaged_weights(damage, run, own_data):
    path = own_data / WEIGHTS
    content = {
        "cut": path.read_bytes()[:3_000_000],
        "empty": b"",
        "noise": bytes(range(256)) * 100,
        "text": b"<html>404 Not Found</html>",
    }[damage]
    path.write_bytes(content)
    line = run("01_test_forward.py", "--data-dir", own_data).error_line
    assert WEIGHTS in line
    assert path.read_bytes() == content


def test_damaged_paddle_weights(run, own_data):
    path = own_data / "mv3_small_paddle.pdparams"
    path.write_bytes(path.read_bytes()[:3_000_000])
    assert path.name in run("01_test_forward.py", "--data-dir", own_data).error_line


def test_weights_of_another_model(run, own_data):
    shutil.copy(own_data / "mobilenet_v3_large-8738ca79.pth", own_data / WEIGHTS)
    os.utime(own_data / "mv3_small_paddle.pdparams")
    line = run("01_test_forward.py", "--data-dir", own_data).error_line
    assert WEIGHTS in line and "does not fit" in line


def test_weights_that_run_code(run, own_data, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"features.0.0.weight": Hostile()}, own_data / WEIGHTS)
    assert "could run code" in run("01_test_forward.py", "--data-dir", own_data).error_line
    assert not (tmp_path / "owned").exists()


def test_newer_torch_weights_are_converted_again(run, own_data):
    state = torch.load(own_data / WEIGHTS, weights_only=True)
    state["classifier.3.bias"] += 1
    torch.save(state, own_data / WEIGHTS)
    result = run("01_test_forward.py", "--data-dir", own_data)
    assert result.status == 0
    assert "made " in result.out and "mv3_small_paddle.pdparams" in result.out


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("fake_label.npy", np.arange(3)),
        ("fake_label.npy", np.zeros(1, np.float32)),
        ("fake_data.npy", np.zeros((3, 224, 224), np.float32)),
        ("fake_data.npy", np.zeros((1, 3, 224, 224))),
        ("fake_data.npy", np.array([{"a": 1}], dtype=object)),
    ],
)
def test_fake_data_of_the_wrong_kind(name, array, run, own_data):
    np.save(own_data / name, array)
    assert name in run("04_test_loss.py", "--data-dir", own_data).error_line


def test_folder_without_classes(run, tmp_path):
    (tmp_path / "images").mkdir()
    line = run("02_test_data.py", "--image-dir", tmp_path / "images").error_line
    assert "no class folders" in line
    assert "no such image folder" in run("02_test_data.py", "--image-dir", "none").error_line


def test_class_without_images(run, tmp_path, image_dir):
    shutil.copytree(image_dir, tmp_path / "images")
    (tmp_path / "images" / "bicycle").mkdir()
    line = run("02_test_data.py", "--image-dir", tmp_path / "images").error_line
    assert "bicycle" in line


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("script", ["02_test_data.py", "03_test_metric.py"])
def test_corrupt_image_is_named(script, workers, run, tmp_path, image_dir):
    shutil.copytree(image_dir, tmp_path / "images")
    image = tmp_path / "images" / "coffee" / "coffee_view_03.JPEG"
    image.write_bytes(image.read_bytes()[:2000])
    options = ("--workers", workers) if script == "02_test_data.py" else ()
    line = run(script, "--image-dir", tmp_path / "images", *options).error_line
    assert image.name in line


def test_gpu_that_is_not_there(run):
    assert "--device gpu" in run("01_test_forward.py", "--device", "gpu").error_line


@pytest.mark.parametrize("option", ["--result-dir", "--data-dir"])
def test_folder_that_cannot_be_made(option, run, tmp_path):
    (tmp_path / "file").write_text("mine")
    line = run("01_test_forward.py", option, tmp_path / "file" / "folder").error_line
    assert "cannot write" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_read_only_data_is_enough(spawn, data_dir, tmp_path):
    """Weights and fake data are only read once they are there. (Root may write anywhere.)"""
    folder = shutil.copytree(data_dir, tmp_path / "data")
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    options = ("--data-dir", folder, "--result-dir", tmp_path / "result")
    result = spawn(ROOT / "01_test_forward.py", *options)
    assert result.status == 0, result.err
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before


@pytest.mark.parametrize(("limit", "left"), [(2_000_000, []), (12_000_000, None)])
def test_full_disk(limit, left, spawn, tmp_path, data_dir):
    """A limit on the size of files stands in for a full disk: writing breaks off midway."""
    folder = tmp_path / "data"
    folder.mkdir()
    options = ["--data-dir", folder, "--result-dir", tmp_path / "result"]
    if left is None:  # weights fit, the record of all batches does not
        options = ["--image-dir", tmp_path / "images", *options]
        unpack_into(tmp_path / "images")
    script = "01_test_forward.py" if left == [] else "02_test_data.py"
    result = spawn(
        ROOT / script,
        *options,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert "cannot write" in result.error_line
    assert list(folder.iterdir()) == []
    if left is None:
        assert list((tmp_path / "result").iterdir()) == []


def unpack_into(folder):
    from alignment.files import unpack

    unpack(ROOT / "lite_data.tar", folder.parent / "lite_data")
    (folder.parent / "lite_data" / "val").rename(folder)


def test_missing_package(spawn):
    code = (
        "import importlib.util as u, runpy, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'reprod_log' else find(name, *a)\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"runpy.run_path({str(ROOT / '01_test_forward.py')!r}, run_name='__main__')"
    )
    line = spawn("-c", code).error_line
    assert "reprod_log" in line and "pip install -r requirements.txt" in line


@pytest.mark.parametrize(
    "options", [("--model", "resnet50"), ("--batches", "few"), ("--batches", "0"), ("--bogus",)]
)
def test_bad_argument(options, run):
    result = run("02_test_data.py", *options)
    assert result.status == 2 and "Traceback" not in result.err
    assert options[-1] in result.err


def test_a_step_can_be_stopped(tmp_path, data_dir):
    """SIGTERM ends it at once, quietly: Paddle's own handler prints and can hang."""
    options = ["--data-dir", data_dir, "--result-dir", tmp_path, "--steps", "1000"]
    command = [sys.executable, ROOT / "05_test_backward.py", *map(str, options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "losses_ref.npy").exists() and process.poll() is None:
            time.sleep(0.05)
        process.terminate()
        _, err = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM and err == ""
