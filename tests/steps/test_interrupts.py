"""Signals: what is ended leaves nothing behind, and says nothing that helps nobody."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, STEPS

SCRIPTS = [
    *STEPS,
    "torch2paddle.py",
    "torch_ref/train.py",
    *(f"Checkpoint6/{name}.py" for name in (
        "train", "predict", "export", "average_checkpoints", "compare_top1", "align_training",
        "align_learning", "digits",
    )),
]  # fmt: skip
QUICK = ("01_test_forward.py", "torch_ref/train.py", "Checkpoint6/train.py")


def command_of(script):
    arguments = ["--help"] if script != "alignment" else []
    return [sys.executable, *(["-m", script] if script == "alignment" else [ROOT / script])] + (
        arguments
    )


@pytest.mark.parametrize(
    "script",
    [
        script if script in QUICK else pytest.param(script, marks=pytest.mark.slow)
        for script in [*SCRIPTS, "alignment"]
    ],
)
def test_an_interrupt_while_it_imports_is_quiet(script):
    """When NumPy, the first of the large ones, has been mapped, and a little later."""
    for wait in (0.0, 0.3):
        process = subprocess.Popen(
            [str(x) for x in command_of(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        maps = Path(f"/proc/{process.pid}/maps")
        deadline = time.monotonic() + 30
        while "numpy" not in maps.read_text() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (130, "", "")


FIRST = """
import os, signal, sys
script, sys.path[0] = sys.argv[1], sys.argv[2]
main = sys.modules["__main__"]
main.__file__, main.__package__ = script, sys.argv[3]
with open(script) as file:
    code = compile(file.read(), script, "exec")
signal.signal(signal.SIGINT, signal.default_int_handler)
before = set(sys.modules)
def note(number, handler):
    print(*sorted(set(sys.modules) - before))
    sys.stdout.flush()
    os._exit(number)
signal.signal = note
exec(code, vars(main))
"""


@pytest.mark.parametrize(
    "script", [*SCRIPTS, "alignment/__main__.py", "Checkpoint6/align_ranks.py"]
)
def test_nothing_is_imported_before_an_interrupt_is_quiet(script, spawn):
    package = "alignment" if script.startswith("alignment/") else ""
    folder = (ROOT / script).parent if script.startswith("Checkpoint6/") else ROOT
    # -S: what a site imports at the interpreter's start would hide what the script does.
    result = spawn("-S", "-c", FIRST, ROOT / script, folder, package)
    assert result.status == signal.SIGINT, result.err
    assert {"alignment", "alignment.environment"} <= set(result.out.split())
    quiet = {"alignment", "alignment.cli", "alignment.environment", "__future__"}
    assert set(result.out.split()) <= quiet


@pytest.mark.parametrize("script", ["01_test_forward.py", "Checkpoint6/align_learning.py"])
def test_paddle_s_handlers_are_gone_before_torch_is_imported(script, spawn):
    """They print a report of C++, and torch takes seconds."""
    code = f"""
import os, runpy, sys
import paddle
paddle.disable_signal_handler = lambda: os._exit(7 if "torch" not in sys.modules else 8)
sys.path.insert(0, {str(ROOT)!r})
runpy.run_path({str(ROOT / script)!r}, run_name="__main__")
"""
    assert spawn("-c", code).status == 7


def test_who_imports_the_engine_keeps_its_handler(spawn):
    code = f"""
import signal, sys
sys.path.insert(0, {str(ROOT)!r})
from alignment import environment
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    assert spawn("-c", code).status == 0


def processes_with(text):
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    return [line for line in listing.splitlines() if text in line]


def stopped(command, number, ready, folder):
    """(status, what it said) of a program that gets a signal once `ready()` holds."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(
        [str(x) for x in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )
    deadline = time.monotonic() + 400  # on a machine that is at work
    try:
        while not ready():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out = process.communicate(timeout=90)[0]
    finally:
        if process.poll() is None:
            process.kill()
    deadline = time.monotonic() + 20  # an orphan that is on its way out
    while processes_with(str(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_with(str(folder)) == []
    return process.returncode, out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_align_training_leaves_no_process_and_no_folder(number, tmp_path):
    """While its processes are at work, of both launchers."""
    command = [sys.executable, "Checkpoint6/align_training.py", "--steps", "10"]
    command += ["--result-dir", tmp_path / "result"]

    def ready():
        return len(list(tmp_path.glob("align_training_*/ranks/*/step_0.npz"))) > 0

    status, out = stopped(command, number, ready, tmp_path)
    assert status == 128 + number and "Traceback" not in out, out
    assert list(tmp_path.glob("align_training_*")) == []
    assert not (tmp_path / "result" / ".lock").exists()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_align_training_leaves_no_folder(number, tmp_path):
    """In the middle of its steps, in which one loop waits for the other in a thread."""
    command = [sys.executable, "Checkpoint6/align_training.py", "--processes", "1"]
    command += ["--result-dir", tmp_path / "result"]

    def ready():
        return len(list(tmp_path.glob("align_training_*/steps/output"))) > 0

    status, out = stopped(command, number, ready, tmp_path)
    assert status == 128 + number and "Traceback" not in out, out
    assert list(tmp_path.glob("align_training_*")) == []


@pytest.mark.slow
def test_all_steps_are_ended_with_the_one_that_runs(tmp_path, data_dir):
    command = [sys.executable, "-m", "alignment", "--result-dir", tmp_path / "result"]
    command += ["--data-dir", data_dir]

    def ready():
        return len(list(tmp_path.glob("align_training_*/steps"))) > 0

    status, out = stopped(command, signal.SIGTERM, ready, tmp_path)
    assert status == 143 and "Traceback" not in out, out
    assert list(tmp_path.glob("align_training_*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_trainings_that_are_compared_are_ended(number, tmp_path):
    command = [sys.executable, "Checkpoint6/align_learning.py", "--short"]
    command += ["--output-dir", tmp_path / "out", "--result-dir", tmp_path / "result"]

    def ready():
        return len(list(tmp_path.glob("out/*/train.jsonl"))) > 0

    status, out = stopped(command, number, ready, tmp_path)
    assert status == 128 + number and "Traceback" not in out, out
