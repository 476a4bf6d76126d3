"""Runs the steps again that a saved file takes part in."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .files import HELD
from .processes import run_at_once
from .terminal import GOOD, Waiting, coloured, of_verdict

if TYPE_CHECKING:
    from .__main__ import Step
    from .processes import Job


__all__ = ["affected", "verdict", "watch"]

ENGINE = Path(__file__).resolve().parent
PAUSE = 50  # milliseconds without a further change, before steps are run
POLL = 50  # milliseconds


class _Saved(Exception):
    """While steps run."""


def watch(
    root: Path,
    steps: Sequence[Step],
    jobs: Sequence[Job],
    since: float,
    at_once: int,
    fork: bool,
) -> NoReturn:
    """Waits for saved Python files under `root`, and runs what they take part in; has no end.

    Args:
        root: pathlib.Path of the repository.
        steps: what was run; `job()` makes a Job of one.
        jobs: the Jobs that have run them, in the same order.
        since: when the first of them was started, as `time.time()`.
        at_once, fork: as of `run_in_turn`.
    """
    last, to_run = dict(zip(steps, jobs)), []
    saved = _saved_files(root)
    files = sorted({*next(saved), *_saved_since(since, root, jobs)})
    print("\nWatching: save a Python file and what it takes part in runs again. Ctrl-C ends.")
    sys.stdout.flush()
    while True:
        while files:
            if _of_engine(files):
                print("\nThe engine has changed: starting again", flush=True)
                os.environ.pop(HELD, None)  # the lock ends with this process, and is taken again
                os.execv(sys.executable, sys.orig_argv)
            again = affected(files, last)
            to_run = [step for step in steps if step in again or step in to_run]
            if again:
                names = ", ".join(str(file.relative_to(root)) for file in files)
                print(f"\n{names}", flush=True)
            files = _run(to_run, last, saved, at_once, fork) if to_run else []
        files = next(saved)


def _of_engine(files: Collection[Path]) -> bool:
    return any(ENGINE in file.parents for file in files)


def _saved_since(since: float, root: Path, jobs: Sequence[Job]) -> set[Path]:
    """The files under `root` that the jobs have imported, and that have changed after `since`."""
    imported = {Path(name) for job in jobs for name in job.imported or ()}
    inside = [file for file in imported if root in file.parents and file.exists()]
    return {file for file in inside if file.suffix == ".py" and file.stat().st_mtime > since}


def _saved_files(root: Path) -> Iterator[list[Path]]:
    """Yields, again and again after some milliseconds, the Python files that were saved."""
    from watchfiles import PythonFilter
    from watchfiles import watch as changes_of

    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    timing: dict[str, Any] = {
        "debounce": 400,
        "step": PAUSE,
        "rust_timeout": POLL,
        "yield_on_timeout": True,
    }
    for changes in changes_of(root, watch_filter=PythonFilter(), **timing):
        yield sorted({Path(name) for _, name in changes})


def _run(
    to_run: list[Step],
    last: dict[Step, Job],
    saved: Iterator[list[Path]],
    at_once: int,
    fork: bool,
) -> list[Path]:
    """Runs steps, tells of each what has changed, and takes it out of `to_run`.

    Returns:
        the files that were saved meanwhile: then what still ran was ended.
    """
    begin, early, waiting = time.perf_counter(), set(), Waiting()
    # The forward pass tells most; of the others the quick ones.
    order = [to_run[0], *sorted(to_run[1:], key=lambda step: last[step].seconds)]
    new = {step.job(): step for step in order}

    def tell(step: Step, text: str, seconds: float, more: str = "") -> None:
        waiting.clear()
        line = coloured(text, of_verdict(text))
        print(f"{step.script:30} {line}  ({more}{seconds:.1f} s)", flush=True)

    def pause(running: Sequence[Job]) -> None:
        for job in running:
            step = new[job]
            is_news = not early or of_verdict(job.early) != of_verdict(verdict(last[step]))
            if job.early and step not in early and is_news:
                tell(step, job.early, time.perf_counter() - begin, "so far, ")
                early.add(step)
        files = next(saved)
        if files and (_of_engine(files) or affected(files, last)):
            raise _Saved(files)

    try:
        for job in run_at_once(list(new), at_once, fork, waiting, pause):
            step, found, before = new[job], verdict(job), verdict(last[new[job]])
            tell(step, found, time.perf_counter() - begin)
            green = of_verdict(found) == GOOD, of_verdict(before) == GOOD
            if not green[0] and (where := _below(job, found)):
                print(f"{'':30} {where}")
            if found != before and not all(green):
                print(f"{'':30} before: {'aligned' if green[1] else before}")
            sys.stdout.flush()
            last[step] = job
            to_run.remove(step)
    except _Saved as stopped:
        return list(stopped.args[0])
    red = [step.script for step, job in last.items() if of_verdict(verdict(job)) != GOOD]
    print(
        f"Done. Not aligned: {', '.join(red)}" if red else "Done. All steps are aligned", flush=True
    )
    return []


def _below(job: Job, line: str) -> str:
    """What stands below a step's verdict: what differs, or where."""
    lines = job.out.splitlines()
    return next(iter(lines[lines.index(line) + 1 :]), "") if line in lines else ""


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
        if job.imported is None or not _judged(job) or names & job.imported
    ]


def _judged(job: Job) -> str | None:
    """The line of a step's output that says whether it is aligned; None if it broke off."""
    lines = job.out.splitlines()
    return next((line for line in lines if line.startswith(("aligned", "NOT ALIGNED"))), None)


def verdict(job: Job) -> str:
    """The line of a step's output that says whether it is aligned, or why it could not run."""
    if line := _judged(job):
        return line
    lines = [line for line in job.err.splitlines() if line.strip()]
    if not lines:
        return f"could not run (exit {job.returncode})"
    places = re.findall(r'File "([^"]+)", line (\d+)', job.err)
    return lines[-1] + (f" ({Path(places[-1][0]).name}:{places[-1][1]})" if places else "")
