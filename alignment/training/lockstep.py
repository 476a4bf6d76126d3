"""Two training loops that take their steps in turn, neither of them written for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Follower"]


class _Leave(BaseException):
    """Ends a follower that is no longer needed."""


class Follower:
    """A function in a thread of its own, which runs only while `resume` waits for it.

    So of a follower and who leads it one runs at a time, and what they do is in one order.

    Args:
        run: called without arguments; calls `pause` where it is to wait.

    Attributes:
        ended: whether `run` has returned.
    """

    def __init__(self, run: Callable[[], None]) -> None:
        self.ended, self._leaving = False, False
        self._error: BaseException | None = None
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._main, args=(run,), daemon=True)
        self._thread.start()

    def _main(self, run: Callable[[], None]) -> None:
        self._go.acquire()
        try:
            if not self._leaving:
                run()
        except _Leave:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.ended = True
            self._stands.release()

    def pause(self) -> None:
        """For `run`: waits for the next `resume`."""
        self._stands.release()
        self._go.acquire()
        if self._leaving:
            raise _Leave

    def resume(self) -> bool:
        """Lets it run to its next pause, or to its end; raises what `run` has raised.

        Returns:
            whether it stands at a pause.
        """
        if not self.ended:
            self._go.release()
            self._stands.acquire()
        if self._error:
            raise self._error
        return not self.ended

    def leave(self) -> None:
        """Ends it where it stands."""
        self._leaving = True
        self._go.release()
        self._thread.join()
