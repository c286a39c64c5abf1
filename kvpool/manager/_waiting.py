"""Calls that wait until a full pool has room."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from importlib import import_module
from numbers import Real
from typing import Any, Protocol, TypeVar

from kvpool.errors import AddressSpaceExhaustedError, InvalidTtlError, PoolExhaustedError
from kvpool.pool import MemoryPool

__all__ = ["Waiters", "check_timeout"]

T = TypeVar("T")

POLL = 0.005
"""Seconds until a call that waits tries again: the end of a view does not wake it."""

SHARE = 10
"""A call that waits spends about one part in this many of its time on trying."""


class Bell(Protocol):
    """What a call that waits is woken by: a lock that it holds, or a `TaskBell`."""

    def locked(self) -> bool:
        """Return whether the call waits."""

    def release(self) -> None:
        """Wake the call."""


class Waiters:
    """The calls that wait for room in the pool of one manager.

    All methods may be called by any thread, and `wake` by a signal handler as well.

    Parameters
    ----------
    pool : MemoryPool
    """

    # A waiting call waits for a lock of its own, its bell, which it holds itself; to wake it is to
    # release the bell. An interrupt at any moment leaves nothing behind that others wait for.
    # (`SimpleQueue.get` would do, if it did not wait for ever after a signal handler that takes
    # longer than the timeout.)

    def __init__(self, pool: MemoryPool) -> None:
        self._pool = pool
        self._bells: list[Bell] = []

    def can_help(self, shortage: PoolExhaustedError) -> bool:
        """Tell whether the request would fit if the pool were empty, so that waiting may help."""
        limit = shortage.capacity
        if isinstance(shortage, AddressSpaceExhaustedError):
            limit = self._pool.stats().address_space
        return shortage.requested <= limit

    def wake(self) -> None:
        """Have all calls that wait try again now."""
        for bell in tuple(self._bells):
            if bell.locked():
                with contextlib.suppress(RuntimeError):  # another thread was faster
                    bell.release()

    def retry(self, call: Callable[[], T], seconds: float) -> T:
        """Make a call again and again until it finds room.

        Parameters
        ----------
        call : callable
            Raises `PoolExhaustedError` if there is no room.
        seconds : float
            When these have passed, the call is made for the last time.

        Returns
        -------
        object
            What the call returns.

        Raises
        ------
        PoolExhaustedError
            There was no room at the end either.
        """
        bell = threading.Lock()
        bell.acquire(blocking=False)
        with contextlib.closing(self._attempts(bell, call, seconds)) as attempts:
            try:
                while True:
                    bell.acquire(timeout=next(attempts))
            except StopIteration as done:
                made: T = done.value
                return made

    async def retry_later(self, call: Callable[[], T], seconds: float) -> T:
        """Make a call again and again until it finds room, as `retry` does, in an event loop.

        Raises
        ------
        PoolExhaustedError
            There was no room at the end either.
        """
        bell = import_module("kvpool.manager._task_bell").TaskBell()  # asyncio is slow to import
        with contextlib.closing(self._attempts(bell, call, seconds)) as attempts:
            try:
                while True:
                    await bell.wait(next(attempts))
            except StopIteration as done:
                made: T = done.value
                return made

    def _attempts(
        self, bell: Bell, call: Callable[[], T], seconds: float
    ) -> Generator[float, None, T]:
        """Make a call until it finds room; before each attempt, yield how long to wait for a bell.

        Returns
        -------
        object
            What the call returns.

        Raises
        ------
        PoolExhaustedError
            There was no room at the end either.
        """
        now = time.monotonic()
        deadline = now + seconds
        pause = 0.0  # what was freed before this was heard of woke nobody
        try:
            self._bells.append(bell)
            while True:
                yield max(0.0, min(pause, deadline - now))
                start = time.monotonic()
                try:
                    return call()
                except PoolExhaustedError:
                    now = time.monotonic()
                    if start >= deadline:
                        raise
                    pause = max(POLL, SHARE * (now - start))
        finally:
            if bell in self._bells:
                self._bells.remove(bell)


def check_timeout(timeout: Any) -> None:
    """Raise unless a time to wait is a number of at least 0, or None.

    Raises
    ------
    InvalidTtlError
        It is neither.
    """
    if timeout is None:
        return
    if not isinstance(timeout, bool) and isinstance(timeout, Real):
        with contextlib.suppress(OverflowError):  # an int that no float can hold
            if float(timeout) >= 0:
                return
    raise InvalidTtlError(f"timeout must be a number of seconds, at least 0, not {timeout!r}")
