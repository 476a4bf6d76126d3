"""python -m alignment --watch: what a saved file takes part in runs again."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from queue import Empty, Queue
from types import SimpleNamespace

import pytest
from conftest import ROOT

from alignment.__main__ import STEPS
from alignment.processes import Job, run_at_once, run_in_turn
from alignment.watch import _saved_since, affected, verdict

COPIED = ["alignment", "paddle_mv3", "torch_ref", "Checkpoint6", "data", "lite_data.tar"]


def test_only_what_has_imported_a_file_runs_again():
    def ended(imported, out="aligned: 1 array"):
        return SimpleNamespace(imported=imported, out=out)

    last = {
        "model": ended({"/x/model.py", "/x/one.py"}),
        "data": ended({"/x/data.py"}, "made x\nNOT ALIGNED: y"),
        "broken": ended({"/x/one.py"}, "made x\n"),
        "unknown": ended(None),
    }
    assert affected([Path("/x/model.py")], last) == ["model", "broken", "unknown"]
    assert affected([Path("/x/data.py")], last) == ["data", "broken", "unknown"]
    assert affected([Path("/x/other.py")], last) == ["broken", "unknown"]


def test_what_was_saved_while_the_steps_first_ran_is_seen(tmp_path):
    old, new, elsewhere = (tmp_path / "root" / name for name in ("a.py", "b.py", "../c.py"))
    old.parent.mkdir()
    for file in (old, new, elsewhere):
        file.touch()
    os.utime(old, (1, 1))
    jobs = [SimpleNamespace(imported={str(old), str(new)}), SimpleNamespace(imported=None)]
    jobs += [SimpleNamespace(imported={str(elsewhere.resolve()), str(old.parent / "gone.py")})]
    assert _saved_since(1000.0, old.parent, jobs) == {new}


def test_the_verdict_is_the_line_of_the_step():
    job = SimpleNamespace(out="made x\nNOT ALIGNED: a\nLook at: b\n", err="", returncode=1)
    assert verdict(job) == "NOT ALIGNED: a"
    job = SimpleNamespace(out="", err="Traceback\nerror: no such thing\n\n", returncode=2)
    assert verdict(job) == "error: no such thing"
    text = 'File "/x/a.py", line 3\n  File "/x/b.py", line 14\n    def (\nSyntaxError: no\n'
    assert verdict(SimpleNamespace(out="", err=text, returncode=1)) == "SyntaxError: no (b.py:14)"
    assert "exit -9" in verdict(SimpleNamespace(out="", err="", returncode=-9))


@pytest.mark.parametrize("fork", [True, False])
def test_jobs_keep_status_streams_and_order(fork, tmp_path):
    """Forked or started anew: the same."""
    (tmp_path / "helper.py").write_text("VALUE = 7")
    scripts = {
        "slow.py": "import time; time.sleep(0.3); import helper; print('slow', helper.VALUE)",
        "fails.py": "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)",
        "breaks.py": "print(1 / 0)",
        "says.py": "import sys; sys.exit('a text')",
    }
    for name, code in scripts.items():
        (tmp_path / name).write_text(code)
    jobs = [Job(tmp_path / name, ["--x", 1]) for name in scripts]
    assert list(run_in_turn(jobs, jobs[::-1], 4, fork)) == jobs
    slow, fails, breaks, says = jobs
    assert [job.returncode for job in jobs] == [0, 3, 1, 1]
    assert slow.out == "slow 7\n" and slow.seconds > 0.3
    assert (fails.out, fails.err) == ("out\n", "err\n")
    assert "ZeroDivisionError" in breaks.err and says.err == "a text\n"
    if fork:
        assert {str(tmp_path / "slow.py"), str(tmp_path / "helper.py")} <= slow.imported
        assert str(tmp_path / "helper.py") not in fails.imported
    else:
        assert slow.imported is None
    assert (slow.early, fails.early) == ("", "")
    quick = [Job(tmp_path / name, []) for name in scripts]
    assert next(run_at_once(quick, 4, fork)) is not quick[0]


def test_a_job_says_early_what_it_can(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import time; from alignment.processes import say_early\n"
        "say_early('aligned: so far'); say_early('never'); time.sleep(0.5); print('end')"
    )
    job, seen = Job(script, []), []
    assert list(run_at_once([job], 1, True, None, lambda jobs: seen.append(jobs[0].early))) == [job]
    assert (job.early, job.out, seen[-1]) == ("aligned: so far", "end\n", "aligned: so far")


def test_what_is_raised_in_a_pause_ends_the_jobs(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import time; time.sleep(60)")
    job = Job(script, [])

    def pause(running):
        raise KeyError

    with pytest.raises(KeyError):
        list(run_at_once([job], 1, True, None, pause))
    assert job.returncode == -15


def lines_of(stream):
    queue = Queue()

    def read():
        for line in stream:
            queue.put(line)

    threading.Thread(target=read, daemon=True).start()
    return queue


def wait_for(queue, text, seconds=300):
    seen = []
    try:
        while True:
            seen.append(queue.get(timeout=seconds))
            if text in seen[-1]:
                return "".join(seen)
    except Empty:
        raise AssertionError(f"no {text!r} in: {''.join(seen)}") from None


@pytest.mark.slow
def test_a_mistake_shows_when_the_file_is_saved(tmp_path, data_dir):
    for name in COPIED:
        source, target = ROOT / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("output*", "*.pdparams"))
        else:
            shutil.copy(source, target)
    for source in ROOT.glob("*.py"):
        shutil.copy(source, tmp_path)
    command = [sys.executable, "-m", "alignment", "--watch", "--data-dir", str(data_dir)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            queue = lines_of(process.stdout)
            wait_for(queue, "Watching")
            model = tmp_path / "paddle_mv3" / "model.py"
            right = model.read_text()
            assert right.count("epsilon=0.001") == 1
            model.write_text(right.replace("epsilon=0.001", "epsilon=0.01"))
            text = wait_for(queue, "01_test_forward.py")
            assert text.startswith("\npaddle_mv3/model.py\n") and "NOT ALIGNED: logits" in text
            while "Differs" not in text or "before: aligned" not in text:
                text += wait_for(queue, "before: aligned")
            assert "Differs (port | reference): features.0.1 and 33 more: epsilon 0.01" in text

            # One that cannot be imported is no end: what is saved next is seen.
            model.write_text(f"{right}\ndef (")
            text = wait_for(queue, "01_test_forward.py")
            assert f"SyntaxError: invalid syntax (model.py:{right.count(chr(10)) + 2})" in text
            wait_for(queue, "Done. Not aligned: 01_test_forward.py, ")

            # Saved again while the others run: nobody waits for their end.
            model.write_text(right.replace("epsilon=0.001", "epsilon=0.01"))
            wait_for(queue, "01_test_forward.py")
            model.write_text(right)
            text = wait_for(queue, "paddle_mv3/model.py")
            assert "align_training.py" not in text
            # The records alone, before the rest of the step.
            text, ended = wait_for(queue, "01_test_forward.py"), set()
            assert "(so far, " in text.splitlines()[-1]
            while ended < set(STEPS):
                *_, line = text.splitlines()
                script, verdict = line.split(None, 1)
                if script in STEPS and "so far" not in line:
                    assert verdict.startswith("aligned"), line
                    ended.add(script)
                text = wait_for(queue, "s)\n") if ended < set(STEPS) else ""
            wait_for(queue, "Done. All steps are aligned")
        finally:
            process.terminate()
    assert process.returncode == 143
