"""`@FILE` on a command line stands for the arguments in FILE: a recipe. Stdlib only."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

from .files import CannotRun, read_text, reason_of, shown

__all__ = ["expand"]

# The longest recipe here has 700 bytes and 40 arguments. argparse takes time that grows with the
# square of the number of arguments: 90 s for a million.
MAX_BYTES = 100_000
MAX_ARGUMENTS = 10_000
MAX_FILES = 100


def expand(arguments: Iterable[str]) -> list[str]:
    """[argument] with those that begin with @ replaced by what their files hold.

    A file may name others. It holds arguments as a shell takes them; # begins a comment.

    Raises:
        CannotRun: a file cannot be read, is too long, is no text, has an open quote, or names
            itself; or all together are too many.
    """
    found, files = [], []
    _expand(arguments, found, files, within=())
    return found


def _expand(
    arguments: Iterable[str], found: list[str], files: list[str], within: tuple[str, ...]
) -> None:
    for argument in arguments:
        if not argument.startswith("@"):
            found.append(argument)
            if len(found) > MAX_ARGUMENTS:
                raise CannotRun(f"more than {MAX_ARGUMENTS:,} arguments: a recipe has tens")
            continue
        path = argument[1:]
        if not path:
            raise CannotRun("@ stands alone: give a file of arguments, @FILE")
        words = _words(path)
        files.append(os.path.realpath(path))
        if files[-1] in within:
            raise CannotRun(f"{shown(path)} names itself by @: leave that out")
        if len(files) > MAX_FILES:
            raise CannotRun(f"more than {MAX_FILES} files of arguments, {shown(path)} the last")
        _expand(words, found, files, (*within, files[-1]))


def _words(path: str) -> list[str]:
    words = []
    for number, line in enumerate(read_text(path, MAX_BYTES).splitlines(), 1):
        try:
            words += shlex.split(line, comments=True)
        except ValueError as error:
            raise CannotRun(
                f"cannot read {shown(path)}, line {number}: {reason_of(error)}"
            ) from error
    return words
