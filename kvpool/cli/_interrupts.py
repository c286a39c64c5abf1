"""Ctrl-C (SIGINT) that takes effect between two steps, never in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Self

__all__ = ["EXIT_CODE", "Interrupts"]

EXIT_CODE = 130
"""The exit code that shells expect of a command that Ctrl-C ended."""


class Interrupts:
    """Handles Ctrl-C while entered, so that each step is completed and can be reported.

    Parameters
    ----------
    raises : bool, default True
        Whether Ctrl-C raises KeyboardInterrupt: at once between two steps, at the end of the
        step if one is running, and at once if it is pressed a second time in one step. Without
        it, Ctrl-C only sets `pressed`.

    Attributes
    ----------
    pressed : bool
        Whether Ctrl-C was pressed.

    Notes
    -----
    Does nothing outside of the main thread: Python delivers signals to no other thread.
    """

    def __init__(self, *, raises: bool = True) -> None:
        self.pressed = False
        self._raises = raises
        self._in_step = self._waiting = False

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Hold Ctrl-C back until the block has ended."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.pressed = True
        if not self._raises:
            return
        if self._in_step and not self._waiting:
            self._waiting = True
        else:
            raise KeyboardInterrupt
