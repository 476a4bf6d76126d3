"""python -m alignment mutants: small mistakes in a port. Which ones do its checks not see?"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import environment
from ..files import CannotRun, described, missing, reason_of, require_file, shown
from ..screen import printable, say
from ..terminal import Waiting
from . import hook
from .results import (
    FOUND,
    NOT_RUN,
    REFUSED,
    SURVIVED,
    Equivalents,
    Outcome,
    OutcomeLog,
    found_ones,
    read_outcomes,
    report,
    sample_of,
)
from .source import mutants_of

if TYPE_CHECKING:
    from .source import Mutant


__all__ = ["source_file", "try_mutants"]

POLL = 0.02  # seconds


def source_file(text: str) -> Path:
    """The file that --paddle names: FILE.py, FILE.py:NAME, MODULE or MODULE:NAME.

    Raises:
        CannotRun: there is none.
    """
    where = text.partition(":")[0] if text.partition(":")[0].endswith(".py") else None
    if text.endswith(".py"):
        where = text
    if where is not None:
        path = Path(where)
        if missing(path):
            raise CannotRun(f"--paddle {shown(path)} does not exist")
        require_file(path)
        return path.resolve()
    module = text.partition(":")[0]
    wanted = "wanted FILE.py or MODULE, with or without :NAME"
    sys.path.insert(0, os.getcwd())
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # of a package around it, which is imported
        raise CannotRun(
            f"--paddle {text!a:.200}: {type(error).__name__}: {reason_of(error)}: {wanted}"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise CannotRun(f"--paddle {text!a:.200}: there is no such Python file: {wanted}")
    return Path(spec.origin).resolve()


def try_mutants(args: argparse.Namespace) -> int:
    """Runs the command with one mutant after the other.

    Args:
        args: paddle, run, sample, timeout, equivalent, log, resume, again; of the command line.

    Returns:
        exit status: 0 if each is found, 1 if not.

    Raises:
        CannotRun: the command is not green by itself, does not import the file, or cannot be run.
    """
    path = source_file(args.paddle)
    name, source = shown(path), path.read_bytes()
    try:
        everything = mutants_of(source, name)
    except (SyntaxError, ValueError) as error:
        raise CannotRun(f"--paddle {name} is not Python: {reason_of(error)}") from error
    equivalents = Equivalents(args.equivalent)
    stale = equivalents.without_mutant(mutant.name for mutant in everything)
    wanted = [mutant for mutant in everything if mutant.name not in equivalents]
    if args.sample:
        wanted = sample_of(wanted, args.sample)
    if not wanted:
        raise CannotRun(f"--paddle {name}: nothing in it can be mutated")
    before = read_outcomes(args.log) if args.resume or args.again else {}
    if args.again:
        before = found_ones(before)
    work = Path(tempfile.mkdtemp(prefix="mutants_"))
    with (
        environment.ended_by_signals(),
        environment.cleaned_up(lambda: shutil.rmtree(work, ignore_errors=True)),
    ):
        command = Command(args.run, path, work)
        limit, lines = command.without_mutant(args.timeout)
        say(
            f"{name}: {len(wanted)} of {len(everything)} mutants; {command.text} is green by itself"
        )
        log, outcomes = OutcomeLog(args.log, args.resume or args.again), []
        waiting = Waiting()
        with contextlib.closing(log), waiting.cleared():
            for number, mutant in enumerate(wanted, 1):
                outcome = before.get(mutant.name)
                if outcome is None:
                    outcome = command.outcome(mutant, source, limit, lines, waiting, number)
                    log.write(outcome)
                outcomes.append(outcome)
    outcomes += [Outcome.of(m, "equivalent") for m in everything if m.name in equivalents]
    for line in ["", *report(outcomes, equivalents)]:
        say(printable(line))
    for each in stale:
        say(f"--equivalent {shown(args.equivalent)}: no such mutant: {printable(each)}")
    missed = [each for each in outcomes if each.outcome in (SURVIVED, NOT_RUN)]
    if missed:
        print(f"MISSED: {len(missed)} of {len(wanted)} mistakes would not have been seen")
    else:
        print(f"found: each of {len(wanted)} mistakes would have been seen")
    return 1 if missed else 0


@dataclass
class Ended:
    """How a command has ended.

    Attributes:
        status: exit status; None if it was ended, after too long.
        notes, lines: of `hook.read_notes`; the lines of the file alone.
        told: of the lines that it has printed, one that says what is wrong; otherwise the last.
    """

    status: int | None
    seconds: float
    notes: set[str]
    lines: set[int]
    told: str


class Command:
    """The user's own command, in processes in which one file is another.

    Args:
        text: as it is typed.
        path: of the file that is mutated.
        work: pathlib.Path of a folder for what is needed on the way.

    Raises:
        CannotRun: it is no command.
    """

    def __init__(self, text: str, path: Path, work: Path) -> None:
        self.text, self.path, self.work = text, path, work
        try:
            self.words = shlex.split(text)
        except ValueError as error:
            raise CannotRun(f"--run {text!a:.200}: {error}") from error
        if not self.words:
            raise CannotRun("--run is empty: give the command of your check")
        if self.words[0] in ("python", "python3"):
            self.words[0] = sys.executable  # that of this environment
        elif self.words[0] == "pytest":
            self.words[:1] = [sys.executable, "-m", "pytest"]

    def without_mutant(self, timeout: float | None) -> tuple[float, set[int]]:
        """(seconds that a run may take, {line} that it runs).

        Raises:
            CannotRun: it is not green, or the file has no part in it.
        """
        ended = self.run(None, timeout)
        if ended.status is None:
            raise CannotRun(f"--run {self.text}: not at its end after {timeout:g} s (--timeout)")
        if ended.status:
            told = f": {ended.told:.200}" if ended.told else ""
            raise CannotRun(
                f"--run {self.text}: exit status {ended.status} without any mutant{told}. It must "
                "be green first"
            )
        if not ended.lines:
            raise CannotRun(
                f"--run {self.text}: it does not import {shown(self.path)}. (A file that is itself "
                "started, and python -I or -S, cannot be mutated)"
            )
        return timeout or 30 + 5 * ended.seconds, ended.lines

    def outcome(
        self,
        mutant: Mutant,
        source: bytes,
        limit: float,
        lines: set[int],
        waiting: Waiting,
        number: int,
    ) -> Outcome:
        """Outcome of a mutant."""
        first, last = mutant.lines
        if not lines & set(range(first, last + 1)):
            return Outcome.of(mutant, NOT_RUN)
        mutated = mutant.apply(source)
        compile(mutated, mutant.file, "exec")

        def tick(seconds: float) -> None:
            waiting.show([(f"mutant {number}", seconds)])

        ended = self.run(mutated, limit, tick)
        waiting.clear()
        if ended.status == 0:
            found = SURVIVED if "imported" in ended.notes else NOT_RUN
        else:
            found = FOUND if ended.status == 1 else REFUSED
        outcome = Outcome.of(mutant, found, seconds=ended.seconds)
        if found in (SURVIVED, NOT_RUN):
            say(printable(f"{found}: {outcome.text()}"))
        return outcome

    def run(
        self,
        source: bytes | None,
        limit: float | None,
        tick: Callable[[float], None] = lambda seconds: None,
    ) -> Ended:
        """Ended. `source`: of the mutated file; None for its own, whose lines are noted."""
        watched = [os.path.realpath(self.path)] if source is None else []
        changed = hook.environment_of(self.work, self.path, source, watched)
        with tempfile.TemporaryFile() as output:
            start = time.perf_counter()
            try:
                process = subprocess.Popen(
                    self.words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **changed},
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                told = described(error) if isinstance(error, OSError) else str(error)
                raise CannotRun(f"--run {self.text}: {told}") from error
            with environment.cleaned_up(lambda: _end(process)):
                status = None
                while status is None and (limit is None or time.perf_counter() - start < limit):
                    status = process.poll()
                    tick(time.perf_counter() - start)
                    time.sleep(POLL)
            output.seek(max(0, output.seek(0, os.SEEK_END) - 4096))
            lines: Any = output.read().decode("utf-8", "replace").splitlines()
        lines = [line.strip() for line in lines if line.strip()]
        wrong = [line for line in lines if re.search("NOT ALIGNED|[Ee]rror|FAILED", line)]
        told = (wrong or lines or [""])[-1]
        notes, lines = hook.read_notes(self.work)
        executed = lines.get(os.path.realpath(self.path), set())
        return Ended(status, time.perf_counter() - start, notes, executed, told)


def _end(process: subprocess.Popen) -> None:
    """With all that it has started."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
