"""docs/walkthrough.md is true: its commands give its outputs, and its corrections give port.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/walkthrough.md"
# Rounding, and what depends on the masks of dropout, is another number in each run.
NUMBER = re.compile(r"\d(?:\.\d+)?e[+-]\d+")


def blocks():
    """[(language, text)] of the fenced code, in the order in which a reader meets it."""
    return re.findall(r"```(\w*)\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), flags=re.S)


def correct(port, diff):
    """The text of `port` with the lines of a diff replaced, one after the other."""
    lines = diff.split("\n")
    position = 0
    for old, new in zip(lines[::2], lines[1::2]):
        assert old[0] == "-" and new[0] == "+"
        assert old[1:] in port[position:], old
        position += port[position:].index(old[1:])
        port = port[:position] + new[1:] + port[position + len(old) - 1 :]
        position += len(new) - 1
    return port


def test_corrections_lead_to_the_finished_port():
    folder = ROOT / "docs/walkthrough"
    port = (folder / "first_attempt.py").read_text()
    for language, text in blocks():
        if language == "diff":
            port = correct(port, text)
    finished = (folder / "port.py").read_text()
    assert port.split("\n")[1:] == finished.split("\n")[1:]  # the docstring says what it is


@pytest.mark.slow
def test_commands_give_the_outputs_that_are_shown(tmp_path):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shown, printed, compared = blocks(), "", 0
    for language, text in shown:
        if language == "bash":
            commands = re.sub(r"^.*pip install.*$", "", text, flags=re.M)
            result = subprocess.run(
                ["bash", "-c", commands], cwd=tmp_path, capture_output=True, text=True, timeout=300
            )
            assert result.returncode in (0, 1) and "error: " not in result.stderr, result.stderr
            printed = result.stdout
        elif language == "diff":
            port = tmp_path / "my_port/port.py"
            port.write_text(correct(port.read_text(), text))
        elif language == "":
            wanted = ".*?".join(re.escape(part) for part in NUMBER.sub("N", text).split("…\n"))
            assert re.fullmatch(wanted, NUMBER.sub("N", printed.strip()), flags=re.S), printed
            compared += 1
    assert compared == 6
    assert "1 passed" in printed
