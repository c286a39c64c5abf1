"""`SessionKeeper`: the link from one entry to its manager."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry, PoolEntry
from kvpool.errors import PoolClosedError

__all__ = ["SessionKeeper", "UseLog"]

UseLog = deque[tuple[CacheKey, int]]
"""Key and number of each session whose entry was used since the log was read last.

Entries append to it without a lock. It refers to no entry: an entry refers to it, through its
keeper, and a reference cycle would keep the pool alive.
"""


class SessionKeeper:
    """The manager as the keeper of one entry; see `Keeper`.

    It refers to the manager weakly and to no entry, so that it is in no reference cycle.

    Parameters
    ----------
    make_room, fork : WeakMethod
        Of the manager.
    uses : UseLog
    now : callable
        Returns seconds.
    key : CacheKey
    number : int
        Of the session.

    Attributes
    ----------
    key : CacheKey
    number : int
    """

    __slots__ = ("_fork", "_make_room", "_uses", "key", "now", "number")

    def __init__(
        self,
        make_room: weakref.WeakMethod[Callable[[int], list[CacheKey]]],
        fork: weakref.WeakMethod[Callable[[KVCacheEntry, CacheKey, CacheKey], KVCacheEntry]],
        uses: UseLog,
        now: Callable[[], float],
        key: CacheKey,
        number: int,
    ) -> None:
        self._make_room = make_room
        self._fork = fork
        self._uses = uses
        self.now = now
        self.key = key
        self.number = number

    def note_use(self, _entry: PoolEntry, /) -> None:
        """Append the session to the log, which the manager's next call reads."""
        self._uses.append((self.key, self.number))

    def make_room(self, _entry: PoolEntry, nbytes: int, /) -> None:
        """Evict other entries; see `KVCacheManager.make_room`."""
        make_room = self._make_room()
        if make_room is None:
            raise self._orphaned()
        make_room(nbytes)

    def fork(self, entry: KVCacheEntry, session_id: str, /) -> KVCacheEntry:
        """Make a fork under a key with the same namespace; see `KVCacheManager`."""
        fork = self._fork()
        if fork is None:
            raise self._orphaned()
        return fork(entry, self.key, CacheKey(self.key.namespace, session_id))

    def _orphaned(self) -> PoolClosedError:
        return PoolClosedError(
            f"the manager that kept the entry of {self.key!s} does not exist any more"
        )
