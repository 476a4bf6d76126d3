"""python -m alignment records: what was saved on another machine."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from reprod_log import ReprodLogger

from alignment import commands


def save(path, **arrays):
    log = ReprodLogger()
    for key, array in arrays.items():
        log.add(key, array)
    log.save(str(path))


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as left:
            commands.main(["records", *map(str, arguments)])
        return left.value.code, *capfd.readouterr()

    return call


def leave(status, message=""):
    if message:
        print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(commands, "leave", leave)


def test_records_of_two_machines(command, tmp_path):
    x = np.random.default_rng(0).standard_normal((4, 10)).astype(np.float32)
    save("torch.npy", logits=x)
    save("paddle.npy", logits=x + np.float32(1e-8))
    status, out, _ = command("torch.npy", "paddle.npy")
    assert status == 0 and "aligned: 1 array" in out and "Not compared: float64" in out
    assert (tmp_path / "records_diff.log").exists() and (tmp_path / "records_diff.json").exists()
    save("paddle.npy", logits=x + np.float32(1e-3))
    status, out, _ = command("torch.npy", "paddle.npy", "--log", "other.log")
    assert status == 1 and "NOT ALIGNED: logits: " in out and (tmp_path / "other.log").exists()
    assert command("torch.npy", "paddle.npy", "--threshold", "0.002")[0] == 0


def test_float64_tells_a_mistake_from_rounding(command):
    x = np.random.default_rng(0).standard_normal((4, 10))
    save("torch.npy", logits=x.astype(np.float32))
    save("paddle.npy", logits=(x * (1 + 1e-5)).astype(np.float32))
    save("torch64.npy", logits=x)
    save("paddle64.npy", logits=x * (1 + 1e-6))
    wide = "--float64", "torch64.npy", "paddle64.npy"
    status, out, _ = command("torch.npy", "paddle.npy", "--threshold", "0.002", *wide)
    assert status == 1 and "differs in float64 by 1.0e-06" in out
    save("paddle64.npy", logits=x * (1 + 1e-9))  # as of an epsilon that Paddle has rounded
    status, out, _ = command("torch.npy", "paddle.npy", "--threshold", "0.002", *wide)
    assert status == 0 and "Not compared: what is below 1e-07" in out


def test_bad_input_is_one_line(command):
    save("torch.npy", logits=np.ones(3, np.float32))
    save("paddle.npy", logits=np.ones(3, np.float32))
    for arguments, text in (
        (("torch.npy", "missing.npy"), "missing.npy"),
        (("torch.npy", "paddle.npy", "--float64", "torch.npy", "paddle.npy"), "float64"),
        (("torch.npy", "paddle.npy", "--log", "."), "--log"),
    ):
        status, _, err = command(*arguments)
        (line,) = err.splitlines()
        assert status == 2 and line.startswith("error: ") and text in line


@pytest.mark.slow
def test_from_the_command_line(tmp_path):
    save(tmp_path / "a.npy", x=np.ones(3, np.float32))
    program = [sys.executable, "-m", "alignment", "records", tmp_path / "a.npy", tmp_path / "a.npy"]
    program += ["--log", tmp_path / "x.log"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "aligned: 1 array" in done.stdout and done.stderr == ""
