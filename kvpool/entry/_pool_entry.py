"""`PoolEntry`: any block that belongs to a session."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from kvpool.errors import EntryRemovedError, StaleBlockError
from kvpool.pool import Bytes, MemoryBlock, MemoryPool

__all__ = ["PoolEntry"]

_uses = itertools.count(1)  # tells the order of uses where a clock stands still between two


class PoolEntry:
    """A block that belongs to a session.

    Parameters
    ----------
    pool : MemoryPool
    block : MemoryBlock
        A live block of `pool`.
    session_id : str
        Whose it is; shown in errors.
    clock : callable, default `time.monotonic`
        Seconds; what `created_at` and `last_accessed` are read from.
    on_use : callable, optional
        Called with the entry, without a lock, at the first use after `use_noted` was cleared.

    Attributes
    ----------
    created_at, last_accessed : float
        Seconds of `clock`. A call that raises is no use.
    last_use : int
        Greater for the later of two uses, whatever entries they were of.
    """

    def __init__(
        self,
        pool: MemoryPool,
        block: MemoryBlock,
        session_id: str,
        clock: Callable[[], float] = time.monotonic,
        on_use: Callable[[PoolEntry], object] | None = None,
    ) -> None:
        self.pool = pool
        self.block = block
        self.session_id = session_id
        self.created_at = self.last_accessed = clock()
        self.last_use = next(_uses)
        self.use_noted = False
        self._clock = clock
        self._on_use = on_use

    @property
    def size_bytes(self) -> int:
        """Bytes of the block."""
        return self.block.size

    def data(self) -> Bytes:
        """Return all bytes of the entry.

        Returns
        -------
        ndarray of uint8, shape (size_bytes,)
            Writable and zero-copy. It is a lease: the entry is not evicted while it, or an
            array made from it, lives.

        Raises
        ------
        EntryRemovedError
        """
        root = self._lease()
        self._note_use()
        return root

    def _lease(self) -> Bytes:
        try:
            return self.pool.lease(self.block)
        except StaleBlockError:
            raise self._gone() from None

    def _gone(self) -> EntryRemovedError:
        return EntryRemovedError(f"the entry of session {self.session_id!r} was removed or evicted")

    def _note_use(self) -> None:
        """Note a use that succeeded, while its lease still keeps the entry from going."""
        self.last_accessed = self._clock()
        self.last_use = next(_uses)
        if not self.use_noted and self._on_use is not None:
            self.use_noted = True
            self._on_use(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id!r}: {self.size_bytes} bytes>"
