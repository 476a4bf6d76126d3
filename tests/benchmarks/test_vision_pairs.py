"""paddle.vision.models beside torchvision: causes are named, and without them pairs are aligned."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from alignment.torch_import import import_torchvision

import_torchvision()

sys.path.insert(0, str(ROOT / "benchmarks"))

import paddle_vision  # noqa: E402
import vision_findings  # noqa: E402

PAIRS = {pair.name: pair for pair in paddle_vision.PAIRS}


def compare(name, cures=()):
    import alignment

    def port():
        model = PAIRS[name].port()
        for cause in vision_findings.CAUSES:
            if cause.name in cures:
                cause.cure(model)
        return model

    reference = PAIRS[name].reference()
    return alignment.check(port, reference, PAIRS[name].inputs, checks=("forward",))


@pytest.mark.parametrize(
    ("name", "causes"),
    [
        ("squeezenet1_0", ["squeezenet-pool", "dropout-mode"]),
        ("mobilenet_v3_small", ["hardsigmoid", "running-variance"]),
        pytest.param(
            "squeezenet1_1",
            ["squeezenet-padding", "dropout-mode", "squeezenet-pool"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "shufflenet_v2_x2_0", ["shufflenet-width", "running-variance"], marks=pytest.mark.slow
        ),
        pytest.param(
            "densenet121", ["running-variance"], marks=pytest.mark.slow
        ),  # its batch norm is paddle.nn.BatchNorm
        pytest.param(
            "inception_v3",
            [
                "inception-auxiliary",
                "inception-epsilon",
                "dropout-mode",
                "dropout-rate",
                "running-variance",
            ],
            marks=pytest.mark.slow,
        ),
        pytest.param("alexnet", ["alexnet-size", "dropout-mode"], marks=pytest.mark.slow),
    ],
)
def test_cause_is_found_and_its_cure_makes_the_pair_agree(name, causes):
    result = paddle_vision.compare(PAIRS[name])
    assert [cause for cause, _ in result.causes] == causes
    assert result.first and not result.left, result


def test_what_differs_is_named_before_it_is_cured():
    report = compare("squeezenet1_0")
    assert not report.aligned
    assert "_pool (call 2): ceil_mode False | True" in report.text()
    report = compare("squeezenet1_0", ["squeezenet-pool"])
    assert not report.aligned
    assert "_drop: scaling downscale_in_infer | upscale_in_train" in report.text()


def test_first_layer_of_mobilenet_v3_large_that_differs_is_hardsigmoid():
    """Not its first block, which has torchvision's chain of layers in it, without the residual."""
    report = compare("mobilenet_v3_large")
    assert report.differences[0].where == "blocks.3.mid_se.scale_activation"


def test_distribution_is_told_from_the_numbers():
    described = paddle_vision.compare_initialisation(PAIRS["squeezenet1_0"], {})
    assert described == {
        "convolution weight": [
            "normal, deviation sqrt(2 / fan_in)",
            "uniform within sqrt(6 / fan_in) (25 of 26) and normal, deviation 0.01 (1 of 26)",
        ]
    }


@pytest.mark.parametrize("cause", vision_findings.CAUSES, ids=lambda cause: cause.name)
def test_every_place_is_a_line_of_the_installed_source(cause):
    places = cause.places()
    assert places
    for place in places:
        path, _, number = place.where.rpartition(":")
        root = Path(sys.modules[path.partition("/")[0]].__file__).parent.parent
        lines = (root / path).read_text(encoding="utf-8").splitlines()
        assert lines[int(number) - 1].strip() == place.code


QUICK = ("running-variance", "hardsigmoid", "grouped-convolution")


@pytest.mark.parametrize(
    "cause",
    [
        pytest.param(cause, marks=() if cause.name in QUICK else pytest.mark.slow, id=cause.name)
        for cause in vision_findings.CAUSES
        if cause.reproduction
    ],
)
def test_reproduction_is_run_and_what_it_prints_is_on_the_page(cause):
    printed = paddle_vision.run_code(cause.reproduction)
    assert printed and printed in "\n".join(paddle_vision.section(cause, []))
    assert printed in paddle_vision.PAGE.read_text(encoding="utf-8")


def test_line_that_is_gone_is_no_place():
    with pytest.raises(LookupError, match="holds no"):
        vision_findings.place(vision_findings.place, "no such" + " line")


def test_check_tells_a_page_that_says_something_else(tmp_path, monkeypatch, capsys):
    known = paddle_vision.Result("squeezenet1_0", "2x3x64x64", 3, first="x", left="y")
    monkeypatch.setattr(paddle_vision, "compare", lambda pair: known)
    monkeypatch.setattr(paddle_vision, "RESULTS", tmp_path / "results.json")
    page = tmp_path / "page.md"
    page.write_text(paddle_vision.row(paddle_vision.Result("squeezenet1_0", "2x3x64x64", 3)))
    monkeypatch.setattr(paddle_vision, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["paddle_vision.py", "--only", "squeezenet1_0", "--check"])
    with pytest.raises(SystemExit) as left:
        paddle_vision.main()
    assert left.value.code == 1 and "not on the page: | `squeezenet1_0`" in capsys.readouterr().out


@pytest.mark.slow
def test_page_is_what_the_script_finds():
    script = ROOT / "benchmarks" / "paddle_vision.py"
    command = [sys.executable, script, "--only", "resnet18,squeezenet1_0", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_unknown_model_is_told_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["paddle_vision.py", "--only", "resnet19"])
    with pytest.raises(SystemExit) as left:
        paddle_vision.main()
    assert left.value.code == 2
    assert "'resnet19' is none of" in capsys.readouterr().err
