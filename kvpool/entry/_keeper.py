"""`Keeper`: the manager, as one of its entries sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kvpool.entry._entry import KVCacheEntry, PoolEntry

__all__ = ["STANDALONE", "Keeper", "Standalone"]


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
        return entry.fork_for(session_id, self)


STANDALONE = Standalone()
"""The keeper of entries that are made without one."""
