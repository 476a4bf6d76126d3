"""A verdict that does not pass what differs, and files that do not run code."""

import json
import os
import pickle

import numpy as np
import pytest
from reprod_log import ReprodLogger

from alignment.diff import DiffHelper, save
from alignment.files import CannotRun, load_record
from alignment.findings import SETTING, Compared, Finding
from alignment.step import StepReport

ONES = np.ones((2, 3), np.float32)


def judge(reference, port, tmp_path, **options):
    helper = DiffHelper()
    helper.compare_info(reference, port)
    return helper.report(path=str(tmp_path / "log" / "x.log"), **options)


def test_equal_is_aligned_and_near_is_judged_by_the_threshold(tmp_path, capsys):
    assert judge({"a": ONES}, {"a": ONES.copy()}, tmp_path)
    assert judge({"a": ONES}, {"a": ONES + np.float32(1e-5)}, tmp_path, diff_threshold=1e-4)
    assert capsys.readouterr().out.splitlines()[-1].startswith("aligned: 1 array, largest mean")
    assert not judge({"a": ONES}, {"a": ONES + np.float32(1e-5)}, tmp_path)
    out = capsys.readouterr().out.splitlines()
    assert out[-2].startswith("NOT ALIGNED: a: mean difference 1")
    assert out[-1].startswith("Look at: ") and out[-1].endswith("x.log")
    assert out[-3].endswith("diff check failed")
    assert json.loads((tmp_path / "log" / "x.json").read_text())["verdict"] == "misaligned"


def step_report(reference, port, tmp_path):
    helper = DiffHelper()
    helper.compare_info(reference, port)
    return StepReport(helper, tmp_path / "log" / "x.log", 1e-6)


def test_what_is_compared_beside_the_records_decides_too(tmp_path, capsys):
    report = step_report({"a": ONES}, {"a": ONES.copy()}, tmp_path)
    report.add(Compared("the first", "first: all agrees"))
    assert report.aligned and report.finish("there")
    assert capsys.readouterr().out.splitlines()[-1] == "first: all agrees"

    setting = Finding("second", "layer", "epsilon", "1", "2", title=SETTING)
    found = Finding("second", "x", "value", "3", "4", hint="its value", title="First difference")
    further = Finding("second", "y", "value", "5", "6")
    report = step_report({"a": ONES}, {"a": ONES.copy()}, tmp_path)
    report.add(Compared("the first", "first: all agrees"))
    report.add(Compared("the second", "", [found, setting, further]))
    assert not report.aligned and not report.finish("there")
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "NOT ALIGNED: the recorded arrays agree, but this differs: the second",
        "Differs (port | reference): layer: epsilon 1 | 2",
        "First difference: x: value 3 | 4",
        "Look at: its value",
    ]
    summary = json.loads((tmp_path / "log" / "x.json").read_text())
    assert summary["verdict"] == "misaligned" and summary["records agree"]
    assert [finding["where"] for finding in summary["findings"]] == ["layer", "x", "y"]
    assert summary["findings"][1]["port"] == "3"


def test_where_it_differs_stands_under_the_verdict(tmp_path, capsys):
    report = step_report({"a": ONES}, {"a": ONES + 1}, tmp_path)
    report.locate(Compared("layers", "All layers agree", log=tmp_path / "layers.log"))
    assert not report.finish("there")
    out = capsys.readouterr().out.splitlines()
    assert out[-3] == "All layers agree" and out[-1] == "Look at: there"
    assert out[-2].startswith("Layers: ")


def damaged(value):
    array = ONES.copy()
    array[1, 1] = value
    return array


