"""Runs beside each other: who writes into a folder, and who has to wait."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import ROOT, occupied

from alignment.files import HELD, CannotRun, only_user, unpack, whole_file
from alignment.training.digits import make_digits


def test_one_run_at_a_time_writes_into_a_folder(tmp_path):
    folder = tmp_path / "new" / "result"
    with (
        occupied(folder) as process,
        pytest.raises(CannotRun, match=rf"another run \(process {process.pid}\) is writing into "),
        only_user(folder, "--result-dir"),
    ):
        raise AssertionError("two at once")
    # It was killed: its file is there, and no obstacle.
    assert (folder / ".lock").exists()
    with only_user(folder, "--result-dir"):
        pass
    assert list(folder.iterdir()) == []
    assert json.loads(os.environ.get(HELD, "[]")) == []


def test_programs_that_are_started_may_use_it_too(tmp_path, spawn):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from alignment.files import only_user
with only_user({str(tmp_path)!r}, "--x"):
    print("in")
"""
    with only_user(tmp_path, "--x"), only_user(tmp_path, "--x"):
        assert spawn("-c", code).out == "in\n"
        environment = {k: v for k, v in os.environ.items() if k != HELD}
        stranger = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert f"another run (process {os.getpid()}) is writing into" in stranger.stderr
    assert spawn("-c", code).out == "in\n"


@pytest.mark.parametrize("text", ["x", "3", "{}", "[" * 100_000])
def test_what_is_no_list_of_folders_holds_none(text, tmp_path, monkeypatch):
    monkeypatch.setenv(HELD, text)
    with only_user(tmp_path, "--x"):
        assert (tmp_path / ".lock").exists()
        assert json.loads(os.environ[HELD]) == [str(tmp_path)]


def test_a_lock_that_is_no_file_is_one_line(tmp_path):
    (tmp_path / "folder" / ".lock").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "folder", tmp_path / "file"):
        with pytest.raises(CannotRun, match="cannot write"), only_user(folder, "--x"):
            raise AssertionError
    assert (tmp_path / "file").read_text() == "mine"


SCRIPTS = ["01_test_forward.py", "Checkpoint6/align_training.py"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_steps_do_not_share_a_result_folder(script, run, tmp_path):
    with occupied(tmp_path / "result") as process:
        result = run(script)
    line = result.error_line
    assert f"another run (process {process.pid}) is writing into" in line and result.out == ""
    assert line.endswith("result: wait for it, or give another --result-dir")
    assert os.listdir(tmp_path / "result") == [".lock"]


def test_converting_weights_needs_no_result_folder(run, tmp_path, data_dir):
    with occupied(tmp_path / "result"):
        assert run("torch2paddle.py").status == 0


@pytest.mark.slow
def test_two_alignments_in_one_checkout(tmp_path, data_dir):
    """The first is not disturbed; its own steps are not kept out."""
    command = [sys.executable, "-m", "alignment", "--result-dir", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen([*command, "--data-dir", str(data_dir)], **pipes) as first:
        assert first.stdout.readline() == "\n"
        second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
        out, err = first.communicate(timeout=300)
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: another run (process {first.pid}) is writing into")
    assert len(second.stderr.splitlines()) == 1 and second.stdout == ""
    assert first.returncode == 0, out + err
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("script", ["Checkpoint6/train.py", "torch_ref/train.py"])
def test_two_trainings_do_not_share_a_folder(script, images, tmp_path, spawn):
    out = tmp_path / "out"
    out.mkdir()
    (out / "train.jsonl").write_text("the other's\n")
    short = ["--device", "cpu", "-j", 0, "--epochs", 1, "-b", 13, "--train-crop-size", 32]
    command = [ROOT / script, "--data-path", images, "--output-dir", out, *short]
    command += ["--result-dir", tmp_path]
    with occupied(out) as process:
        line = spawn(*command).error_line
        assert f"another run (process {process.pid}) is writing into out" in line
        assert line.endswith("wait for it, or give another --output-dir")
        assert (out / "train.jsonl").read_text() == "the other's\n"
    assert spawn(*command).status == 0
    assert "the other's" not in (out / "train.jsonl").read_text()
    assert not [name for name in os.listdir(out) if name.startswith(".")]


# --- what two make at once ---


def at_once(*jobs):
    """Runs functions at the same time, each in a thread of its own; raises what one has raised."""
    barrier, failures = threading.Barrier(len(jobs)), []

    def run(job):
        barrier.wait()
        try:
            job()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_writers_of_one_file_have_files_of_their_own(tmp_path):
    inside = threading.Barrier(4)

    def write(value):
        with whole_file(tmp_path / "x.npy") as temporary:
            inside.wait()
            np.save(temporary, np.full(100_000, value))
            inside.wait()

    at_once(*(lambda value=value: write(value) for value in range(4)))
    assert len(set(np.load(tmp_path / "x.npy"))) == 1
    assert os.listdir(tmp_path) == ["x.npy"]


def test_image_folders_are_made_whole_by_one_of_two(tmp_path):
    at_once(*[lambda: unpack(ROOT / "lite_data.tar", tmp_path / "lite_data")] * 3)
    assert {"train", "val"} < set(os.listdir(tmp_path / "lite_data"))
    at_once(*[lambda: make_digits(tmp_path / "digits")] * 2)
    assert sum(path.is_file() for path in (tmp_path / "digits").rglob("*")) == 1797
    assert sorted(os.listdir(tmp_path)) == ["digits", "lite_data"]


@pytest.mark.slow
def test_two_steps_that_make_the_weights_at_once(tmp_path):
    data = tmp_path / "data"
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / script, "--data-dir", data, "--result-dir", tmp_path / script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for script in ("01_test_forward.py", "04_test_loss.py")
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert not [path for path in data.iterdir() if path.name.startswith(".")]
