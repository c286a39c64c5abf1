"""`Jobs`: loads and stores in threads of their own, for engines that must not wait."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from kvpool._checks import byte_count, whole_number
from kvpool._closing import Closing
from kvpool._process import current
from kvpool.errors import InvalidArgumentError

__all__ = ["Done", "Jobs"]

_log = logging.getLogger("kvpool.blocks")


class Done(NamedTuple):
    """A job that has ended.

    Parameters
    ----------
    job : hashable
        Its name.
    result : object
        What it returned; None if it raised, or never began.
    seconds : float
        How long it ran.
    """

    job: Hashable
    result: Any
    seconds: float


class Jobs(Closing):
    """Runs loads and stores. Stores beyond a backlog are refused; loads never wait for stores.

    Parameters
    ----------
    threads : int, default 2
        For loads. Stores have one thread more, which only copies and queues.
    backlog_bytes : int, default 256 MiB
        Bytes of the stores that wait or run; what would be more is refused.
    name : str, default "kvpool"
        Of the threads.
    on_done : callable, optional
        Called in the thread of a job when it has ended and `finished` has it: to wake an engine.

    Notes
    -----
    *Errors.* A job that raises is logged, and ends without a result.

    *Threads.* Any method may be called from any thread. *Processes.* A child of `os.fork` has no
    thread that would run a job: there a load ends at once, without a result, a store is refused,
    and `close` does nothing.
    """

    def __init__(
        self,
        threads: int = 2,
        backlog_bytes: int = 256 << 20,
        name: str = "kvpool",
        on_done: Callable[[], object] | None = None,
    ) -> None:
        count = whole_number("threads", threads, InvalidArgumentError, least=1)
        self._backlog_bytes = byte_count("backlog_bytes", backlog_bytes, least=1)
        self._loads = ThreadPoolExecutor(count, f"{name} loads")
        self._stores = ThreadPoolExecutor(1, f"{name} stores")
        self._on_done = on_done
        self._pid = current.pid
        self._done: deque[Done] = deque()
        self._lock = threading.Lock()  # guards what follows
        self._running: set[Future[None]] = set()
        self._backlog = 0
        self._is_closed = False

    @property
    def backlog(self) -> int:
        """Bytes of the stores that wait or run."""
        return self._backlog

    @property
    def running(self) -> int:
        """Jobs that wait or run."""
        return len(self._running)

    def load(self, job: Hashable, run: Callable[[], Any]) -> None:
        """Have a load run; after `close` it ends at once, without a result."""
        if self._pid == current.pid:
            self._submit(self._loads, job, run, 0)
        else:  # whose locks other threads may have held
            self._end(Done(job, None, 0.0))

    def store(self, job: Hashable, run: Callable[[], Any], nbytes: int) -> bool:
        """Have a store run; return False if it is refused: then it will not be among `finished`."""
        if self._pid != current.pid:
            return False
        with self._lock:
            if self._is_closed or self._backlog + nbytes > self._backlog_bytes:
                return False
            self._backlog += nbytes
        self._submit(self._stores, job, run, nbytes)
        return True

    def _submit(
        self, executor: ThreadPoolExecutor, job: Hashable, run: Callable[[], Any], nbytes: int
    ) -> None:
        try:
            future = executor.submit(self._run, job, run)
        except RuntimeError:  # closed
            self._end(Done(job, None, 0.0))
            return
        with self._lock:
            self._running.add(future)
        future.add_done_callback(lambda ended: self._forget(ended, job, nbytes))

    def _run(self, job: Hashable, run: Callable[[], Any]) -> None:
        begun, result = time.monotonic(), None
        try:
            result = run()
        except BaseException:  # no signal comes to this thread: it is what a plugin raises
            _log.exception("a transfer of blocks has failed")
        self._end(Done(job, result, time.monotonic() - begun))

    def _forget(self, ended: Future[None], job: Hashable, nbytes: int) -> None:
        with self._lock:
            self._running.discard(ended)
            self._backlog -= nbytes
        if ended.cancelled():
            self._end(Done(job, None, 0.0))

    def _end(self, done: Done) -> None:
        self._done.append(done)
        if self._on_done is not None:
            self._on_done()

    def finished(self) -> list[Done]:
        """Return the jobs that have ended since the last call."""
        return [self._done.popleft() for _ in range(len(self._done))]

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until no job runs; return whether that came true in time."""
        if self._pid != current.pid:
            return not self._running
        with self._lock:
            running = list(self._running)
        wait(running, timeout)
        return not any(not future.done() for future in running)

    def close(self) -> None:
        """Wait for the jobs that run. Those that wait never begin, and end without a result."""
        if self._pid != current.pid:
            return
        with self._lock:
            self._is_closed = True
        self._loads.shutdown(cancel_futures=True)
        self._stores.shutdown(cancel_futures=True)
