"""Does any porting bug get through? Each one alone, at its step, with its name."""

import html
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, require_valid

sys.path.insert(0, str(Path(__file__).parent))
from bugs import BUGS, document, in_chinese

import torch_ref
from alignment.files import CannotRun
from alignment.page import render_page
from alignment.report import make_report

SCRIPTS = {path.name[:2]: path.name for path in ROOT.glob("0[1-5]_test_*.py")}
TRAINING = [name for name, bug in BUGS.items() if bug.step == "06"]
RANKS = [name for name, bug in BUGS.items() if bug.step == "06, two processes"]
SHORT = "Checkpoint6/align_training.py", "--steps", "10", "--processes"


REFERENCE_DREW = {}


@pytest.fixture
def cached_reference(monkeypatch):
    """What the reference draws in step 02 follows from where its generator is: no bug is in it."""

    def cached(method):
        def call(self, image, *args):
            state = torch.get_rng_state().numpy().tobytes()
            key = (method.__name__, str(self.settings), image.size, image.tobytes(), *args, state)
            if key not in REFERENCE_DREW:
                REFERENCE_DREW[key] = method(self, image, *args), torch.get_rng_state()
            answer, after = REFERENCE_DREW[key]
            torch.set_rng_state(after)
            return answer

        return call

    preset = torch_ref.ClassificationPresetTrain
    for name in ("record", "draws"):
        monkeypatch.setattr(preset, name, cached(getattr(preset, name)))


@pytest.mark.filterwarnings("ignore:Skip loading")
@pytest.mark.parametrize("name", [name for name in BUGS if BUGS[name].step in SCRIPTS])
def test_bug_is_found_and_named(name, run, monkeypatch, tmp_path, data_dir, cached_reference):
    # Weights are converted anew, as the conversion may be what is broken.
    for file in ("fake_data.npy", "fake_label.npy", "mobilenet_v3_small-047dcff4.pth"):
        (tmp_path / file).symlink_to(data_dir / file)
    BUGS[name].apply(monkeypatch.setattr)
    log_dir = tmp_path / "result" / "log"
    assert_named(name, run(SCRIPTS[BUGS[name].step], "--data-dir", tmp_path), log_dir)


def assert_named(name, result, log_dir):
    assert result.status == 1, result.out + result.err
    verdict = result.out[result.out.index("NOT ALIGNED") :]
    for text in BUGS[name].names:
        assert text in verdict, verdict
    assert "Look at: " in verdict.splitlines()[-1]
    (path,) = [*log_dir.glob("*_diff.json"), *log_dir.glob("train_align_steps.json")]
    part = json.loads(path.read_text(encoding="utf-8"))["part"]
    require_valid(part, "part")
    assert part["status"] == "not aligned"
    # The screen's own lines and the lists of all layers would hold any name.
    part |= {"lines": [], "layers": [], "weights": []}
    titled = [f"{finding['title']}: {finding['text']}" for finding in part["findings"]]
    told = "\n".join([*texts(part), *titled])
    page = html.unescape(re.sub("<[^>]*>", "", render_page(make_report([part]))))
    for text in BUGS[name].names:
        assert text in told, told
        assert text in page, page


def texts(value):
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for child in value.values() if isinstance(value, dict) else value:
            yield from texts(child)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_bug_of_the_trainer_is_found_and_named(name, run, monkeypatch, tmp_path):
    BUGS[name].apply(monkeypatch.setattr)
    assert_named(name, run(*SHORT, "1"), tmp_path / "result" / "log")


@pytest.mark.slow
@pytest.mark.parametrize("name", RANKS)
def test_bug_of_several_processes_is_found_and_named(name, run, monkeypatch, tmp_path):
    monkeypatch.setenv("PORTING_BUG", name)
    monkeypatch.setattr("Checkpoint6.align_ranks.SCRIPT", Path(__file__).parent / "broken_ranks.py")
    assert_named(name, run(*SHORT, "2"), tmp_path / "result" / "log")


def test_there_are_enough_bugs_of_each_step():
    steps = [bug.step for bug in BUGS.values()]
    assert len(steps) >= 45 and len(TRAINING) >= 20 and len(RANKS) >= 5
    assert all(steps.count(step) >= 5 for step in SCRIPTS)


@pytest.mark.parametrize(
    ("language", "page"), [("en", "porting_bugs.md"), ("zh", "porting_bugs.zh.md")]
)
def test_document_is_of_these_bugs(language, page):
    made_now = document(language) + "\n"
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == made_now, (
        f"python tests/porting_bugs/bugs.py --language {language} > docs/{page}"
    )


def test_every_bug_has_chinese_texts():
    chinese = in_chinese()
    names = [texts["name"] for texts in chinese.values()]
    assert len(set(names)) == len(BUGS)
    for texts in chinese.values():
        for field in ("name", "symptom"):  # reason and fix may be code alone
            assert re.search("[\u4e00-\u9fff]", texts[field]), texts


def test_bug_without_chinese_is_named(monkeypatch):
    monkeypatch.setitem(BUGS, "added today", BUGS["sum for mean"])
    with pytest.raises(CannotRun, match=r"'added today' has no name, .* into .*\.zh\.json"):
        document("zh")


def test_chinese_of_no_bug_is_named(monkeypatch):
    monkeypatch.delitem(BUGS, "sum for mean")
    with pytest.raises(CannotRun, match=r"\.zh\.json has texts of 'sum for mean'"):
        document("zh")


@pytest.mark.parametrize("step", SCRIPTS)
def test_control(step, run):
    """The unchanged port is green at each step."""
    assert run(SCRIPTS[step]).status == 0
