"""Scripts, and parts of one, as processes: forked from one that has imported the frameworks.

A process that has imported PaddlePaddle and PyTorch and computed nothing can be forked: the child
saves the seconds that the imports take. Once one of them has computed, its threads are there, and
a child would wait for them for ever.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NoReturn, TypeVar

from . import environment
from .terminal import Waiting

__all__ = [
    "Job",
    "beside",
    "can_fork",
    "processors",
    "run_at_once",
    "run_in_turn",
    "say_early",
]

POLL = 0.02  # seconds
Result = TypeVar("Result")

# How many processors are made use of, by this process and those that run at the same time.
taken = 1

# In a Job's child: where `say_early` writes.
_early: IO[bytes] | None = None


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_fork(device: str) -> bool:
    """Whether a child that was forked can compute.

    Args:
        device: "cpu" or "gpu"; a CUDA context does not outlive a fork.
    """
    # macOS has fork, but its system libraries do not survive it.
    return hasattr(os, "fork") and sys.platform != "darwin" and device == "cpu"


def say_early(verdict: str) -> None:
    """For a script that may be a Job: what it can say long before its end; once."""
    global _early
    file, _early = _early, None
    if file is not None:
        with contextlib.suppress(OSError):
            os.write(file.fileno(), f"{verdict}\n".encode())


@contextlib.contextmanager
def beside(
    device: str, part: Callable[..., Result], *args: object
) -> Iterator[Callable[[], Result]]:
    """Runs `part(*args)` in a forked child, where a processor is free for it; else when asked.

    Enter it before anything is computed. Beside a part PyTorch has one thread. What the part gives
    has to fit a pickle; what it writes to files is written even if nobody asks for its result.

    Args:
        device: see `can_fork`.

    Yields:
        a function () -> the result. It raises what the part raises.
    """
    if processors() <= taken or not can_fork(device):
        yield lambda: part(*args)
        return
    from .threads import one_torch_thread

    with one_torch_thread(), tempfile.TemporaryFile() as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        child = _Child(os.fork())
        if child.pid == 0:
            _be_the_part(part, args, file)

        def result() -> Result:
            child.wait()
            file.seek(0)
            # One that failed fails again here, where its author sees the traceback.
            return pickle.load(file) if child.returncode == 0 else part(*args)

        with environment.cleaned_up(child.end):
            yield result


def _be_the_part(part: Callable, args: Sequence[object], file: IO[bytes]) -> NoReturn:
    """In the child: writes the result to `file`, and does not return."""
    status = 1
    try:
        environment.forked()
        with environment.ended_by_signals():
            pickle.dump(part(*args), file)
            file.flush()
        status = 0
    finally:
        os._exit(status)


class _Child:
    """A child process.

    Attributes:
        returncode: exit status; None while it runs.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> None:
        """Returns when it has ended."""
        if self.returncode is None:
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        """Ends it, if it runs."""
        if self.returncode is None:
            environment.end(self)


