"""`Helpers`: threads for calls that may hang; the end of the process does not wait for them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Final

__all__ = ["Helpers", "TooManyCallsError"]

_IDLE: Final = 4
"""Threads that wait for a next call; further ones end with their call."""

_REST: Final = 10.0
"""Seconds that a thread waits for a next call before it ends."""

_Jobs = SimpleQueue[tuple[Callable[[], Any], "Future[Any]"] | None]


class TooManyCallsError(Exception):
    """As many calls as there may be are under way, or hang."""


class Helpers:
    """Runs each call in a thread of its own, so that the caller can stop waiting for it.

    Parameters
    ----------
    limit : int
        The most calls at a time, with those that hang.
    name : str
        Of the threads.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit, self._name = limit, name
        self._lock = threading.Lock()
        self._idle: list[_Jobs] = []
        self._calls: set[Future[Any]] = set()  # under way
        self._is_closed = False

    @property
    def running(self) -> int:
        """How many calls are under way, with those that hang."""
        return len(self._calls)

    def start(self, call: Callable[[], Any]) -> Future[Any]:
        """Run a call in a thread; the future has what it returns or raises.

        Raises
        ------
        TooManyCallsError
            As many calls as there may be are under way.
        """
        future: Future[Any] = Future()
        try:
            with self._lock:
                if len(self._calls) >= self._limit:
                    raise TooManyCallsError
                self._calls.add(future)
                if self._idle:
                    self._idle.pop().put((call, future))
                    return future
            jobs: _Jobs = SimpleQueue()
            jobs.put((call, future))  # before the thread begins: it waits for no caller
            thread = threading.Thread(target=self._work, args=(jobs,), name=self._name, daemon=True)
            thread.start()
        except BaseException:  # the system has no thread, or an interrupt
            self._calls.discard(future)
            raise
        return future

    def _work(self, jobs: _Jobs) -> None:
        goes_on = True
        while goes_on and (job := self._next(jobs)):
            call, future = job
            result, error = None, None
            try:
                result = call()
            except BaseException as raised:
                error = raised
            with self._lock:  # before the caller knows, because it may start the next call at once
                self._calls.discard(future)
                goes_on = not self._is_closed and len(self._idle) < _IDLE
                if goes_on:
                    self._idle.append(jobs)
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
            del job, call, future, result, error  # nothing is kept alive while waiting

    def _next(self, jobs: _Jobs) -> tuple[Callable[[], Any], Future[Any]] | None:
        """Wait for a call; return None if the thread is to end."""
        with contextlib.suppress(Empty):
            return jobs.get(timeout=_REST)
        with self._lock:
            if jobs in self._idle:
                self._idle.remove(jobs)
        # A caller has given a call just now, or an interrupt has ended it before that.
        with contextlib.suppress(Empty):
            return jobs.get_nowait()
        return None

    def close(self) -> None:
        """Let the threads end; those that hang end with the process."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for jobs in idle:
            jobs.put(None)
