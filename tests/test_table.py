"""python -m alignment: every step is run, the table is printed, the worst exit status wins."""

import sys

import pytest

from alignment import __main__ as table
from alignment import cli

STEP = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--result-dir") + 1]) / "log"
folder.mkdir(parents=True, exist_ok=True)
if {status} != 2:
    (folder / "{stem}.json").write_text('''{{"verdict": "{verdict}", "compared": ["a", "b"],
        "worst": "a", "difference": 1e-3, "threshold": 1e-2, "reason": null}}''')
sys.exit({status})
"""


@pytest.mark.parametrize("statuses", [(0, 0), (0, 1), (1, 2), (2, 0)])
def test_table(statuses, tmp_path, monkeypatch, capfd):
    steps = {}
    for i, status in enumerate(statuses):
        verdict = ("aligned", "not aligned", "")[status]
        script = STEP.format(status=status, stem=f"step{i}", verdict=verdict)
        (tmp_path / f"{i}.py").write_text(script)
        steps[f"{i}.py"] = f"step{i}"
    log = tmp_path / "result" / "log"
    log.mkdir(parents=True)
    (log / "step0.json").write_text("of an earlier run")
    monkeypatch.setattr(table, "STEPS", steps)
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    argv = ["alignment", "--result-dir", str(tmp_path / "result")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as leaving:
        cli.run(table.main, cli.parser(""))
    assert leaving.value.code == max(statuses)
    rows = capfd.readouterr().out.splitlines()[-len(statuses) :]
    for row, status, name in zip(rows, statuses, steps):
        assert row.startswith(name)
        assert ("  aligned", "not aligned", "could not run (exit 2)")[status] in row
