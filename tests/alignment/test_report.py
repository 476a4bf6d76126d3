"""The report: its JSON, JUnit XML, what two of them differ in, and what a terminal shows."""

import json
import os
import pty
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import ROOT, require_valid
from paddle import nn as pnn
from PIL import Image
from torch import nn

from alignment import check, commands, report, screen
from alignment.changes import changes
from alignment.files import CannotRun
from alignment.findings import Finding
from alignment.junit import junit
from alignment.layers import Row, Seen
from alignment.locate import layer_entries
from alignment.pairing import Pairing
from alignment.stages.pictures import histogram_entry, image_entry
from alignment.training.align import write_misfits
from alignment.training.comparison import Difference, shares_of_bounds
from paddle_mv3.data import dataset

HOSTILE = "<script>alert(1)</script>\x1b[31m\x00&\"'"


@pytest.fixture
def command(monkeypatch, capfd):
    """Runs `alignment COMMAND …` in this process: (exit status, stdout, stderr)."""

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["alignment", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            commands.main(sys.argv[1:])
        paddle.set_device("cpu")
        return (leaving.value.code or 0, *capfd.readouterr())

    return run_command


def read(folder):
    found = json.loads((folder / "report.json").read_text())
    require_valid(found)
    return found


def part(name="01_test_forward", status=report.ALIGNED, **values):
    verdict = "aligned: as it is" if status == report.ALIGNED else "NOT ALIGNED: as it is"
    return report.new_part(name, name, status, verdict, **values)


# --- what steps write ---


def test_steps_add_to_one_report(run, tmp_path):
    for script in ("04_test_loss.py", "01_test_forward.py"):
        result = run(script, "--report")
        assert result.status == 0 and "report." in result.out.splitlines()[-1], result.err
    found = read(tmp_path / "result")
    assert [each["name"] for each in found["parts"]] == ["01_test_forward", "04_test_loss"]
    assert found["aligned"] and found["verdict"] == "Aligned: Forward, Loss"
    forward = found["parts"][0]
    assert forward["seconds"] > 0 and forward["power"].startswith("in each of 210 tensors")
    assert [each["name"] for each in forward["checks"]] == [
        "structure",
        "the initialisation",
        "another variant of the model",
    ]
    (logits,) = forward["records"]
    assert 0 < logits["float64"] < logits["bound64"] < 1e-11
    rules = {each["rule"] for each in forward["weights"]}
    assert {"copy", "transpose", "rename", "ignored"} <= rules
    # Paths are relative: seen from here they lead up and out, and are never absolute.
    assert str(tmp_path) not in json.dumps(found).replace(os.path.relpath(tmp_path), "")


def test_without_report_there_is_none(run, tmp_path):
    assert run("04_test_loss.py").status == 0
    assert not list((tmp_path / "result").glob("report.*"))


def test_red_steps_name_the_first_difference(run, monkeypatch, tmp_path):
    load = dataset.load_image

    def load_bgr(path):
        return Image.merge("RGB", load(path).split()[::-1])

    bugs = (
        ("01_test_forward.py", pnn.Hardswish, "forward", lambda self, x: pnn.functional.swish(x)),
        ("02_test_data.py", dataset, "load_image", load_bgr),
    )
    for script, *bug in bugs:
        with monkeypatch.context() as patch:
            patch.setattr(*bug)
            assert run(script, "--report").status == 1
    found = read(tmp_path / "result")
    assert not found["aligned"]
    assert found["verdict"].startswith("Not aligned: start with 01_test_forward, features.0.2: ")
    forward, data = found["parts"]
    layers = {each["name"]: each for each in forward["layers"]}
    assert len(layers) > 200 and layers["features.0.1"]["agrees"]
    first = next(each for each in forward["layers"] if not each["agrees"])
    assert first["name"] == first["reference"] == "features.0.2"
    batch_norm = layers["features.0.1"]
    assert ["epsilon", "0.001", "0.001"] in batch_norm["settings"] and not batch_norm["differs"]
    (stage,) = {each["stage"] for each in data["images"]}
    assert stage == "decode" and data["images"][0]["difference"].startswith(
        "data:image/png;base64,"
    )
    assert (tmp_path / "result" / "report.json").stat().st_size < 2**20


def test_a_step_that_could_not_run_is_in_the_report(run, tmp_path):
    (tmp_path / "map.json").write_text("[]")
    line = run("01_test_forward.py", "--report", "--layer-map", tmp_path / "map.json").error_line
    (forward,) = read(tmp_path / "result")["parts"]
    assert forward["status"] == "could not run"
    # On the screen a path is as the user would type it; in the report it is never absolute.
    assert line.replace(str(tmp_path), os.path.relpath(tmp_path)) == f"error: {forward['verdict']}"


def test_a_report_that_cannot_be_written_loses_no_verdict(run, tmp_path):
    (tmp_path / "result" / "report.json").mkdir(parents=True)
    result = run("04_test_loss.py", "--report")
    assert result.status == 0 and "aligned: " in result.out
    (line,) = result.err.splitlines()
    assert line.startswith("error: cannot write ") and "report.json" in line


def test_a_damaged_report_is_made_anew(run, tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "report.json").write_text('{"version": 1, "parts": [3]}')
    assert run("04_test_loss.py", "--report").status == 0
    assert [each["name"] for each in read(tmp_path / "result")["parts"]] == ["04_test_loss"]


@pytest.mark.slow
def test_all_steps_write_one_report(tmp_path, data_dir):
    command = [sys.executable, "-m", "alignment", "-q", "--junit", tmp_path / "junit.xml"]
    command += ["--result-dir", tmp_path / "result", "--data-dir", data_dir]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("Aligned: Forward, Data, Metric, Loss, Backward, Training. Open ")
    found = read(tmp_path / "result")
    assert [each["name"] for each in found["parts"]][-1] == "align_training"
    training = found["parts"][-1]
    assert len(training["curves"]["port"]) == 10 and len(training["curves"]["copies"]) == 3
    shares = training["quantities"]["share_of_bound"]
    assert max(share for row in shares for share in row if share is not None) <= 1
    assert ET.parse(tmp_path / "junit.xml").getroot().get("failures") == "0"


# --- any pair ---


class Reference(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        return self.norm(self.a(x))


class Port(pnn.Layer):
    def __init__(self, epsilon=1e-5):
        super().__init__()
        self.a, self.norm = pnn.Linear(6, 5), pnn.BatchNorm1D(5, epsilon=epsilon)

    def forward(self, x):
        return self.norm(self.a(x))


def test_a_comparison_of_any_pair(tmp_path):
    given = lambda: Port(1e-3), Reference, "4x6"
    aligned = check(Port, Reference, "4x6", accept="biased_variance", details=True)
    assert aligned.data["quantities"]["steps"] == ["step 0", "step 1", "step 2"]
    require_valid(report.part_of_comparison(aligned, 1.0, []), "part")
    found = check(*given, checks=("forward",), details=True)
    one = report.part_of_comparison(found, 1.0, found.text().splitlines())
    whole = report.make_report([one], seed=3)
    require_valid(whole)
    assert whole["environment"]["seed"] == 3 and not whole["aligned"]
    assert whole["verdict"].startswith("Not aligned: start with norm: epsilon 0.001 | 1e-05 (")
    norm = next(each for each in one["layers"] if each["name"] == "norm")
    assert norm["differs"] == ["epsilon"] and not norm["agrees"] and norm["shape"] == [4, 5]
    assert ["epsilon", "0.001", "1e-05"] in norm["settings"]
    statistics = norm["statistics"]["output"]
    assert len(statistics["port"]) == 4 and statistics["port"] != statistics["reference"]
    # Who asks for none gets none.
    assert check(*given, checks=("forward",)).data == {}
    assert "data" not in found.as_dict()


PAIR = (
    *("--torch", "torch.nn:Linear", "--paddle", "paddle.nn:Linear", "--input", "2x3"),
    *("--torch-arg", "in_features=3", "--torch-arg", "out_features=4"),
    *("--paddle-arg", "in_features=3", "--paddle-arg", "out_features=4"),
    *("--checks", "forward"),
)


def test_compare_writes_where_it_is_told(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = command("compare", *PAIR)
    assert status == 0 and out.splitlines()[-1].startswith("aligned: ") and not os.listdir()
    status, out, _ = command("compare", *PAIR, "--report", "out", "--junit", "junit.xml")
    assert status == 0 and sorted(os.listdir()) == ["junit.xml", "out"]
    found = read(Path("out"))
    assert found["aligned"] and found["command"].startswith("alignment compare --torch")
    names = [case.get("name") for case in ET.parse("junit.xml").iter("testcase")]
    assert names == ["structure", "forward"]
    (Path("out") / "report.json").unlink()
    (Path("out") / "report.json").mkdir()
    status, out, err = command("compare", *PAIR, "--report", "out")
    assert status == 0 and "aligned: " in out and err.count("error: ") == 1


def test_a_comparison_that_breaks_off_is_in_the_report_too(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [*PAIR[:4], "--input", "2x7", *PAIR[6:]]
    status, _, err = command("compare", *given, "--report", "out", "--junit", "junit.xml")
    assert status == 2 and err.startswith("error: the reference cannot be run with these inputs")
    (broken,) = read(Path("out"))["parts"]
    assert broken["status"] == "could not run" and err == f"error: {broken['verdict']}\n"
    (error,) = ET.parse("junit.xml").iter("error")
    assert error.get("message") == broken["verdict"]


# --- the pieces ---


def test_five_hundred_layers_take_less_than_a_megabyte():
    rng = np.random.default_rng(0)
    layers = pnn.BatchNorm2D(3), nn.BatchNorm2d(3)
    arrays = {"": rng.standard_normal((2, 3, 4, 4))}
    sides = [Seen(layer, arrays, arrays) for layer in layers]
    rows = [
        Row(f"features.{i}.block.1.norm", f"features.{i}.block.1.norm", *sides, 1e-16, 1e-15, 1e-14)
        for i in range(500)
    ]
    entries = layer_entries(rows, 1e-12, 1e-7)
    whole = report.make_report([part(layers=entries)])
    require_valid(whole)
    assert len(json.dumps(whole)) < 2**20


def test_what_is_not_finite_is_text():
    finding = Finding("forward", "a", "output", difference=np.inf, bound=np.float64(1e-12))
    found = part(findings=report.finding_entries([finding]), curves=None)
    require_valid(found, "part")
    assert found["findings"][0]["difference"] == "inf"
    json.dumps(found, allow_nan=False)


def test_a_long_training_keeps_its_largest_shares():
    rows = [Difference(f"step {i}", "loss", "", i / 1000, 0.5) for i in range(1001)]
    rows.append(Difference("step 7", "update", "w", np.inf, 1e-7))
    found = shares_of_bounds(rows)
    require_valid(part(quantities=found), "part")
    assert len(found["steps"]) <= 200 and found["kinds"] == ["loss", "update"]
    assert max(found["share_of_bound"][0]) == 2.0
    updates = found["share_of_bound"][1]
    assert [share for share in updates if share is not None] == [np.inf]
    assert found["steps"][1].startswith("step 6 … ")


@pytest.mark.parametrize(
    ("port", "reference", "has_difference"),
    [
        (np.zeros((300, 400, 3), np.uint8), np.full((300, 400, 3), 9, np.uint8), True),
        (np.zeros((3, 8, 9), np.float32), np.full((3, 8, 9), np.nan, np.float32), True),
        (np.zeros((8, 9), np.uint8), np.zeros((8, 9, 3), np.uint8), False),
    ],
)
def test_images_are_small_pictures(port, reference, has_difference):
    entry = image_entry("a.jpg", "resize", port, reference)
    require_valid(part(images=[entry]), "part")
    assert (entry["difference"] is not None) == has_difference
    assert image_entry("", "", np.zeros(3), np.zeros(3)) is None


def test_histograms_have_the_same_bins_on_both_sides():
    rng = np.random.default_rng(0)
    numbers = histogram_entry("x", rng.random(100), rng.random(100) + 1)
    assert len(numbers["edges"]) == 21 and sum(numbers["port"]) == sum(numbers["reference"]) == 100
    names = histogram_entry("y", ["a", ("b", 1), "a"], ["a", "c", "c"])
    assert names["edges"] == ["a", "c", "b 1"] and names["port"] == [2, 0, 1]
    require_valid(part(histograms=[numbers, names]), "part")


def test_paths_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    (tmp_path / "x.log").touch()
    monkeypatch.setattr(sys, "argv", ["x.py", f"--out={tmp_path}/a b", f"{tmp_path}/x.log"])
    whole = report.make_report([part(look_at=f"see {tmp_path}/x.log, then 1/6 and /no/such")])
    assert whole["command"] == "python x.py '--out=a b' x.log"
    assert whole["parts"][0]["look_at"] == "see x.log, then 1/6 and /no/such"
    assert whole["environment"]["commit"] is None  # no repository


def test_what_is_no_utf_8_is_escaped():
    (one,) = report.make_report([part(look_at="a\udcff.log")])["parts"]
    assert one["look_at"] == "a\\udcff.log"


class Job:
    """Stands for a process that has ended."""

    def __init__(self, returncode, out="", err=""):
        self.returncode, self.out, self.err, self.seconds = returncode, out, err, 1.0


def test_parts_of_steps_that_have_left_none(tmp_path):
    from alignment.__main__ import part

    script, missing = "Checkpoint6/align_training.py", tmp_path / "missing.json"
    broken = part(script, Job(2, err="x\nerror: no images\n"), missing)
    assert (broken["status"], broken["verdict"]) == ("could not run", "no images")
    killed = part(script, Job(-9), missing)
    assert (killed["status"], killed["verdict"]) == ("could not run", "exit status -9")
    # A traceback of an import ends with 1 as well.
    crashed = part(script, Job(1, err="Traceback"), missing)
    assert (crashed["status"], crashed["verdict"]) == ("could not run", "exit status 1")
    for each in (broken, killed, crashed):
        require_valid(each, "part")


def test_a_training_of_models_that_do_not_fit_leaves_a_part(tmp_path, capsys):
    from alignment.__main__ import part, row

    path = tmp_path / "train_align_steps.json"
    write_misfits(Pairing({}, {}, [("a.weight", (2,), (3,))]), path)
    found = part("Checkpoint6/align_training.py", Job(1), path)
    require_valid(found, "part")
    assert found["status"] == "not aligned" and found["verdict"] in capsys.readouterr().out
    assert found["findings"][0]["text"] == "a.weight: shape [2] | shape [3]"
    assert found["weights"][0]["rule"] == "another shape"
    assert row("Checkpoint6/align_training.py", Job(1), path)[4] == "misaligned"


def test_the_verdict_is_last_and_says_what_to_open(capsys, tmp_path):
    red = part("05_test_backward", report.NOT_ALIGNED, look_at="the loss")
    broken = report.broken_part("02_test_data", "no images")
    whole = report.make_report([red, broken, part()])
    report.finish(whole, tmp_path / "result", tmp_path / "missing" / "x.xml")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("Not aligned: start with 05_test_backward, as it is. Open ")
    assert (tmp_path / "missing" / "x.xml").exists()
    report.finish(report.make_report([part(), broken]))
    assert capsys.readouterr().out == "Could not run: 02_test_data, no images\n"
    (tmp_path / "file").touch()
    report.finish(whole, tmp_path / "file" / "below")
    told = capsys.readouterr()
    assert told.out.endswith("as it is. Look at the loss\n") and told.err.count("error: ") == 1


def test_the_version_is_the_packages():
    assert f'version = "{report.TOOL["version"]}"' in (ROOT / "pyproject.toml").read_text()


# --- JUnit ---


def test_junit_has_a_case_for_each_check():
    finding = Finding("forward", HOSTILE, "output", "1", "2", detail=[HOSTILE], hint="look")
    parts = [
        part(
            status=report.NOT_ALIGNED,
            records=[{"key": "logits", "verdict": "misaligned", "text": "logits: off"}],
            checks=[{"name": "structure", "aligned": True, "summary": "", "seconds": 1.5}],
            findings=report.finding_entries([finding]),
        ),
        part("compare", checks=[{"name": HOSTILE, "aligned": True, "summary": "", "seconds": 0}]),
        report.broken_part("05_test_backward", HOSTILE),
        part("align_training", report.NOT_ALIGNED),
    ]
    text = ET.tostring(junit(report.make_report(parts)).getroot(), encoding="unicode")
    root = ET.fromstring(text)
    assert "\x1b" not in text and "<script>" not in text
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("5", "2", "1")
    cases = {(case.get("classname"), case.get("name")): case for case in root.iter("testcase")}
    failure = cases["01_test_forward", "records"].find("failure")
    assert "output 1 | 2" in failure.get("message") and "look" in failure.text
    assert cases["01_test_forward", "structure"].find("failure") is None
    assert cases["01_test_forward", "structure"].get("time") == "1.500"
    assert cases["05_test_backward", "run"].find("error").get("message").startswith("<script>")
    assert cases["align_training", "run"].find("failure") is not None


ACTION = re.compile(r"      run: \|\n(.*?)(?=    - name: Upload)", re.DOTALL)


def test_the_action_runs(tmp_path):
    """The script of action.yml, on a pair whose reference has a name with a quote."""
    script = textwrap.dedent(ACTION.search((ROOT / "action.yml").read_text()).group(1))
    alignment = tmp_path / "alignment"
    alignment.write_text(f'#!/bin/sh\nexec {sys.executable} -m alignment "$@"\n')
    alignment.chmod(0o755)
    (tmp_path / "ref 'quoted'.py").write_text("import torch\n\ndef Net():\n"
                                              "    return torch.nn.Linear(3, 4)\n")  # fmt: skip
    (tmp_path / "port.py").write_text("import paddle\n\ndef Net():\n"
                                      "    return paddle.nn.Linear(3, 4)\n")  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps(report.make_report([part("02_test_data")])))
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TORCH": "ref 'quoted'.py:Net",
        "PADDLE": "port.py:Net",
        "INPUTS": "2x3\n",
        "ARGUMENTS": "--checks\nforward\n",
        "FOLDER": "out put",
        "BASELINE": "old.json",
        "GITHUB_OUTPUT": "output",
        "GITHUB_STEP_SUMMARY": "summary",
    }
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (tmp_path / "output").read_text() == "status=0\n", done.stdout + done.stderr
    assert (tmp_path / "summary").read_text() == "```\nAligned: Any pair\n```\n"
    assert ET.parse(tmp_path / "out put" / "junit.xml").getroot().get("failures") == "0"
    # What the baseline had and this run has not is worse.
    assert done.returncode == 1 and "worse: 02_test_data is gone" in done.stdout


# --- show and diff ---


@pytest.fixture
def write(tmp_path):
    def write_report(name, *parts):
        path = tmp_path / name
        path.write_text(json.dumps(report.make_report(parts)))
        return path

    return write_report


def test_show_prints_it_again(command, write, tmp_path):
    lines = ["NOT ALIGNED: logits", f"Look at: {HOSTILE}"]
    path = write("a.json", part(status=report.NOT_ALIGNED, lines=lines), part("05_test_backward"))
    status, out, err = command("show", path, "--junit", tmp_path / "x.xml")
    assert status == 0 and err == "" and "\x1b" not in out and "  NOT ALIGNED: logits" in out
    assert out.splitlines()[-1].startswith("Not aligned: start with 01_test_forward, ")
    assert len(list(ET.parse(tmp_path / "x.xml").iter("testcase"))) == 1
    status, out, _ = command("show", path, "-q")
    assert status == 0 and len(out.splitlines()) == 1


BAD = {
    "nothing": "",
    "another JSON": "[1]",
    "a later version": '{"version": 2, "parts": []}',
    "no verdict": '{"version": 1, "parts": []}',
    "a part": '{"version": 1, "verdict": "", "parts": [[]]}',
    "a status": '{"version": 1, "verdict": "", "parts": [{"name": "", "title": "", '
    '"verdict": "", "status": []}]}',
    "findings": '{"version": 1, "verdict": "", "parts": [{"name": "", "title": "", '
    '"verdict": "", "status": "aligned", "findings": [{"text": 3}]}]}',
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_report_is_one_line(name, command, write, tmp_path):
    (tmp_path / "bad.json").write_text(BAD[name])
    good = write("good.json", part())
    for given in (
        ("show", tmp_path / "bad.json"),
        ("diff", tmp_path / "bad.json", good),
        ("diff", good, tmp_path / "missing.json"),
    ):
        status, out, err = command(*given)
        assert status == 2 and out == "" and err.count("\n") == 1 and err.startswith("error: ")


def record(key="logits", verdict="aligned", float64=1e-15):
    return {"key": key, "verdict": verdict, "difference": 1e-7, "threshold": 1e-5,
            "float64": float64, "bound64": 1e-12, "text": ""}  # fmt: skip


def test_diff_says_what_has_changed(command, write):
    finding = Finding("forward", "features.0.1", "output", difference=1e-3, bound=1e-12)
    green = part(records=[record(), record("b")])
    red = part(
        status=report.NOT_ALIGNED,
        records=[record(verdict="misaligned", float64=1e-3), record("c")],
        findings=report.finding_entries([finding]),
    )
    old, new = write("old.json", green, part("03_test_metric")), write("new.json", red)
    status, out, err = command("diff", old, new)
    assert status == 1 and err == ""
    for line in (
        "worse: 03_test_metric is gone",
        "worse: 01_test_forward: was aligned, is not aligned",
        "worse: 01_test_forward, record logits differs now",
        "worse: 01_test_forward, logits in float64: 1.0e-15 -> 1.0e-03, above its bound",
        "worse: 01_test_forward: new difference: features.0.1: output",
        "other: 01_test_forward, record b is gone",
        "other: 01_test_forward, record c is new: agrees",
    ):
        assert line in out, out
    fixed = write("fixed.json", part(records=[record(), record("c")]))
    status, out, _ = command("diff", new, fixed)
    assert status == 0 and "better: 01_test_forward, record logits agrees now" in out
    status, out, _ = command("diff", old, old)
    assert (status, out) == (0, "0 worse, 0 better\n")


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (1e-15, 9e-15, False),  # noise
        (1e-14, 3e-13, True),  # 30 times as large, within its bound
        (2e-13, 8e-13, False),
        (5e-13, 2e-12, True),  # past its bound
        (0.0, 9e-14, False),
        (0.0, 2e-13, True),
    ],
)
def test_a_difference_that_grows(before, after, worse):
    old, new = ({"parts": [part(records=[record(float64=x)])]} for x in (before, after))
    assert bool(changes(old, new).worse) == worse


# --- the terminal ---


@pytest.mark.parametrize(("flag", "lines"), [("-q", 1), (None, 4), ("-v", 9)])
def test_how_much_a_step_tells(flag, lines, run, tmp_path):
    result = run("04_test_loss.py", *([flag] if flag else []))
    assert result.status == 0 and result.err == ""
    assert len(result.out.splitlines()) <= lines + 4 * (flag == "-v")
    assert "root INFO" in (tmp_path / "result" / "log" / "loss_diff.log").read_text()
    assert ("root INFO" in result.out) == (flag == "-v")
    assert "aligned: 3 arrays" in result.out and "\x1b" not in result.out


def test_torch2paddle_prints_its_rows_when_asked(run):
    assert len(run("torch2paddle.py").out.splitlines()) <= 3
    assert len(run("torch2paddle.py", "-v").out.splitlines()) > 210


def on_a_terminal(*arguments, **environment):
    """What `python …` writes to a terminal, and its exit status."""
    here, there = pty.openpty()
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=there,
        stderr=there,
        cwd=ROOT,
        env={**inherited, "TERM": "xterm-256color", **environment},
    )
    os.close(there)
    out = b""
    while True:
        try:
            data = os.read(here, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not data:
            break
        out += data
    os.close(here)
    return process.wait(timeout=60), out.decode()


def test_colour_on_a_terminal_alone(write, spawn):
    path = str(write("a.json", part()))
    status, out = on_a_terminal("-m", "alignment", "show", path)
    assert status == 0 and "\x1b[32mAligned: 01_test_forward\x1b[0m" in out
    status, out = on_a_terminal("-m", "alignment", "show", path, NO_COLOR="1")
    assert status == 0 and "\x1b" not in out
    result = spawn("-m", "alignment", "show", path, cwd=ROOT, env={"FORCE_COLOR": "1"})
    assert result.status == 0 and "\x1b" not in result.out


WAIT = """
import sys, time
sys.path.insert(0, {root!r})
from alignment.processes import Job, run_in_turn
from alignment.terminal import Waiting
jobs = [Job({script!r}, [seconds]) for seconds in ("0.4", "0.8")]
for job in run_in_turn(jobs, jobs, 2, False, Waiting()):
    print(job.out, end="")
"""


def test_a_line_says_what_is_running(tmp_path, spawn):
    script = tmp_path / "slow_step.py"
    script.write_text(
        "import sys, time; time.sleep(float(sys.argv[1])); print('done', sys.argv[1])"
    )
    code = WAIT.format(root=str(ROOT), script=str(script))
    status, out = on_a_terminal("-c", code)
    assert status == 0 and "running: slow_step 0 s, slow_step 0 s" in out
    assert out.index("done 0.4") < out.index("done 0.8")
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l"), "the cursor is left hidden"
    result = spawn("-c", code)
    assert (result.status, result.out) == (0, "done 0.4\ndone 0.8\n")


def test_who_uses_it_as_a_library_sees_all():
    assert screen.detail() == screen.Detail.ALL
    with screen.telling(screen.Detail.QUIET):
        assert screen.detail() == screen.Detail.QUIET
    with pytest.raises(CannotRun), screen.telling(screen.Detail.QUIET):
        raise CannotRun
    assert screen.detail() == screen.Detail.ALL


SHOW = """
import sys
sys.path.insert(0, {root!r})
sys.argv = ["alignment", "show", {path!r}]
from alignment.__main__ import run
try:
    run()
except SystemExit as leaving:
    assert not leaving.code and not {{"torch", "paddle"}} & set(sys.modules)
"""


def test_torch_is_not_needed_to_read_a_report(write, spawn):
    path = write("a.json", part())
    code = SHOW.format(root=str(ROOT), path=str(path))
    assert spawn("-c", code).status == 0