class Job:
    """One script with its arguments, and what it prints, kept until it is asked for.

    Args:
        script: pathlib.Path.
        arguments: texts.

    Attributes:
        returncode: exit status; None while it runs, or before.
        seconds: from its start to its end.
        out, err: what it has printed, once it has ended.
        early: what it has said by `say_early`, if it was forked.
        imported: {path} of the Python files that it has read; None where that is not known.
    """

    def __init__(self, script: Path, arguments: Sequence[str]) -> None:
        self.script, self.arguments = Path(script), [str(each) for each in arguments]
        self.returncode: int | None = None
        self.pid: int | None = None
        self.seconds = 0.0
        self.out, self.err, self.early = "", "", ""
        self.imported: set[str] | None = None
        self._popen: subprocess.Popen | None = None

    def start(self, fork: bool) -> None:
        """Starts it; `fork`: see `can_fork`."""
        files = [tempfile.TemporaryFile() for _ in range(4)]  # noqa: SIM115  (`_read` closes them)
        self._out, self._err, self._files, self._said = files
        self._begin = time.perf_counter()
        if not fork:
            command = [sys.executable, str(self.script), *self.arguments]
            self._popen = subprocess.Popen(command, stdout=self._out, stderr=self._err)
            self.pid = self._popen.pid
            return
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._be_the_script()

    def _be_the_script(self) -> NoReturn:
        """In the child: the script as `python script arguments` would run it, and no return."""
        global _early
        status = 1
        try:
            _early = self._said
            environment.forked()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(self._out.fileno(), 1)
            os.dup2(self._err.fileno(), 2)
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # of these two
            sys.argv = [str(self.script), *self.arguments]
            sys.path[0] = str(self.script.parent)
            runpy.run_path(str(self.script), run_name="__main__")
            status = 0
        except SystemExit as leaving:
            if leaving.code is None or isinstance(leaving.code, int):
                status = leaving.code or 0
            elif leaving.code:  # a text, as Python itself takes it
                with contextlib.suppress(OSError):
                    print(leaving.code, file=sys.stderr)
        except BaseException:
            with contextlib.suppress(OSError):
                traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            modules = [getattr(module, "__file__", None) for module in [*sys.modules.values()]]
            with contextlib.suppress(OSError):
                names = [str(self.script), *filter(None, modules)]
                os.write(self._files.fileno(), "\0".join(names).encode())
            os._exit(status)

    def poll(self) -> bool:
        """Whether it has ended. Takes up what it has said."""
        if self.returncode is None and self._popen is None and not self.early:
            line = os.pread(self._said.fileno(), 10_000, 0).decode("utf-8", "backslashreplace")
            self.early = line.rstrip("\n") if line.endswith("\n") else ""
        if self.returncode is None and self.pid is not None:
            if self._popen is not None:
                self.returncode = self._popen.poll()
            else:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            if self.returncode is not None:
                self.seconds = time.perf_counter() - self._begin
                self._read()
        return self.returncode is not None

    def _read(self) -> None:
        texts = []
        for file in (self._out, self._err, self._files):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "backslashreplace"))
            file.close()
        self._said.close()
        self.out, self.err, names = texts
        self.imported = set(names.split("\0")) if names else None

    @property
    def running(self) -> float:
        """Seconds since its start."""
        return time.perf_counter() - self._begin

    def end(self) -> None:
        """Ends it, if it runs."""
        if self.pid is not None and self.returncode is None:
            environment.end(self)


def run_in_turn(
    jobs: Sequence[Job],
    order: Sequence[Job],
    at_once: int,
    fork: bool,
    waiting: Waiting | None = None,
) -> Iterator[Job]:
    """Runs jobs, some at the same time; yields each when it and all before it have ended.

    Args:
        jobs: [Job], in the order in which they are wanted.
        order: the same, in the order in which to start them.
        at_once: how many may run at the same time.
        fork: see `can_fork`.
        waiting: terminal.Waiting, for a line on what is running.
    """
    ended, wanted = set(), list(jobs)
    for job in run_at_once(order, at_once, fork, waiting):
        ended.add(job)
        while wanted and wanted[0] in ended:
            yield wanted.pop(0)


def run_at_once(
    order: Sequence[Job],
    at_once: int,
    fork: bool,
    waiting: Waiting | None = None,
    pause: Callable[[Sequence[Job]], object] = lambda running: time.sleep(POLL),
) -> Iterator[Job]:
    """Runs jobs, some at the same time; yields each as it ends. Arguments as of `run_in_turn`.

    Args:
        pause: called with the jobs that run, again and again, and takes some time. What it raises
            ends them.
    """
    to_start, running = list(order), []
    waiting = waiting or Waiting()
    with contextlib.ExitStack() as stack:
        stack.enter_context(waiting.cleared())
        while to_start or running:
            while to_start and len(running) < at_once:
                job = to_start.pop(0)
                stack.enter_context(environment.cleaned_up(job.end))
                job.start(fork)
                running.append(job)
            for job in [job for job in running if job.poll()]:
                running.remove(job)
                waiting.clear()
                yield job
            if running:
                waiting.show([(each.script.stem, each.running) for each in running])
                pause(running)
