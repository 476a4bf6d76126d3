"""--help of every command: what somebody who has never seen it needs in order to run it."""

import argparse
import re
import runpy
import sys
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = ("", "Checkpoint6", "torch_ref", "benchmarks")
STARTED_BY_OTHERS = ("align_ranks.py", "data_port.py")  # by a launcher, by benchmarks/data.py
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).glob("*.py")
    if '__name__ == "__main__":\n    ' in path.read_text(encoding="utf-8")
    and path.name not in STARTED_BY_OTHERS
)
ENGINE = "alignment/__main__.py"
COMMANDS = ("compare", "map", "show", "diff", "records", "mutants")
# These need no framework to say what they do, and so take no seconds for it.
WITHOUT_FRAMEWORKS = (
    *([ENGINE, command] for command in COMMANDS),
    *([f"benchmarks/{name}.py"] for name in ("accelerators", "align_training", "steps", "train")),
)


def test_all_scripts_are_found():
    assert {"01_test_forward.py", "torch_ref/train.py", "Checkpoint6/train.py"} <= set(SCRIPTS)
    assert len(SCRIPTS) > 25


@pytest.mark.parametrize(
    "command",
    [*([script] for script in SCRIPTS), [ENGINE], *([ENGINE, command] for command in COMMANDS)],
    ids=" ".join,
)
def test_help(command, monkeypatch, capfd):
    script, *arguments = command
    asked = []

    def print_help(parser, *options, original=argparse.ArgumentParser.print_help):
        asked.append(parser)
        original(parser, *options)

    monkeypatch.setattr(argparse.ArgumentParser, "print_help", print_help)
    monkeypatch.setattr(sys, "argv", [script, *arguments, "--help"])
    monkeypatch.syspath_prepend((ROOT / script).parent)
    name = "alignment" if script == ENGINE else None
    with pytest.raises(SystemExit) as leaving:
        if name:
            runpy.run_module(name, run_name="__main__", alter_sys=False)
        else:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    out, err = capfd.readouterr()
    assert not leaving.value.code and not err

    # Lines are broken anywhere in a path.
    dense = "".join(out.split())
    for machine in (ROOT, Path.home(), "(default:/", "PosixPath(", "<function"):
        assert "".join(str(machine).split()) not in dense, machine
    example = f"-m alignment {' '.join(arguments)}".strip() if name else Path(script).name
    assert re.search(rf"^ +(python|torchrun) .*{re.escape(example)}", out, re.MULTILINE)
    for action in asked[0]._actions:
        assert action.help, action.option_strings
        text = asked[0]._get_formatter()._expand_help(action)
        assert text.lower().count("default: ") <= 1, text


ALL_HELP = """
import os, runpy, sys
sys.path.insert(0, {root!r})
for script, *arguments in {commands!r}:
    sys.argv = [script, *arguments, "--help"]
    sys.path.insert(1, os.path.dirname(os.path.join({root!r}, script)))
    try:
        if arguments:
            runpy.run_module("alignment", run_name="__main__")
        else:
            runpy.run_path(os.path.join({root!r}, script), run_name="__main__")
    except SystemExit as leaving:
        assert not leaving.code, script
    del sys.path[1]
    assert not {{"paddle", "torch"}} & set(sys.modules), script
"""


def test_help_without_frameworks(spawn):
    result = spawn("-c", ALL_HELP.format(root=str(ROOT), commands=WITHOUT_FRAMEWORKS))
    assert result.status == 0, result.err
    assert result.out.count("usage: ") == len(WITHOUT_FRAMEWORKS)
