"""`ReceiptStream`: the queue between a manager and its sinks."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from kvpool._process import current
from kvpool.errors import ForkedProcessError, KVPoolError
from kvpool.receipts.sink import ReceiptSink
from kvpool.receipts.types import Receipt

__all__ = ["ReceiptStream"]

_log = logging.getLogger(__name__)

ATTEMPTS = 8
"""How often in a row a sink may be interrupted before a receipt is given up."""


class ReceiptStream:
    """A queue of receipts, and the sinks that they are delivered to.

    Parameters
    ----------
    sinks : iterable of ReceiptSink
        The stream owns them from now on and closes them.
    backlog : int, default 10,000
        Receipts that may wait. A thread that delivers while more are waiting waits for the
        sinks, so that a slow sink does not fill the memory.

    Notes
    -----
    *Threads.* `put` only appends; the manager holds its lock around it, which gives the
    order. `deliver` is called without that lock: one thread at a time delivers all that is
    queued, and the other threads return at once.

    *Failures.* A sink that raises an `Exception` has lost that receipt, and still gets the
    next ones. The first failure of each sink is logged as an error to
    ``kvpool.receipts._stream``; `failures` counts all.

    *Interrupts.* Where an interrupt (`KeyboardInterrupt` or another exception that is not an
    `Exception`) or a lack of memory (`MemoryError`) ends a delivery, the receipt stays queued
    for the sinks that have not taken it, and the next delivery goes on there. An interrupt is
    raised again, a lack of memory is not. After 8 in a row the receipt counts as lost.

    *Processes.* In a child that `os.fork` made, nothing is delivered, and closing does nothing:
    the sinks and what is queued belong to the parent.
    """

    # The turn to deliver is `_deliverer`. It is taken and given back by one store each, in a
    # `try` whose `finally` calls nothing, and locks are only held by `with`: an interrupt at
    # any moment leaves neither the turn nor a lock behind.

    def __init__(self, sinks: Iterable[ReceiptSink], backlog: int = 10_000) -> None:
        self.sinks = tuple(sinks)
        self._backlog = backlog
        self._queue: deque[Receipt] = deque()
        self._gate = threading.Lock()  # around a look at `_deliverer`; no sink runs under it
        self._delivery = threading.Lock()  # held while sinks run, for others to wait for
        self._deliverer: int | None = None  # the thread whose turn it is
        self._handing: tuple[Receipt | None, int] = _NOTHING  # and how many sinks have it
        self._last: Receipt | None = None
        self._delivered = 0
        self._failures = [0] * len(self.sinks)
        self._stops = [0] * len(self.sinks)  # interrupts since the last receipt that was taken
        self._closing = False
        self._closed = 0  # sinks
        self._owner = current.pid

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
    def last(self) -> Receipt | None:
        """The receipt that was queued last; None if there was none yet."""
        queue = self._queue
        if queue:
            try:
                return queue[-1]
            except IndexError:  # it was delivered right now
                pass
        return self._last

    @property
    def delivered(self) -> int:
        """Receipts that were handed to the sinks, taken or lost."""
        return self._delivered

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each sink, by its name, raised."""
        counts: dict[str, int] = {}
        for sink, count in zip(self.sinks, self._failures, strict=True):
            name = _name_of(sink)
            counts[name] = counts.get(name, 0) + count
        return MappingProxyType(counts)

    def put(self, receipt: Receipt) -> None:
        """Queue a receipt; a few nanoseconds, and no sink is called."""
        self._queue.append(receipt)

    def deliver(self) -> None:
        """Hand what is queued to the sinks, unless another thread is doing it."""
        queue = self._queue
        # A receipt that is queued while the turn is given back is seen by the next look.
        while queue and self._take_turn(self._drain, len(queue) > self._backlog):
            pass

    def flush(self) -> None:
        """Wait until all that is queued is delivered, and flush the sinks.

        Raises
        ------
        ForkedProcessError
            The stream belongs to the parent of this process.
        """
        if current.pid != self._owner:
            raise ForkedProcessError(
                f"the receipts belong to process {self._owner}, the parent of this one; "
                "make a manager in each process"
            )
        self._take_turn(self._flush, wait=True)

    def close(self) -> None:
        """Deliver what is queued and close the sinks; a second call does nothing.

        A second call goes on where an interrupt ended the first. If a sink makes this call,
        the sinks are closed once all that is queued is delivered.
        """
        self._closing = True
        self._take_turn(self._drain, wait=True)

    # -- one at a time -------------------------------------------------------------------

    def _take_turn(self, work: Callable[[], bool], wait: bool) -> bool:
        """Do work that calls the sinks, as the only thread that does.

        Returns
        -------
        bool
            What `work` returns. False if a sink makes this call, or a child of the process;
            and, unless the caller waits, if it is the turn of another thread.
        """
        me = threading.get_ident()
        if self._deliverer == me or current.pid != self._owner:
            return False
        try:
            while True:
                with self._gate:
                    if self._deliverer is None:
                        self._deliverer = me
                if self._deliverer == me:
                    break
                if not wait:
                    return False
                with self._delivery:  # until the other thread is done
                    pass
                time.sleep(0)  # it may not have begun
            with self._delivery:
                return work()
        finally:
            if self._deliverer == me:
                self._deliverer = None

    # -- in turn -------------------------------------------------------------------------

    def _drain(self) -> bool:
        """Deliver what is queued, and close the sinks if that is wanted.

        Returns
        -------
        bool
            False if a sink had no memory for a receipt: it is still queued.
        """
        queue = self._queue
        while True:
            closing = self._closing  # before the queue: what was queued by then is delivered
            while queue:
                receipt = queue[0]
                if not self._hand_out(receipt):
                    if self._closing:
                        continue
                    return False
                self._last = receipt  # before it leaves the queue, so that `last` finds it
                queue.popleft()
                self._delivered += 1
            if closing:
                self._close_sinks()
                return True
            if not self._closing:
                return True

    def _hand_out(self, receipt: Receipt) -> bool:
        """Hand a receipt to the sinks that do not have it; return whether all have it now."""
        sinks, stops = self.sinks, self._stops
        count = len(sinks)
        of, first = self._handing
        index = first = first if of is receipt else 0
        try:
            for index in range(first, count):
                if index > first:
                    self._handing = receipt, index
                sinks[index].emit(receipt)
                stops[index] = 0
        except BaseException as error:
            lost = self._is_lost(error, index)
            if lost:
                self._handing = receipt, index + 1
            if not isinstance(error, Exception):
                raise
            return lost and self._hand_out(receipt)
        if self._handing is not _NOTHING:
            self._handing = _NOTHING
        return True

    def _flush(self) -> bool:
        """Deliver what is queued, and flush the sinks."""
        done = self._drain()
        for index, sink in enumerate(self.sinks):
            try:
                sink.flush()
            except Exception:
                self._note_failure(index)
        return self._drain() if self._closing else done

    def _close_sinks(self) -> None:
        while self._closed < len(self.sinks):
            index = self._closed
            try:
                self.sinks[index].close()
            except BaseException as error:
                if self._is_lost(error, index):
                    self._closed = index + 1
                if not isinstance(error, Exception):
                    raise
            else:
                self._closed = index + 1

    def _is_lost(self, error: BaseException, index: int) -> bool:
        """Tell whether a sink is done with a call that raised, and note a failure if so.

        Otherwise the call is to be made again.
        """
        ours = isinstance(error, KVPoolError)  # a full pool, which is no lack of memory
        if not isinstance(error, Exception) or (isinstance(error, MemoryError) and not ours):
            self._stops[index] += 1
            if self._stops[index] < ATTEMPTS:
                return False
        self._note_failure(index)
        return True

    def _note_failure(self, index: int) -> None:
        self._failures[index] += 1
        if self._failures[index] == 1:
            name = _name_of(self.sinks[index])
            _log.exception("the sink %s failed; it is not reported again", name)


_NOTHING: tuple[Receipt | None, int] = (None, 0)


def _name_of(sink: ReceiptSink) -> str:
    """Return the name of a sink, whatever the sink does when it is asked."""
    try:
        return sink.name
    except Exception:
        return type(sink).__name__
