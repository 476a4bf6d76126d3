"""Runs the five steps, and a short comparison of training, and prints one table.

    python -m alignment
    python -m alignment --model mobilenet_v3_large
    python -m alignment --watch            again, whenever a file of the port is saved
    python -m alignment compare --help     any pair of models
    python -m alignment map --help         which layer is which
    python -m alignment show --help        a report again
    python -m alignment diff --help        what has changed between two reports
    python -m alignment mutants --help     which small mistakes a check does not see

Options are those that all steps share. Writes report.json and report.html into --result-dir.
Exit status: 2 if a step could not run, else 1 if one is not aligned, else 0.
"""

from __future__ import annotations

from . import environment  # isort: skip  (first)

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

environment.require("numpy", "jinja2", "rich", "tabulate")

from . import processes  # noqa: E402
from .arguments import Parser, file_path  # noqa: E402
from .files import require_writable  # noqa: E402
from .processes import Job, can_fork, processors, run_in_turn  # noqa: E402
from .report import COULD_NOT_RUN, broken_part, finish, make_report, part_of_step  # noqa: E402
from .screen import CANNOT_RUN, Detail, detail, leave, say  # noqa: E402
from .terminal import Waiting, coloured, of_verdict  # noqa: E402

DIFFERS = 1  # exit status
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


def row(script: str, job: Job, summary_file: Path) -> list[Any]:
    """A step's row of the table."""
    found = _row(script, job, summary_file)
    verdict = found[4]
    return [*found[:4], coloured(verdict, of_verdict(verdict)), found[5]]


def _row(script: str, job: Job, summary_file: Path) -> list[Any]:
    if not summary_file.exists():
        verdict = f"could not run (exit {job.returncode})"
        return [Path(script).name, "", "", "", verdict, job.seconds]
    summary = json.loads(summary_file.read_text(encoding="utf-8"))
    keys = summary["compared"]
    what = ", ".join(keys[:3]) + (f", … ({len(keys)})" if len(keys) > 3 else "")
    difference, threshold = summary["difference"], summary["threshold"]
    if summary["records agree"] and not summary["aligned"]:
        what, difference, threshold = "other checks", "", ""
    return [Path(script).name, what, difference, threshold, summary["verdict"], job.seconds]


def part(script: str, job: Job, summary_file: Path) -> dict[str, Any]:
    """A step's part of the report."""
    name = Path(script).stem
    told = [line for line in job.err.splitlines() if line.startswith("error: ")]
    if job.returncode not in (0, DIFFERS) or not summary_file.exists():
        why = told[-1].removeprefix("error: ") if told else f"exit status {job.returncode}"
        return {**broken_part(name, why), "seconds": job.seconds}
    return part_of_step(summary_file, job.seconds)


class Step(NamedTuple):
    """A script that is run, its options, and the JSON that it writes."""

    script: str
    own: tuple  # options, as they are shown
    options: tuple  # that all share
    summary: Path

    def job(self) -> Job:
        """A Job that runs it; what it wrote before is gone."""
        self.summary.unlink(missing_ok=True)
        return Job(ROOT / self.script, [*self.own, *self.options])


def all_steps(args: argparse.Namespace) -> list[Step]:
    """[Step] in the order of the tutorial."""
    log_dir = args.result_dir / "log"
    shared = ["--result-dir", str(args.result_dir)]
    if args.model:
        shared += ["--model", args.model]
    if args.layer_map:
        shared += ["--layer-map", str(args.layer_map)]
    options = [*shared, "--data-dir", str(args.data_dir), "--device", args.device]
    options += ["--pretrained"] if args.pretrained else []
    options += ["--verbose"] if args.verbose else []
    steps = [Step(s, (), tuple(options), log_dir / f"{stem}.json") for s, stem in STEPS.items()]
    script, stem, own = TRAINING
    return [*steps, Step(script, own, tuple(shared), log_dir / f"{stem}.json")]


@environment.ended_by_signals()
def main(args: argparse.Namespace) -> NoReturn:
    if args.junit:
        require_writable(args.junit.parent)
    steps = all_steps(args)
    jobs = [step.job() for step in steps]
    parts = []
    # On a GPU they would share its memory.
    at_once = processors() if args.device == "cpu" else 1
    fork = can_fork(args.device)
    processes.taken = min(at_once, len(jobs))
    # The longest first; of the others, the first that is read.
    order = [jobs[-1], *jobs[:-1]] if at_once > 1 else jobs
    rows, since = [], time.time()
    for step, job in zip(steps, run_in_turn(jobs, order, at_once, fork, Waiting())):
        say(f"\n$ python {' '.join([step.script, *step.own])}")
        show(job)
        rows.append(row(step.script, job, step.summary))
        parts.append(part(step.script, job, step.summary))
    from tabulate import tabulate

    headers = ["step", "compared", "largest difference", "threshold", "verdict", "seconds"]
    formats = ("", "", ".2g", "g", "", ".1f")
    say(f"\n{tabulate(rows, headers, floatfmt=formats)}\n")
    finish(make_report(parts), args.result_dir, args.junit)
    if args.watch:
        from .watch import watch

        watch(ROOT, steps, jobs, since, at_once, fork)
    # Not of the exit status alone: Python's own of an exception is 1.
    broken = any(part["status"] == COULD_NOT_RUN for part in parts)
    leave(CANNOT_RUN if broken else max(job.returncode or 0 for job in jobs))


def show(job: Job) -> None:
    """Prints what a step has printed."""
    if detail() > Detail.QUIET:
        sys.stdout.write("\n".join(_painted(line) for line in job.out.split("\n")))
        sys.stdout.flush()
    sys.stderr.write(job.err)
    sys.stderr.flush()


def _painted(line: str) -> str:
    is_verdict = line.startswith(("aligned: ", "aligned, ", "NOT ALIGNED"))
    return coloured(line, of_verdict(line)) if is_verdict else line


def flags(parser: Parser) -> Parser:
    """`parser` of the options that all steps share, with those of this command alone."""
    from .commands import program

    parser.prog = program()
    output = parser.group("output")
    output.add_argument("--junit", metavar="FILE", type=file_path, help="write JUnit XML, for CI")
    output.add_argument(
        "--watch",
        action="store_true",
        help="stay, and run the steps again that use a Python file which is saved. Ctrl-C ends it",
    )
    return parser


def preload() -> None:
    """Imports what the steps import, but for the models: a forked step finds it there."""
    from .torch_import import import_torchvision

    import_torchvision("torchvision.transforms.v2")
    for name in ("step", "locate", "weights", "stages.recipe", "stages.augmentation"):
        importlib.import_module(f"alignment.{name}")


def run() -> NoReturn:
    """The console script: a command of any pair, or the steps of this repository."""
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
    # Steps run at the same time: a thread for each processor in each of them would be in the way.
    threads = max(1, processors() // (len(STEPS) + 1))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    from . import cli

    preload()
    cli.run(main, flags(cli.parser(__doc__)))


if __name__ == "__main__":
    run()
