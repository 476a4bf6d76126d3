"""On a terminal: colour, and a line that says what is running. In a pipe or a file: neither."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from . import environment

if TYPE_CHECKING:
    from rich.live import Live


__all__ = ["GOOD", "POOR", "RED", "Waiting", "coloured", "of_verdict"]

GOOD, POOR, RED = "green", "yellow", "red"
EVERY = 0.1  # seconds between two frames


def of_verdict(text: str) -> str:
    """The colour of a verdict, by the words that begin one."""
    if text.startswith(("aligned", "Aligned")):
        return POOR if "imprecise" in text[:20] else GOOD
    return POOR if text.startswith("rounding") else RED


def coloured(text: str, colour: str) -> str:
    """`text` with a terminal's codes, if stdout shows colours and NO_COLOR is not set."""
    if not sys.stdout.isatty():
        return text
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(Text(text, colour), soft_wrap=True, end="")
    return capture.get()


class Waiting:
    """One line that says what is running and for how long; rewritten, and gone in the end.

    Without a thread: a process with one cannot be forked safely.
    """

    def __init__(self) -> None:
        self.live: Live | None = None
        self.last = 0.0

    def show(self, running: Sequence[tuple[str, float]]) -> None:
        """Rewrites the line, if stdout is a terminal.

        Args:
            running: [(what runs, seconds)]; of nothing there is no line.
        """
        if not running or not sys.stdout.isatty() or time.monotonic() < self.last + EVERY:
            return
        self.last = time.monotonic()
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text

        told = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in running)
        line = Text(f"running: {told}", no_wrap=True, overflow="ellipsis")
        if self.live is None:
            console = Console(file=sys.stdout, highlight=False)
            self.spinner = Spinner("dots")
            self.live = Live(
                self.spinner,
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self.live.start()
            console.show_cursor(True)  # whatever ends this process, the cursor is there
        self.spinner.update(text=line)
        self.live.refresh()

    def clear(self) -> None:
        """Takes the line away; the next `show` begins another."""
        live, self.live = self.live, None
        if live is not None:
            with contextlib.suppress(OSError):
                live.stop()

    @contextlib.contextmanager
    def cleared(self) -> Iterator[Waiting]:
        """On leaving, also by a signal, the line is gone."""
        with environment.cleaned_up(self.clear):
            yield self
