"""Children that `os.fork` makes of the process of a test."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kvpool.errors import ForkedProcessError

__all__ = ["Holder", "in_child", "needs_fork", "refused"]

needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")

PATIENCE = 60
"""Seconds after which the system ends a child that waits for something that never comes."""


def in_child(act: Callable[[], object]) -> None:
    """Run a function in a child; raise here what went wrong there."""
    assert sys.platform != "win32", "the test needs the mark needs_fork"
    receiver, sender = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)
        text = ""
        silent: list[str] = []  # what finalizers and callbacks of weak references raised
        sys.unraisablehook = lambda raised: silent.append(repr(raised.exc_value))
        try:
            act()
            assert not silent, silent
        except BaseException:  # the child ends here, whatever happens
            text = traceback.format_exc()
        os.write(sender, text.encode()[-4000:])
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, encoding="utf-8", errors="replace") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        text += f"the child was ended by signal {os.WTERMSIG(status)}: did it hang?"
    assert not text, text


def refused(name: str, call: Callable[[], object]) -> None:
    """Check, in a child, that a call raises the error of a child, which names both processes."""
    try:
        call()
    except ForkedProcessError as error:
        text = str(error)
        assert f"process {os.getppid()}," in text, text
        assert f"process {os.getpid()}," in text, text
    else:
        raise AssertionError(f"{name} did not raise")


class Holder:
    """A thread that is in the middle of something until it may go on.

    Parameters
    ----------
    act : callable
        Is given a function that it calls in the middle, and that returns at the end.
    """

    def __init__(self, act: Callable[[Callable[[], None]], object]) -> None:
        self._reached, self._released = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=act, args=[self._wait], daemon=True)

    def _wait(self) -> None:
        self._reached.set()
        self._released.wait()

    @contextmanager
    def in_the_middle(self) -> Iterator[None]:
        """Start the thread, and let it go on when the block ends."""
        self._thread.start()
        assert self._reached.wait(PATIENCE), "the thread did not come to the middle"
        try:
            yield
        finally:
            self._released.set()
            self._thread.join()
