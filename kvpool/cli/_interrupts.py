"""Ctrl-C that comes between two steps and never in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Self

__all__ = ["EXIT_CODE", "Interrupts"]

EXIT_CODE = 130
"""What a shell expects of a command that Ctrl-C ended."""


class Interrupts:
    """While entered, Ctrl-C raises KeyboardInterrupt, but after a `step` that is under way.

    So whatever was done is done as a whole, and can be reported. A second Ctrl-C in one step
    does not wait for its end.
    """

    def __init__(self) -> None:
        self._in_step = self._waiting = False

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Hold Ctrl-C back until the block is done."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self._in_step and not self._waiting:
            self._waiting = True
        else:
            raise KeyboardInterrupt
