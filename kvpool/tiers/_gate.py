"""`Gate`: many users at a time, or one caller alone."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Gate"]


class Gate:
    """Counts who is inside, and lets a caller wait until it is alone.

    Notes
    -----
    What a thread entered, another thread may leave. A pending `alone` does not keep others out,
    because one of them may be nested in a call that it waits for.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: Counter[int] = Counter()  # by the thread that entered
        self._is_alone = False

    def enter(self) -> int:
        """Go inside, once no caller is alone there; return what `leave` takes."""
        thread = threading.get_ident()
        with self._changed:
            while self._is_alone:
                self._changed.wait()
            self._inside[thread] += 1
        return thread

    def leave(self, entered: int) -> None:
        """Go out again."""
        with self._changed:
            self._inside[entered] -= 1
            if not self._inside[entered]:
                del self._inside[entered]
                self._changed.notify_all()

    @property
    def is_mine(self) -> bool:
        """Whether this thread has entered."""
        return threading.get_ident() in self._inside

    @contextmanager
    def alone(self, timeout: float | None = None) -> Iterator[bool]:
        """Wait until all others have left; give whether that happened in time.

        Parameters
        ----------
        timeout : float, optional
            Seconds. [default: no limit] If this thread is inside itself, there is no waiting for
            it, so it is not alone at once.
        """
        thread = threading.get_ident()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._is_alone or self._inside:
                left = None if deadline is None else deadline - time.monotonic()
                if thread in self._inside or (left is not None and left <= 0):
                    break
                self._changed.wait(left)
            got = not self._is_alone and not self._inside
            self._is_alone = self._is_alone or got
        try:
            yield got
        finally:
            if got:
                with self._changed:
                    self._is_alone = False
                    self._changed.notify_all()
