"""`Gate`: many users at a time, or one caller alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["Gate"]

_PAUSE: Final = 0.01
"""Seconds between two looks at whether all others have left."""


class Gate:
    """Knows who is inside, and lets a caller wait until it is alone.

    Attributes
    ----------
    inside : dict of object to int
        The visits under way, each with the thread that began it. A visit ends by
        ``inside.pop(visit, None)``: one built-in call, so that no interrupt can keep a visit open.

    Notes
    -----
    What a thread entered, another thread may leave. A pending `alone` does not keep others out,
    because one of them may be nested in a call that it waits for.
    """

    def __init__(self) -> None:
        self.inside: dict[object, int] = {}
        self._lock = threading.Lock()  # held by the caller that is alone

    def enter(self, visit: object) -> None:
        """Begin a visit, once no caller is alone.

        Parameters
        ----------
        visit : object
            A new one, which the caller has before an interrupt can end this call.
        """
        with self._lock:
            self.inside[visit] = threading.get_ident()

    @property
    def is_mine(self) -> bool:
        """Whether this thread has a visit under way."""
        return threading.get_ident() in list(self.inside.values())

    @contextmanager
    def alone(self, timeout: float | None = None) -> Iterator[bool]:
        """Wait until all others have left; give whether that happened in time.

        Parameters
        ----------
        timeout : float, optional
            Seconds. [default: no limit] If this thread is inside itself, it is not waited for, so
            the answer is False at once.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if not self.inside:
                    yield True
                    return
            if self.is_mine or (deadline is not None and time.monotonic() >= deadline):
                break
            time.sleep(_PAUSE)
        yield False
