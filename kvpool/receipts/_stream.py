"""`ReceiptStream`: from a manager to the sinks, which never hold its lock."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from kvpool.receipts.sink import ReceiptSink
from kvpool.receipts.types import Receipt

__all__ = ["ReceiptStream"]

_log = logging.getLogger(__name__)


class ReceiptStream:
    """A queue of receipts, and the sinks that they are delivered to.

    Parameters
    ----------
    sinks : iterable of ReceiptSink
        They belong to the stream from now on: it closes them.
    backlog : int, default 10,000
        Receipts that may wait. Whoever delivers while there are more waits for the sinks,
        so that a sink that is too slow for what happens does not fill the memory.

    Notes
    -----
    *Threads.* `put` only appends, and is called under the manager's lock, which gives the
    order. `deliver` is called without it: one thread at a time delivers all that is queued,
    the others return at once.

    *Failures.* A sink that raises goes on receiving: it may recover. The first failure of
    each sink is logged as an error to ``kvpool.receipts._stream``; `failures` counts all.
    """

    def __init__(self, sinks: Iterable[ReceiptSink], backlog: int = 10_000) -> None:
        self.sinks = tuple(sinks)
        self._backlog = backlog
        self._queue: deque[Receipt] = deque()
        self._delivery = threading.Lock()
        self._deliverer: int | None = None  # the thread that holds the lock
        self._failures = [0] * len(self.sinks)
        self._delivered = 0
        self._closed = False

    @property
    def is_listening(self) -> bool:
        """Whether a sink would use a receipt now."""
        for sink in self.sinks:
            try:
                if sink.is_listening:
                    return True
            except Exception:  # it is asked under the manager's lock, and breaks nothing there
                return True
        return False

    @property
    def delivered(self) -> int:
        """Receipts that were handed to the sinks, whatever came of it."""
        return self._delivered

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each sink, by its name, raised."""
        counts: dict[str, int] = {}
        for sink, count in zip(self.sinks, self._failures, strict=True):
            counts[sink.name] = counts.get(sink.name, 0) + count
        return MappingProxyType(counts)

    def put(self, receipt: Receipt) -> None:
        """Queue a receipt; a few nanoseconds, and no sink is called."""
        self._queue.append(receipt)

    def deliver(self) -> None:
        """Hand what is queued to the sinks, unless another thread is doing it."""
        queue, lock = self._queue, self._delivery
        # A receipt that is queued while the lock is being released is seen by the next look.
        while queue and not self._is_inside():
            if not lock.acquire(blocking=len(queue) > self._backlog):
                return
            try:
                self._drain()
            finally:
                lock.release()

    def flush(self) -> None:
        """Wait until all that is queued is delivered, and flush the sinks."""
        if not self._is_inside():
            with self._delivery:
                self._drain()
                self._each("flush")

    def close(self) -> None:
        """Deliver what is queued and close the sinks; a second call does nothing."""
        if not self._is_inside():
            with self._delivery:
                if not self._closed:
                    self._closed = True
                    self._drain()
                    self._each("close")

    def _is_inside(self) -> bool:
        """Tell whether a sink makes this call, which must not wait for itself."""
        return self._deliverer == threading.get_ident()

    # -- under the delivery lock ----------------------------------------------------------

    def _drain(self) -> None:
        self._deliverer = threading.get_ident()
        try:
            while self._queue:
                receipt = self._queue.popleft()
                self._delivered += 1
                for index, sink in enumerate(self.sinks):
                    try:
                        sink.emit(receipt)
                    except Exception:
                        self._note_failure(index)
        finally:
            self._deliverer = None

    def _each(self, step: Literal["flush", "close"]) -> None:
        self._deliverer = threading.get_ident()
        try:
            for index, sink in enumerate(self.sinks):
                try:
                    getattr(sink, step)()
                except Exception:
                    self._note_failure(index)
        finally:
            self._deliverer = None

    def _note_failure(self, index: int) -> None:
        self._failures[index] += 1
        if self._failures[index] == 1:
            _log.exception("the sink %s failed; it is not reported again", self.sinks[index].name)
