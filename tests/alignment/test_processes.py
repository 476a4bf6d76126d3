"""Parts of a step that run beside it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from alignment import environment, processes
from alignment.files import CannotRun

# Logs that are the same to the last digit.
EXACT = "data_cases.log", "data_augmentation.log", "forward_variants.log", "train_align_steps.log"
TRAINING = "Checkpoint6/align_training.py"


@pytest.fixture
def free(monkeypatch):
    """A processor is free, whatever machine this is."""
    monkeypatch.setattr(processes, "taken", 1)
    monkeypatch.setattr(processes, "processors", lambda: 2)


def where(*args):
    return os.getpid(), args


def test_a_part_runs_beside_where_a_processor_is_free(free, monkeypatch):
    with processes.beside("cpu", where, 1, "two") as result:
        pid, args = result()
        assert pid != os.getpid() and args == (1, "two")
        assert result() == (pid, args)
    for device, taken in (("cpu", 2), ("gpu", 1)):  # a CUDA context does not outlive a fork
        monkeypatch.setattr(processes, "taken", taken)
        with processes.beside(device, where) as result:
            assert result() == (os.getpid(), ())


def test_a_part_that_nobody_asks_for_is_ended(free, tmp_path):
    def leave_a_file_behind():
        folder = tmp_path / "temporary"
        folder.mkdir()
        with environment.cleaned_up(lambda: folder.rmdir() if folder.exists() else None):
            (tmp_path / "begun").touch()
            time.sleep(60)

    begin = time.monotonic()
    with processes.beside("cpu", leave_a_file_behind):
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
    assert time.monotonic() - begin < 30
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


@pytest.mark.parametrize("error", [CannotRun("no such file"), KeyError("a bug of the port")])
def test_what_a_part_raises_is_raised_where_it_is_asked_for(error, free):
    def fail():
        raise error

    with processes.beside("cpu", fail) as result, pytest.raises(type(error)) as raised:
        result()
    assert raised.value is error


def test_a_part_whose_process_is_killed_runs_again(free):
    parent = os.getpid()

    def killed():
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return "here"

    with processes.beside("cpu", killed) as result:
        assert result() == "here"


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", ["01_test_forward.py", "02_test_data.py", "05_test_backward.py", TRAINING]
)
def test_a_step_says_the_same_on_one_processor(step, tmp_path):
    """Where nothing can run beside it, and all has one thread."""
    said = []
    for count in (1, 2):
        out = tmp_path / str(count)
        allowed = sorted(os.sched_getaffinity(0))[:count]
        options = ["--steps", "10"] if step == TRAINING else ["--data-dir", tmp_path / "data"]
        ran = subprocess.run(
            [sys.executable, step, *options, "--result-dir", out],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            preexec_fn=lambda allowed=allowed: os.sched_setaffinity(0, allowed),
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        lines = [line.split(":")[0] for line in ran.stdout.splitlines()][-3:]
        logs = {path.name: path for path in (out / "log").iterdir()}
        said.append((lines, set(logs), [logs[name].read_text() for name in EXACT if name in logs]))
    assert said[0] == said[1]
