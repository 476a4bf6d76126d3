"""What is told on the screen: a line stays one line, and what cannot be told does not pass unseen.

Standard library only: it is there before any package is.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from typing import IO


CANNOT_RUN = 2
CLOSED_PIPE = 128 + 13  # SIGPIPE: of a list whose reader has seen enough, as in … | head
LONGEST = 2000  # characters of an error: a name or a value in it may have been megabytes


class Detail(enum.IntEnum):
    """How much is told: the verdict alone, what a reader wants, all."""

    QUIET = 0
    NORMAL = 1
    ALL = 2


_told = [Detail.ALL]  # who uses this as a library sees all


def detail() -> Detail:
    """The Detail of now."""
    return _told[-1]


@contextlib.contextmanager
def telling(detail: Detail) -> Iterator[None]:
    """Within, so much is told."""
    _told.append(detail)
    try:
        yield
    finally:
        _told.pop()


def detail_of(args: argparse.Namespace) -> Detail:
    """The Detail that a command line asks for, by -q and -v."""
    if getattr(args, "quiet", False):
        return Detail.QUIET
    return Detail.ALL if getattr(args, "verbose", True) else Detail.NORMAL


def say(text: str, at: Detail = Detail.NORMAL) -> None:
    """Prints `text`, if so much is to be told."""
    if detail() >= at:
        print(text, flush=True)


class _Stdout(io.FileIO):
    """Remembers that it could not be written: whoever prints may go on, and what is buffered is
    dropped.

    Attributes:
        failure: OSError, or None.
    """

    failure = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def set_up() -> None:
    """Lets stdout and stderr take any text, and gives the standard files that are closed a place.

    Without one, the next file that is opened gets their number, and the frameworks' C++ code writes
    into it. A write to a closed stdout still fails.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        # Read only, also for stdout: writing is then the error that it would be anyway.
        nowhere = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
        os.set_inheritable(number, True)
        stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    # Otherwise it is that of a notebook or of a test.
    stdout = sys.stdout
    if stdout is sys.__stdout__ and isinstance(stdout, io.TextIOWrapper):
        raw, unbuffered = _Stdout(1, "w", closefd=False), stdout.write_through
        sys.stdout = io.TextIOWrapper(
            raw if unbuffered else io.BufferedWriter(raw),
            encoding=stdout.encoding,
            line_buffering=stdout.line_buffering,
            write_through=unbuffered,
        )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Of a terminal in the C locale, or a name that is not UTF-8.
            stream.reconfigure(errors="backslashreplace")


def _raw(stream: Any) -> Any:
    """What is under the buffer of `stream`, if it has one: PYTHONUNBUFFERED leaves it out."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def printable(text: str) -> str:
    """`text` in one line: newlines, control characters and bytes that are no text are escaped.

    So a file name can neither forge a line nor send commands to the terminal.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def leave(status: int, message: str = "", in_files: bool = False) -> NoReturn:
    """Ends the process with `status`, and `message` in one line on stderr.

    The status becomes 2 where what was printed does not reach stdout: nobody has seen a verdict.

    Args:
        in_files: what was printed stands in files as well, as that of a training: then it does not.

    Raises:
        SystemExit: always.
    """
    _flush(sys.stdout)
    lost = getattr(_raw(sys.stdout), "failure", None)
    if lost is not None and not in_files and status != CLOSED_PIPE:
        told = f"cannot write to stdout: {lost.strerror}"
        # It may be the failed print that brought us here.
        message = told if message in ("", lost.strerror) else f"{message}. And {told}"
        status = CANNOT_RUN
    if message:
        tell(message)
    _flush(sys.stderr)
    raise SystemExit(status)


def tell(message: str, prefix: str = "error: ") -> None:
    """Writes one line to stderr, whatever is in the message, if stderr can be written."""
    if len(message) > LONGEST:
        message = f"{message[: LONGEST // 2]} … {message[-LONGEST // 2 :]}"
    with contextlib.suppress(OSError):
        print(prefix + printable(message), file=sys.stderr, flush=True)


def _flush(stream: IO[str]) -> None:
    """Flushes `stream`; what it holds is dropped if it cannot be written.

    Python flushes it once more at the end, and would report the failure in a traceback.
    """
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
