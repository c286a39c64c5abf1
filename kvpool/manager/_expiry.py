"""Which sessions may have outlived their time to live."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from kvpool.cache_key import CacheKey

__all__ = ["ExpiryQueue"]


class ExpiryQueue:
    """Sessions in the order of the deadlines that they had when they were last looked at.

    A use of a session moves its deadline on, and costs nothing here: its record is looked at
    when the old deadline has come, and is put back with the new one. Adding, discarding and
    each look are O(log n), amortized. Not thread-safe.

    Attributes
    ----------
    watched : dict of CacheKey to int
        The sessions that may expire, with the serial number of the one valid record of each.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, CacheKey]] = []
        self.watched: dict[CacheKey, int] = {}
        self._next_serial = itertools.count()

    @property
    def record_count(self) -> int:
        """Records in the queue: those of watched sessions, and some that are not valid any more."""
        return len(self._heap)

    def clear(self) -> None:
        """Stop watching all sessions."""
        self._heap.clear()
        self.watched.clear()

    def add(self, key: CacheKey, deadline: float) -> None:
        """Watch a session, which expires at `deadline` unless it is used before."""
        serial = self.watched[key] = next(self._next_serial)
        heapq.heappush(self._heap, (deadline, serial, key))

    def discard(self, key: CacheKey) -> None:
        """Stop watching a session, if it was watched."""
        self.watched.pop(key, None)
        if len(self._heap) > 2 * len(self.watched) + 64:  # records of sessions that are gone
            self._heap = [record for record in self._heap if self._is_current(record)]
            heapq.heapify(self._heap)

    def due(self, now: float, deadline_of: Callable[[CacheKey], float]) -> list[CacheKey]:
        """Return the sessions whose deadline has passed, the earliest first.

        They stay in the queue: the caller discards each one that it ends.

        Parameters
        ----------
        now : float
            Seconds.
        deadline_of : callable
            Returns the deadline of a session as it is now.
        """
        expired = []
        while self._heap and self._heap[0][0] <= now:
            record = heapq.heappop(self._heap)
            if self._is_current(record):
                key = record[2]
                deadline = deadline_of(key)
                if deadline <= now:
                    expired.append((deadline, record[1], key))
                else:
                    heapq.heappush(self._heap, (deadline, record[1], key))
        for record in expired:
            heapq.heappush(self._heap, record)
        return [key for _, _, key in sorted(expired)]

    def _is_current(self, record: tuple[float, int, CacheKey]) -> bool:
        return self.watched.get(record[2]) == record[1]
