"""Runs the steps again that a saved file takes part in."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import HELD
from .processes import run_at_once

if TYPE_CHECKING:
    from .__main__ import Step
    from .processes import Job


__all__ = ["affected", "verdict", "watch"]

ENGINE = Path(__file__).resolve().parent
PAUSE = 50  # milliseconds without a further change, before steps are run


def watch(root: Path, steps: Sequence[Step], jobs: Sequence[Job], at_once: int, fork: bool) -> None:
    """Waits for saved Python files under `root`, and runs what they take part in; has no end.

    Args:
        root: pathlib.Path of the repository.
        steps: what was run; `job()` makes a Job of one.
        jobs: the Jobs that have run them, in the same order.
        at_once, fork: as of `run_in_turn`.
    """
    from watchfiles import PythonFilter
    from watchfiles import watch as changes_of

    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    last, told = dict(zip(steps, jobs)), False
    timing: dict[str, Any] = {
        "debounce": 400,
        "step": PAUSE,
        "rust_timeout": 200,
        "yield_on_timeout": True,
    }
    for changes in changes_of(root, watch_filter=PythonFilter(), **timing):
        if not told:  # now it does
            told = True
            print(
                "\nWatching: save a Python file and what it takes part in runs again. Ctrl-C ends."
            )
            sys.stdout.flush()
        files = sorted({Path(name) for _, name in changes})
        if not files:
            continue
        if any(ENGINE in file.parents for file in files):
            print("\nThe engine has changed: starting again", flush=True)
            os.environ.pop(HELD, None)  # the lock ends with this process, and is taken again
            os.execv(sys.executable, sys.orig_argv)
        again = affected(files, last)
        if not again:
            continue
        names = ", ".join(str(file.relative_to(root)) for file in files)
        print(f"\n{names}", flush=True)
        new = {step.job(): step for step in again}
        for job in run_at_once(list(new), at_once, fork):
            step = new[job]
            print(f"{step.script:30} {verdict(job)}  ({job.seconds:.1f} s)")
            before = verdict(last[step])
            if before != verdict(job):
                print(f"{'':30} before: {before}")
            sys.stdout.flush()
            last[step] = job


def affected(files: Collection[Path], last: Mapping[Step, Job]) -> list[Step]:
    """[step] whose last run has imported one of the files, or of which that is not known.

    Args:
        files: [pathlib.Path] that have changed.
        last: {step: the Job that has run it last}
    """
    names = set(map(str, files))
    return [
        step
        for step, job in last.items()
        # One that broke off may have come to grief before it imported the rest.
        if job.imported is None or job.returncode not in (0, 1) or names & job.imported
    ]


def verdict(job: Job) -> str:
    """The line of a step's output that says whether it is aligned, or why it could not run."""
    for line in job.out.splitlines():
        if line.startswith(("aligned", "NOT ALIGNED")):
            return line
    lines = [line for line in job.err.splitlines() if line.strip()]
    return lines[-1] if lines else f"could not run (exit {job.returncode})"
