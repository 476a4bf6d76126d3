"""python -m alignment: every step is run, the table is printed, the worst exit status wins."""

import json
import sys

import pytest

from alignment import __main__ as table
from alignment import cli
from alignment.report import new_part

STEP = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--result-dir") + 1]) / "log"
folder.mkdir(parents=True, exist_ok=True)
if {status} != 2:
    summary = {{"verdict": "{verdict}", "aligned": not {status}, "records agree": {records},
        "compared": ["a", "b"], "worst": "a", "difference": 1e-3, "threshold": 1e-2,
        "part": json.loads({part!r})}}
    (folder / "{stem}.json").write_text(json.dumps(summary))
sys.exit({status})
"""


@pytest.mark.parametrize("statuses", [(0, 0, 0), (0, 1, 0), (1, 2, 1), (2, 0, 0), (0, 0, 1)])
@pytest.mark.parametrize("records", [True, False])
def test_table(statuses, records, tmp_path, monkeypatch, capfd):
    steps = {}
    for i, status in enumerate(statuses):
        verdict = ("aligned", "not aligned", "")[status]
        agree = records or status == 0
        state = ("aligned", "not aligned", "could not run")[status]
        part = json.dumps(new_part(str(i), "Step", state, verdict))
        values = {"status": status, "stem": f"step{i}", "verdict": verdict, "records": agree}
        script = STEP.format(**values, part=part)
        (tmp_path / f"{i}.py").write_text(script)
        steps[f"{i}.py"] = f"step{i}"
    log = tmp_path / "result" / "log"
    log.mkdir(parents=True)
    (log / "step0.json").write_text("of an earlier run")
    *others, training = steps
    monkeypatch.setattr(table, "STEPS", {name: steps[name] for name in others})
    monkeypatch.setattr(table, "TRAINING", (training, steps[training], ("--steps", "10")))
    monkeypatch.setattr(table, "ROOT", tmp_path)
    argv = ["alignment", "--result-dir", str(tmp_path / "result")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as leaving:
        cli.run(table.main, table.flags(cli.parser("")))
    assert leaving.value.code == max(statuses)
    lines = capfd.readouterr().out.splitlines()
    assert f"$ python {training} --steps 10" in lines
    first = next(i for i, line in enumerate(lines) if line.startswith("step  ")) + 2
    rows = lines[first : first + len(statuses)]
    red = "Not aligned: ", "Could not run: "
    assert lines[-1].startswith(red if max(statuses) else "Aligned: ")
    for row, status, name in zip(rows, statuses, steps):
        assert row.startswith(name)
        assert ("  aligned", "not aligned", "could not run (exit 2)")[status] in row
        # What differs beside equal records has no largest difference to be shown.
        assert ("other checks" in row) == (status == 1 and records)
        assert ("0.001" in row) == (status == 0 or (status == 1 and not records))
