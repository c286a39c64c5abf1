"""`TaskBell`: how a task that waits for room in a pool, or for a session, is woken."""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["TaskBell"]


class TaskBell:
    """The bell of a task, which waits in an event loop and not for a lock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def locked(self) -> bool:
        """Return whether the task waits."""
        return not self._rung.is_set()

    def release(self) -> None:
        """Wake the task; any thread may, and a signal handler."""
        self._loop.call_soon_threadsafe(self._rung.set)

    async def wait(self, seconds: float | None) -> None:
        """Wait until it is rung, or the seconds have passed; None for as long as it takes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # `wait_for` may lose a cancellation, up to 3.11
                await self._rung.wait()
        self._rung.clear()
