"""`Keeper`: the manager, as one of its entries sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kvpool.entry._entry import KVCacheEntry, PoolEntry
    from kvpool.layout import EntryGeometry
    from kvpool.pool import MemoryBlock, MemoryPool

__all__ = ["STANDALONE", "Keeper", "PoolRoom", "Room", "Standalone"]


class Keeper(Protocol):
    """What an entry asks of the manager that keeps it.

    A keeper must not hold a reference to the entry or to the manager that leads back to the
    entry: what is in a reference cycle is not freed with its last user, but whenever the
    garbage collector looks.
    """

    def now(self) -> float:
        """Return the time in seconds. Takes no lock."""

    def note_use(self, entry: PoolEntry, /) -> None:
        """Note the first use of an entry since `PoolEntry.use_noted` was cleared.

        Takes no lock: it is called under the lock of the entry.
        """

    def make_room(self, entry: PoolEntry, nbytes: int, /) -> None:
        """Evict other entries until `nbytes` more bytes can be committed.

        Called without the lock of the entry, which holds a lease of itself meanwhile.

        Raises
        ------
        PoolExhaustedError
            Evicting every other entry that may be evicted would not be enough.
        """

    def fork(self, entry: KVCacheEntry, session_id: str, /) -> KVCacheEntry:
        """Make a fork of the entry and keep the fork too. Called without the lock of the entry.

        Raises
        ------
        EntryRemovedError
            The keeper does not keep this entry any more.
        """


class Room(Protocol):
    """Where a fork or a move of an entry gets its bytes. Called under the lock of the entry."""

    def reserve(self, geometry: EntryGeometry, committed: int) -> MemoryBlock:
        """Reserve a block of which the first `committed` bytes of each stripe are committed.

        Raises
        ------
        PoolExhaustedError
            It does not fit; nothing has changed.
        """

    def commit(self, block: MemoryBlock, start: int, end: int) -> None:
        """Commit the bytes from `start` to `end` of each stripe of a block.

        Raises
        ------
        PoolExhaustedError
            They do not fit; nothing has changed.
        """

    def give_up(self, block: MemoryBlock) -> None:
        """Deallocate a block, which did not become the block of an entry."""


class PoolRoom:
    """What is free in a pool, without evicting anything.

    Parameters
    ----------
    pool : MemoryPool
    """

    def __init__(self, pool: MemoryPool) -> None:
        self._pool = pool

    def reserve(self, geometry: EntryGeometry, committed: int) -> MemoryBlock:
        """Reserve a block, with some of it committed."""
        return self._pool.reserve_evicting(geometry, (), committed=committed)[0]

    def commit(self, block: MemoryBlock, start: int, end: int) -> None:
        """Commit bytes of each stripe of a block."""
        self._pool.commit(block, None, start, end)

    def give_up(self, block: MemoryBlock) -> None:
        """Deallocate a block."""
        self._pool.deallocate(block)


class Standalone:
    """The keeper of entries without a manager: there are no other entries to evict.

    Parameters
    ----------
    now : callable, default `time.monotonic`
        Returns seconds.
    """

    __slots__ = ("now",)

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now

    def note_use(self, _entry: PoolEntry, /) -> None:
        """Do nothing: no policy ranks the entry."""

    def make_room(self, entry: PoolEntry, nbytes: int, /) -> None:
        """Raise `PoolExhaustedError`, unless another thread has made the room meanwhile."""
        entry.pool.make_room(nbytes, ())

    def fork(self, entry: KVCacheEntry, session_id: str, /) -> KVCacheEntry:
        """Make a fork that is standalone as well."""
        return entry.fork_for(session_id, self, PoolRoom(entry.pool))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


STANDALONE = Standalone()
"""The keeper of entries that are made without one."""
