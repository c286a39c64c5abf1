"""Children that `os.fork` makes, which run beside a test and may be killed."""

from __future__ import annotations

import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Self

__all__ = ["Child", "wait_for"]

PATIENCE = 120
"""Seconds after which the system ends a child that hangs."""


class Child:
    """A child that runs a function, which is given what sends a line to the test.

    Leaving its ``with`` block kills it.

    Parameters
    ----------
    act : callable
        Takes a function ``say(text)``. If it raises, the last line is its traceback.

    Notes
    -----
    A child cannot open an LMDB database that the test has open when it forks. So a child that is
    to work beside the test is made first, and waits for a file, see `wait_for`.
    """

    def __init__(self, act: Callable[[Callable[[str], None]], object]) -> None:
        receiver, sender = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            self.pid = os.fork()
        if not self.pid:
            os.close(receiver)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            status = 0
            try:
                act(lambda text: _say(sender, text))
            except BaseException:  # the child ends here, whatever happens
                _say(sender, repr(traceback.format_exc()))
                status = 1
            os._exit(status)
        os.close(sender)
        self._lines = os.fdopen(receiver, encoding="utf-8", errors="replace")
        self._status: int | None = None

    def line(self) -> str:
        """Return the next line; an empty text once the child has ended."""
        return self._lines.readline().rstrip("\n")

    def rest(self) -> list[str]:
        """Return all further lines, once the child has ended."""
        return self._lines.read().splitlines()

    def kill(self) -> None:
        """End the child at once, and wait until it has ended."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> int:
        """Wait until the child has ended; return its status, negative for a signal."""
        if self._status is None:
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._lines.close()


def wait_for(path: Path) -> None:
    """Wait until a file exists."""
    while not path.exists():
        time.sleep(0.005)


def _say(sender: int, text: str) -> None:
    os.write(sender, f"{text}\n".encode())
