"""What has to be settled before the frameworks are loaded: import it first.

Of the standard library alone.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import NoReturn

    from .processes import Job, _Child


def _is_our_script() -> bool:
    """Whether the program that is starting is one of this repository, or the console script."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None:
        return False
    if os.path.splitext(os.path.basename(script))[0] == "alignment":
        return True
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    folder = os.path.dirname(os.path.realpath(script))
    return root in (folder, os.path.dirname(folder))


def _leave_at_once(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


# While a script imports, which takes seconds, Ctrl-C would end it with a traceback out of the
# middle of a framework. So this stands before all other imports; in the interpreter's own start,
# which takes a few hundredths of a second, nothing of ours can catch it. Who imports this as a
# library keeps its own handler.
if _is_our_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave_at_once)

import contextlib  # noqa: E402
import importlib.util  # noqa: E402
import logging  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402

from . import screen  # noqa: E402

screen.set_up()
# reprod_log's lines go to the screen through a logger. Where that is full, a logger prints a
# traceback for each of them; `screen.leave` tells it once.
logging.raiseExceptions = False

# Each framework has its own threads, which by default wait in a busy loop: beside other work on the
# machine the steps took five times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Paddle wishes for a compiler cache at import; nothing is compiled here. And it says at every
# training step that batch norm keeps running statistics.
warnings.filterwarnings("ignore", message="No ccache found")
warnings.filterwarnings("ignore", message="When training, we now always track")


PACKAGES = {"paddle": "paddlepaddle"}  # {module: its package, where that has another name}


def imported() -> None:
    """For a script that has imported all it needs: Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def require(*packages: str) -> None:
    """Leaves with exit status 2 and one line, if one of these cannot be imported."""
    packages = (*packages, "filelock")  # which alignment/files.py needs, and so every script
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
        is_repository = os.path.exists(os.path.join(root, "requirements.txt"))
        names = [PACKAGES.get(name, name) for name in missing]
        what = "-r requirements.txt" if is_repository else " ".join(names)
        screen.leave(
            screen.CANNOT_RUN, f"missing package: {', '.join(missing)}. Run: pip install {what}"
        )


ENDING = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # Windows has none
    ENDING.append(signal.SIGHUP)


_cleanups = []


@contextlib.contextmanager
def cleaned_up(clean: Callable[[], object]) -> Iterator[None]:
    """Calls `clean` on leaving, and where a signal ends the program within `ended_by_signals`.

    Then it is called from a signal handler, anywhere in the main thread: it has to do without
    locks that others hold, and may be called twice.
    """
    _cleanups.append(clean)
    try:
        yield
    finally:
        clean()
        _cleanups.remove(clean)


def forked() -> None:
    """In a child: signals end it again, and what its parent would clean up is none of its own."""
    _cleanups.clear()
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    for each in ENDING:  # launchers and impatient people send several
        signal.signal(each, signal.SIG_IGN)
    for clean in reversed(list(_cleanups)):
        with contextlib.suppress(Exception):
            clean()
    os._exit(128 + number)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within, SIGINT, SIGTERM and SIGHUP end the program with 128 + number, after its `cleaned_up`.

    They raise nothing: an exception that comes out of nowhere is lost where it meets a `__del__`,
    and the program goes on. What is ignored (nohup) stays so.
    """
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def end(process: subprocess.Popen | Job | _Child, seconds: float = 30) -> None:
    """Ends a subprocess.Popen, by SIGTERM and then by SIGKILL, and waits for that.

    Without Popen's own methods, which wait for a lock that the interrupted `wait` may hold.
    """
    if process.pid is None:  # it was never started
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            if process.returncode is None:
                os.kill(process.pid, number)
        while process.returncode is None and time.monotonic() < deadline:
            try:
                pid, status = os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                return
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return
            time.sleep(0.01)