@pytest.mark.parametrize(
    ("reference", "port", "said"),
    [
        (ONES, damaged(np.nan), "NaN or infinity on the Paddle side"),
        (damaged(np.nan), ONES, "NaN or infinity on the reference side"),
        (damaged(np.nan), damaged(np.nan), "NaN"),
        (damaged(np.inf), damaged(np.inf), "NaN or infinity"),
        (ONES, ONES.T, "shape (3, 2) in Paddle, (2, 3) in the reference"),
        (ONES, ONES[:1], "shape"),
        (ONES, np.float32(1) * np.ones(()), "shape () in Paddle"),
        (ONES, ONES.astype(np.float64), "dtype float64 in Paddle, float32 in the reference"),
        (ONES, None, "missing on the Paddle side"),
        (None, ONES, "missing on the reference side"),
        (ONES[:0], ONES[:0], "empty"),
        (ONES * 1e-10, ONES * 1e-10, "freshly initialised"),
        (np.zeros_like(ONES), np.zeros_like(ONES), "freshly initialised"),
        (np.array([250], np.uint8), np.array([0], np.uint8), "difference 2.5e+02"),
        (np.array([True]), np.array([False]), "difference 1"),
    ],
)
def test_never_a_pass_and_never_a_traceback(reference, port, said, tmp_path, capsys):
    """reprod_log 1.0.1 passes or breaks off at most of these."""
    sides = [{} if array is None else {"a": array} for array in (reference, port)]
    aside = {"b": ONES}
    assert not judge({**aside, **sides[0]}, {**aside, **sides[1]}, tmp_path)
    out = capsys.readouterr().out
    assert said in out and "diff check failed" in out
    json.loads((tmp_path / "log" / "x.json").read_text())


def test_nothing_at_all_is_not_aligned(tmp_path):
    with pytest.raises(CannotRun, match="nothing"):
        judge({}, {}, tmp_path)


def test_thresholds_by_pattern(tmp_path):
    a = {"loss_0": ONES, "lr_0": ONES}
    b = {"loss_0": ONES * 1.001, "lr_0": ONES}
    assert judge(a, b, tmp_path, diff_threshold={"loss_*": 1e-2, "*": 0.0})
    b["lr_0"] = ONES * np.float32(1.001)
    assert not judge(a, b, tmp_path, diff_threshold={"loss_*": 1e-2, "*": 0.0})


def test_second_report_does_not_repeat_the_first(tmp_path, capsys):
    for _ in range(3):
        judge({"a": ONES}, {"a": ONES}, tmp_path)
    assert capsys.readouterr().out.count("diff check passed") == 3
    assert (tmp_path / "log" / "x.log").read_text().count("diff check passed") == 1


def test_record_there_and_back(tmp_path):
    logger = ReprodLogger()
    logger.add("a", ONES)
    logger.add("n", np.array(3))
    save(logger, tmp_path / "new" / "x.npy")
    record = load_record(tmp_path / "new" / "x.npy")
    assert list(record) == ["a", "n"] and np.array_equal(record["a"], ONES) and record["n"] == 3
    assert os.listdir(tmp_path / "new") == ["x.npy"]


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_reading_a_record_does_not_run_code(tmp_path):
    owned = str(tmp_path / "owned")
    hostile = np.empty((), dtype=object)
    hostile[()] = {"logits": Hostile(owned)}
    np.save(tmp_path / "x.npy", hostile)
    with pytest.raises(CannotRun, match="mkdir"):
        load_record(tmp_path / "x.npy")
    nested = np.empty(1, dtype=object)
    nested[0] = Hostile(owned)
    np.save(tmp_path / "y.npy", np.array({"logits": nested}, dtype=object))
    with pytest.raises(CannotRun, match="mkdir"):
        load_record(tmp_path / "y.npy")
    assert not os.path.exists(owned)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"not numpy at all",
        b"\x93NUMPY\x09\x00v\x00{}",
        pickle.dumps({"a": 1}),
    ],
)
def test_no_record(content, tmp_path):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(CannotRun, match=r"x\.npy is not a record"):
        load_record(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "array",
    [
        ONES,
        np.array({"a": 1}, dtype=object),
        np.array([1, "a"], dtype=object),
        np.array({1: ONES}, dtype=object),
    ],
)
def test_another_kind_of_npy(array, tmp_path):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(CannotRun, match="not a record"):
        load_record(tmp_path / "x.npy")


def test_missing_record(tmp_path):
    with pytest.raises(CannotRun, match="No such file"):
        load_record(tmp_path / "x.npy")
