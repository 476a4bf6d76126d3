"""Command lines of all scripts: bad arguments in one line, and values in bounds.

Standard library only: both trainers read it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .screen import CANNOT_RUN, leave

if TYPE_CHECKING:
    from argparse import _ArgumentGroup

Number = TypeVar("Number", int, float)
ROOT = Path(__file__).resolve().parent.parent
SHOWN = 60  # characters of a value

# Above these a value is a slip of the hand, and would cost memory or hours before it shows.
MOST = 10**9
MOST_BATCH = 2**16
MOST_CLASSES = 100_000  # ImageNet-21k has 21,841
MOST_EPOCHS = 100_000
MOST_PIXELS = 4096
MOST_REPETITIONS = 100
MOST_STEPS = 10_000
CORES = os.cpu_count() or 1
# More than a few processes for each core only wait for each other. A worker takes some 100 MB.
MOST_WORKERS = max(32, 8 * CORES)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line. `@FILE`, where it is enabled, stands for the arguments in
    FILE; # begins a comment there.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        if self.fromfile_prefix_chars and any(argument.startswith("@") for argument in args):
            # Only here: it needs more than the standard library.
            from .files import CannotRun
            from .response_files import expand

            try:
                args = expand(args)
            except CannotRun as error:
                self.error(str(error))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        leave(CANNOT_RUN, f"{message}. See {self.prog} --help")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        leave(status, message or "")

    def _print_message(self, message: str, file: Any = None) -> None:
        with contextlib.suppress(OSError):  # `exit` tells it
            super()._print_message(message, file)

    def group(self, title: str) -> _ArgumentGroup:
        """The group of flags under this title in --help, made where there is none yet."""
        found = next((each for each in self._action_groups if each.title == title), None)
        return found or self.add_argument_group(title)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows the default of a flag that has one, in words that do not depend on this machine.

    It stands in place of what the help says of a default that is found out later.
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default in (None, [], argparse.SUPPRESS) or default is False or not action.help:
            return action.help
        text = re.sub(r"[ .;]*[Dd]efault: .*", "", action.help)
        return f"{text} (default: {_in_words(default)})".replace("%", "%%")

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        if action.type is file_path:
            return "PATH"
        name = getattr(action.type, "__name__", "")
        return name if name in ("N", "X") else super()._get_default_metavar_for_optional(action)


def _in_words(default: Any) -> str:
    if isinstance(default, Path) and default.is_relative_to(ROOT):
        return f"{default.relative_to(ROOT).as_posix()} in the repository"
    if isinstance(default, (list, tuple)):
        return " ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def number(
    kind: type[Number],
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    wanted: str | None = None,
    why: str | None = None,
) -> Callable[[str], Number]:
    """An argparse type: a finite number in a range; argparse names the flag and the value.

    Args:
        kind: int or float, of ASCII digits without underscores.
        low, above, high: the least value, the one that it has to be above, the largest.
        wanted: what is told where the value is none of these: "… is not {wanted}".
        why: nobody needs more than `high`.
    """

    def read(text: str) -> Number:
        try:
            if not text.isascii() or "_" in text:
                raise ValueError
            value = kind(text)
        except ValueError:
            raise _refused(text, f"is not {wanted}") from None
        fits = (low is None or value >= low) and (above is None or value > above)
        if not fits or not math.isfinite(value):
            raise _refused(text, f"is not {wanted}")
        if high is not None and value > high:
            if kind is float:
                raise _refused(text, f"is not {wanted}")
            raise _refused(text, f"is more than {high}" + (f": {why}" if why else ""))
        return value

    read.__name__ = "N" if kind is int else "X"  # in --help
    return read


def _refused(text: str, what: str) -> argparse.ArgumentTypeError:
    if len(text) > SHOWN:
        text = f"{text[:SHOWN]}…"
    return argparse.ArgumentTypeError(f"{text or repr(text)} {what}")


def whole(low: int, high: int = MOST, why: str | None = None) -> Callable[[str], int]:
    """A number type: whole, from `low` to `high`."""
    names = {0: "a whole number, 0 or more", 1: "a whole number above 0"}
    wanted = names.get(low, f"a whole number, {low} or more")
    return number(int, low=low, high=high, wanted=wanted, why=why)


count = whole(1)
count_or_0 = whole(0)
rate = number(float, low=0, wanted="a number, 0 or more")
share = number(float, low=0, high=1, wanted="a number from 0 to 1")
batch_size = whole(1, MOST_BATCH, "all images of a batch are in memory at once")
classes = whole(1, MOST_CLASSES, "each class takes memory")
epochs = whole(1, MOST_EPOCHS)
pixels = whole(1, MOST_PIXELS, "memory grows with its square")
repetitions = whole(1, MOST_REPETITIONS)
seed = whole(0, 2**32 - 1, "PyTorch and NumPy take 32 bits")
steps = whole(1, MOST_STEPS)
workers = whole(
    0, MOST_WORKERS, f"each is a process, and the cores here are {CORES}; each takes memory"
)


def nonempty(value: str) -> str:
    """An argparse type: a text that is not empty."""
    if not value:
        raise argparse.ArgumentTypeError("is empty: give a name, or leave the flag out")
    return value


def file_path(value: str) -> Path:
    """An argparse type: a path, which may not exist. An empty one would mean the folder here."""
    if not value:
        raise argparse.ArgumentTypeError("the path is empty: for the folder here, give .")
    if "\0" in value:
        raise argparse.ArgumentTypeError(f"{value} has a zero byte in it: no path has")
    return Path(value)
