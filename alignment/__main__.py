"""Runs the five steps, and a short comparison of training, and prints one table.

    python -m alignment
    python -m alignment --model mobilenet_v3_large
    python -m alignment compare --help     any pair of models
    python -m alignment map --help         which layer is which

Options are those that all steps share. Exit status: 2 if a step could not run, else 1 if one is
not aligned, else 0.
"""

from . import environment  # isort: skip  (first)

import json
import subprocess
import sys
import time
from pathlib import Path

from .screen import CANNOT_RUN, leave

NOT_ALIGNED = 1
ROOT = Path(__file__).resolve().parent.parent

STEPS = {
    "01_test_forward.py": "forward_diff",
    "02_test_data.py": "data_diff",
    "03_test_metric.py": "metric_diff",
    "04_test_loss.py": "loss_diff",
    "05_test_backward.py": "backward_diff",
}
# Training itself; Checkpoint6/align_training.py alone compares more.
TRAINING = (
    "Checkpoint6/align_training.py",
    "train_align_steps",
    ("--steps", "10", "--processes", "1"),
)


def run_step(script, summary_file, options, own=()):
    """Runs a script with its `own` options and the shared ones, its output on ours.

    Returns:
        (exit status, its row of the table)
    """
    print(f"\n$ python {' '.join([script, *own])}", flush=True)
    summary_file.unlink(missing_ok=True)
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, ROOT / script, *own, *options])
    with environment.cleaned_up(lambda: environment.end(process)):
        status = process.wait()
    seconds = time.perf_counter() - start
    if not summary_file.exists() and status == NOT_ALIGNED:
        return status, [Path(script).name, "", "", "", "misaligned", seconds]
    if not summary_file.exists():
        return status, [Path(script).name, "", "", "", f"could not run (exit {status})", seconds]
    summary = json.loads(summary_file.read_text(encoding="utf-8"))
    keys = summary["compared"]
    what = ", ".join(keys[:3]) + (f", … ({len(keys)})" if len(keys) > 3 else "")
    difference, threshold = summary["difference"], summary["threshold"]
    if summary["records agree"] and not summary["aligned"]:
        what, difference, threshold = "beside the records", "", ""
    return status, [Path(script).name, what, difference, threshold, summary["verdict"], seconds]


@environment.ended_by_signals()
def main(args):
    options = sys.argv[1:]
    results = [
        run_step(script, args.result_dir / "log" / f"{stem}.json", options)
        for script, stem in STEPS.items()
    ]
    script, stem, short = TRAINING
    summary_file = args.result_dir / "log" / f"{stem}.json"
    shared = ["--result-dir", str(args.result_dir)]
    if args.model:
        shared += ["--model", args.model]
    if args.layer_map:
        shared += ["--layer-map", str(args.layer_map)]
    results.append(run_step(script, summary_file, shared, short))
    from tabulate import tabulate

    headers = ["step", "compared", "largest difference", "threshold", "verdict", "seconds"]
    formats = ("", "", ".2g", "g", "", ".1f")
    print(f"\n{tabulate([row for _, row in results], headers, floatfmt=formats)}")
    leave(max(status for status, _ in results))


def run():
    """The console script: a command of any pair, or the steps of this repository."""
    environment.require("numpy")  # which all below imports
    from .commands import COMMANDS, WHAT, program
    from .commands import main as run_command

    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        run_command(sys.argv[1:])
    if not (ROOT / next(iter(STEPS))).exists():  # installed, away from the repository
        if sys.argv[1:] in (["-h"], ["--help"]):
            for command in COMMANDS:
                print(f"{program()} {command} --help    {WHAT[command]}")
            leave(0)
        given = f"{sys.argv[1]!a:.60} is not a command. " if sys.argv[1:] else ""
        leave(
            CANNOT_RUN,
            f"{given}Give one: {program()} compare (is a port in PaddlePaddle the same as its "
            f"reference in PyTorch?) or {program()} map (which layer is which?). See {program()} "
            "compare --help",
        )
    from . import cli

    cli.run(main, cli.parser(__doc__))


if __name__ == "__main__":
    run()
