"""`WriteQueue`: what waits to be written to a tier, and the thread that has it written."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from kvpool.tiers._job import Job
from kvpool.tiers._session import StoredSession

__all__ = ["DEFAULT_QUEUE_BYTES", "Batch", "WriteQueue"]

Batch: TypeAlias = Sequence[Job | StoredSession]
"""Chunks, and perhaps a session behind them."""

DEFAULT_QUEUE_BYTES: Final = 256 << 20

_log = logging.getLogger("kvpool.tiers")

_BATCH: Final = 16 << 20


class WriteQueue:
    """Jobs that a thread of its own has written, in their order and batch by batch.

    Parameters
    ----------
    name : str
        Of the tier.
    most_nbytes : int
        Bytes of keys and values that may wait; further jobs are dropped.

    Attributes
    ----------
    nbytes : int
        Bytes of keys and values that wait to be written, or are being written.
    dropped : int
        Jobs that were not written, because the queue was full or stopped, or `write` raised.
    """

    # Invariant: `nbytes` is the bytes of `_jobs` and of `_batch`, which is being written.

    def __init__(self, name: str, most_nbytes: int) -> None:
        self.nbytes = 0
        self.dropped = 0
        self._name = name
        self._most_nbytes = most_nbytes
        self._jobs: deque[Job | StoredSession] = deque()
        self._batch: list[Job | StoredSession] = []
        self._is_ending = False
        self._thread: threading.Thread | None = None
        self._renew_lock()

    def _renew_lock(self) -> None:
        # Guards all of the above. It is taken by itself: an interrupt in `Condition.__enter__`,
        # which is written in Python, would keep it. It is an `RLock`, because `stop` may run in
        # any thread, when a store is collected as garbage.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def has_room(self, nbytes: int) -> bool:
        """Return whether a job of this many bytes would not be dropped now."""
        return not self._is_ending and self.nbytes + nbytes <= self._most_nbytes

    def chunks(self) -> dict[bytes, Job]:
        """Return the chunks that wait to be written, or are being written, by their names.

        A chunk leaves the queue after it is in the tier. So a caller that asks the queue first, and
        then the tier, misses none.
        """
        return {job.chunk.name: job for job in self._waiting() if isinstance(job, Job)}

    def session(self, name: bytes) -> StoredSession | None:
        """Return the newest record of a session that waits to be written; None if none does."""
        records = [job for job in self._waiting() if isinstance(job, StoredSession)]
        return next((one for one in reversed(records) if one.name == name), None)

    def drop_session(self, name: bytes) -> bool:
        """Drop the records of a session that wait; return whether there were any."""
        with self._lock:
            dropped = [job for job in self._jobs if _is_record(job, name)]
            nbytes = sum(job.nbytes for job in dropped)
            kept = deque(job for job in self._jobs if not _is_record(job, name))
            # No interrupt comes between the two.
            self._jobs, self.nbytes = kept, self.nbytes - nbytes
            self._changed.notify_all()
            return bool(dropped)

    def has_written(self, name: bytes, deadline: float) -> bool:
        """Wait while a record of a session is being written; return False if it takes too long.

        Parameters
        ----------
        name : bytes
        deadline : float
            A moment of `time.monotonic`.
        """
        while self._is_writing(name):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._lock:
                self._changed.wait(min(left, 0.1))
        return True

    def _is_writing(self, name: bytes) -> bool:
        with self._lock:
            return any(_is_record(job, name) for job in self._batch)

    def _waiting(self) -> list[Job | StoredSession]:
        if not self.nbytes:
            return []
        with self._lock:
            return [*self._batch, *self._jobs]

    def put(self, job: Job | StoredSession, write: Callable[[Batch], object]) -> bool:
        """Have a chunk or a session written behind; return False if it is dropped.

        Parameters
        ----------
        job : Job or StoredSession
        write : callable
            Writes a batch; the same for all jobs. It is called in the thread, without a lock held.
            If it raises, the batch is dropped, and the next one is written. The thread alone keeps
            it: a queue that kept a method of its level would keep the level.
        """
        with self._lock:
            nbytes = job.nbytes
            if not self.has_room(nbytes):
                self.dropped += 1
                return False
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._write_behind,
                    args=(write,),
                    name=f"kvpool writes {self._name}",
                    daemon=True,
                )
                self._thread.start()
            self.nbytes += nbytes  # no interrupt comes between this line and the end of `append`
            try:
                self._jobs.append(job)
            except MemoryError:
                self.nbytes -= nbytes
                raise
            self._changed.notify_all()
            return True

    def _write_behind(self, write: Callable[[Batch], object]) -> None:
        while batch := self._take():
            nbytes = sum(job.nbytes for job in batch)
            try:
                write(batch)
            except BaseException:  # no signal: a codec or a tier may raise it, and this goes on
                _log.exception("tier %s: chunks cannot be written", self._name)
                with self._lock:
                    self.dropped += len(batch)
            finally:
                batch.clear()  # and with it the memory of sessions
                with self._lock:
                    self.nbytes -= nbytes
                    self._changed.notify_all()

    def _take(self) -> list[Job | StoredSession]:
        """Wait for jobs, and return some of them; an empty list at the end."""
        with self._lock:
            self._changed.wait_for(lambda: self._jobs or self._is_ending)
            self._batch = self._first_jobs()
            return self._batch

    def _first_jobs(self) -> list[Job | StoredSession]:
        """Take as much off the queue as is written at once: chunks, and then a session."""
        batch: list[Job | StoredSession] = []
        nbytes = 0
        while self._jobs and nbytes < _BATCH:
            batch.append(self._jobs.popleft())
            nbytes += batch[-1].nbytes
            if isinstance(batch[-1], StoredSession):
                break
        return batch

    def drain(self, deadline: float, told: Callable[[], object]) -> None:
        """Wait until nothing is queued, or until a moment of `time.monotonic`.

        Parameters
        ----------
        deadline : float
        told : callable
            Called several times a second meanwhile, without a lock held.
        """
        while (left := deadline - time.monotonic()) > 0:
            with self._lock:
                if not self.nbytes:
                    return
                self._changed.wait(min(left, 0.1))
            told()

    def stop(self) -> None:
        """Let the thread end, and drop the jobs that wait to be written."""
        with self._lock:
            self._is_ending = True
            self._drop_jobs()
            self._changed.notify_all()

    def _drop_jobs(self) -> None:
        while self._jobs:
            nbytes = self._jobs[-1].nbytes
            self.dropped += 1
            self.nbytes -= nbytes
            self._jobs.pop()

    def enter_child(self) -> None:
        """Give up what a child of `os.fork` has copies of: there is no thread, and no lease."""
        self._renew_lock()
        self._jobs.clear()
        self._batch = []
        self.nbytes = 0
        self._is_ending = True


def _is_record(job: Job | StoredSession, name: bytes) -> bool:
    return isinstance(job, StoredSession) and job.name == name
