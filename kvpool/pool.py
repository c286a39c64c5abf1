"""`MemoryPool`: an arena, and the allocator that says which of its bytes are whose."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvpool.arena import MIN_ALIGNMENT, ArenaInfo
from kvpool.backends import create_arena
from kvpool.block import Bytes, MemoryBlock, RootRef, as_int, is_leased, view_geometry
from kvpool.block_table import BlockTable
from kvpool.errors import InvalidAlignmentError, InvalidViewError, PoolClosedError
from kvpool.memory_stats import MemoryStats
from kvpool.release import Release

__all__ = ["MemoryPool"]


class MemoryPool:
    """A bounded pool of bytes, handed out as zeroed blocks with zero-copy views.

    Parameters
    ----------
    capacity : int
        Bytes of the pool; rounded down to a multiple of 64.
    backend : str, optional
        Name of the backend that holds the bytes. By default ``$KVPOOL_BACKEND``, else
        ``"numpy"``.
    **backend_options
        Handed to the backend; see ``kvpool backends``.

    Raises
    ------
    InvalidSizeError
        `capacity` is no whole number of bytes, or less than 64.
    PluginError, ArenaError
        The backend cannot be chosen, or the system refuses.

    Notes
    -----
    *A view is a lease.* Views of a block keep its bytes: deallocating a block with a live
    view makes the block unusable at once, and its bytes return to the pool with the last
    view. What a view shows can therefore never become another block's.

    *Threads.* All methods may be called by any thread at any time, but not by a finalizer
    (``__del__``), which may run in the middle of another call. Views may end anywhere. One
    lock guards the books; no byte is written under it.

    Examples
    --------
    >>> pool = MemoryPool(1 << 20, backend="numpy")
    >>> block = pool.allocate(4096)
    >>> view = pool.view(block, "float32", (8, 128))
    >>> view[0, :2] = 1.5
    >>> float(view.sum())
    3.0
    """

    def __init__(self, capacity: int, backend: str | None = None, **backend_options: Any) -> None:
        self._table = BlockTable(as_int("capacity", capacity), MIN_ALIGNMENT)
        self._arena = create_arena(self.capacity, backend, **backend_options)
        self._buffer = self._arena.buffer
        self._bytes: Bytes = np.frombuffer(self._buffer, np.uint8)
        self._lock = threading.Lock()
        self._closed = False
        self._ended: deque[RootRef] = deque()  # roots that died, not yet settled
        # No byte at or past this offset was ever handed out, so all of those read zero.
        self._touched = 0 if self._arena.info.zeroed else self.capacity

    # -- blocks --------------------------------------------------------------------------

    def allocate(self, nbytes: int, alignment: int = MIN_ALIGNMENT) -> MemoryBlock:
        """Take a block; its bytes read zero.

        Parameters
        ----------
        nbytes : int
            Bytes, at least 1. Charged rounded up to a multiple of 64.
        alignment : int, default 64
            The address of the block is a multiple of this power of two, which is at most
            the alignment of the arena's base address.

        Returns
        -------
        MemoryBlock

        Raises
        ------
        InvalidSizeError, InvalidAlignmentError
            An argument is out of range.
        PoolExhaustedError
            No free range is large enough; nothing has changed.
        PoolClosedError
        """
        nbytes = as_int("nbytes", nbytes)
        self._check_alignment(alignment)
        with self._lock:
            self._begin()
            block = self._table.allocate(nbytes, alignment)
            data, touched = self._bytes, self._touched
            start, end = block.offset, block.offset + nbytes
            if end > touched:
                self._touched = end
        if start < touched:  # nobody else knows the block yet, so no lock is needed
            data[start : min(end, touched)] = 0
        return block

    def deallocate(self, block: MemoryBlock, releases: list[Release] | None = None) -> bool:
        """Give a block back.

        Parameters
        ----------
        block : MemoryBlock
            Not to be used from now on.
        releases : list of Release, optional
            Gets the figures right before and after appended.

        Returns
        -------
        bool
            True if its bytes are free now, False if they follow with its last view.

        Raises
        ------
        DoubleFreeError, ForeignBlockError, PoolClosedError
            Nothing has changed.
        """
        with self._lock:
            self._begin()
            return self._table.deallocate(block, releases)

    def reclaim(self, block: MemoryBlock, releases: list[Release] | None = None) -> bool:
        """Give a block back unless it is leased; one atomic step.

        Returns
        -------
        bool
            False if a view of it is alive: it stays as it is.

        Raises
        ------
        StaleBlockError, ForeignBlockError, PoolClosedError
        """
        with self._lock:
            self._begin()
            self._table.require_live(block, "reclaim")
            return not is_leased(block) and self._table.deallocate(block, releases)

    def make_room(
        self,
        nbytes: int,
        victims: Iterable[MemoryBlock],
        alignment: int = MIN_ALIGNMENT,
        releases: list[Release] | None = None,
    ) -> list[MemoryBlock]:
        """Deallocate blocks in the given order until `nbytes` fit in one free range.

        Leased blocks are passed over. It is all or nothing: unless the request would fit
        after the last victim, no block is deallocated. One atomic step: no view can begin
        between the choice of a victim and its end.

        Parameters
        ----------
        nbytes, alignment : int
            As for `allocate`.
        victims : iterable of MemoryBlock
            Live blocks of this pool in the order in which they may go; taken only as far
            as needed. It must not call the pool.

        releases : list of Release, optional
            Gets the figures around the end of each victim appended.

        Returns
        -------
        list of MemoryBlock
            The blocks that were deallocated, in order; empty if the request fits already.

        Raises
        ------
        PoolExhaustedError
            It could not fit even without any of the victims; nothing has changed.
        InvalidSizeError, InvalidAlignmentError
            An argument is out of range.
        StaleBlockError, ForeignBlockError
            A victim is no live block of this pool, or comes twice; nothing has changed.
        PoolClosedError
        """
        nbytes = as_int("nbytes", nbytes)
        self._check_alignment(alignment)
        with self._lock:
            self._begin()
            return self._table.make_room(nbytes, victims, alignment, releases)

    def is_leased(self, block: MemoryBlock) -> bool:
        """Tell whether a view of the block is alive.

        Raises
        ------
        StaleBlockError, ForeignBlockError, PoolClosedError
        """
        with self._lock:
            self._begin()
            self._table.require_live(block, "ask for the leases of")
            return is_leased(block)

    # -- bytes ---------------------------------------------------------------------------

    def lease(self, block: MemoryBlock) -> Bytes:
        """Return all bytes of a block as the array that every view of it is based on.

        Parameters
        ----------
        block : MemoryBlock

        Returns
        -------
        ndarray of uint8, shape (block.size,)
            Writable. While it, or an array derived from it, lives, the block is leased.

        Raises
        ------
        StaleBlockError, ForeignBlockError, PoolClosedError
        """
        with self._lock:
            self._begin()
            self._table.require_live(block, "view")
            ref = block._root
            root = ref() if ref is not None else None
            if root is None:
                root = np.frombuffer(self._buffer, np.uint8, block.size, block.offset)
                block._root = ref = RootRef(root, self._lease_ended)
                ref.block = block
            return root

    def view(
        self,
        block: MemoryBlock,
        dtype: DTypeLike,
        shape: SupportsIndex | Sequence[SupportsIndex],
        offset: int = 0,
    ) -> NDArray[Any]:
        """Return a writable zero-copy array over a part of a block. It is a lease.

        Parameters
        ----------
        block : MemoryBlock
        dtype : dtype
            Of fixed size, without Python objects.
        shape : int or tuple of int
        offset : int, default 0
            Bytes from the start of the block; a multiple of the dtype's alignment.

        Returns
        -------
        ndarray
            C-contiguous, of that dtype and shape.

        Raises
        ------
        InvalidViewError
            The view reaches outside of the block, is misaligned, or has a negative
            dimension or a dtype that cannot lie in plain bytes.
        StaleBlockError, ForeignBlockError, PoolClosedError
        """
        type_, dims, start = view_geometry(block, dtype, shape, offset)
        root = self.lease(block)
        try:
            return np.ndarray(dims, type_, root, start)
        except ValueError as error:
            raise InvalidViewError(f"no array has shape {dims}: {error}") from None
        finally:
            del root  # a traceback that someone keeps must not keep the lease

    def zero_range(self, offset: int, nbytes: int) -> None:
        """Set a range of the arena to zero.

        Parameters
        ----------
        offset, nbytes : int
            Bytes, inside the pool; whose they are is not checked.

        Raises
        ------
        InvalidViewError
            The range reaches outside of the pool.
        PoolClosedError
        """
        start, count = as_int("offset", offset), as_int("nbytes", nbytes)
        if start < 0 or count < 0 or start + count > self.capacity:
            raise InvalidViewError(
                f"cannot zero [{start}, {start + count}): the pool has [0, {self.capacity})"
            )
        with self._lock:
            self._begin()
            data = self._bytes
        data[start : start + count] = 0

    # -- the whole -----------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Bytes that the pool can hand out."""
        return self._table.allocator.capacity

    @property
    def arena_info(self) -> ArenaInfo:
        """What the arena behind the pool is."""
        return self._arena.info

    def charge(self, nbytes: int) -> int:
        """Return the bytes that a request of `nbytes` is charged with."""
        return self._table.charge(nbytes)

    def stats(self) -> MemoryStats:
        """Return the figures of the pool, all of one moment.

        Raises
        ------
        PoolClosedError
        """
        with self._lock:
            self._begin()
            return self._table.stats()

    def ranges(self) -> list[tuple[int, int, MemoryBlock | None]]:
        """Return what the arena is made of, in address order.

        Returns
        -------
        list of (offset, size, block)
            Bytes; `block` is None for a free range, and for one that waits for its last view.

        Raises
        ------
        PoolClosedError
        """
        with self._lock:
            self._begin()
            return self._table.ranges()

    def check_integrity(self) -> None:
        """Prove that live, parting and free bytes make up the capacity, each once.

        Raises
        ------
        IntegrityError
            They do not; the text says where.
        PoolClosedError
        """
        with self._lock:
            self._begin()
            self._table.check_integrity()

    def close(self) -> None:
        """Give the arena up; a second call does nothing.

        All blocks become unusable. Views that are alive stay valid: their memory goes back
        to the system with the last of them.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._table.clear()
            self._bytes = np.empty(0, np.uint8)
            self._buffer = memoryview(b"")
            self._arena.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._table.allocator.used_bytes} used"
        return f"<MemoryPool {self._arena.info.backend}: {self.capacity} bytes, {state}>"

    def _check_alignment(self, alignment: int) -> None:
        """Refuse what the base address cannot give; the allocator refuses odd numbers."""
        if alignment > self._arena.info.alignment:
            raise InvalidAlignmentError(
                f"alignment {alignment} exceeds that of the arena's base address, "
                f"{self._arena.info.alignment}"
            )

    def _begin(self) -> None:
        """Under the lock, before anything else: refuse if closed, and settle ended leases."""
        if self._closed:
            raise PoolClosedError(f"the {self._arena.info.backend} pool is closed")
        while self._ended:
            self._table.end_lease(self._ended.popleft())

    def _lease_ended(self, ended: RootRef) -> None:
        """Note that a root array died: in any thread, at any time, even under the lock.

        So the death is only queued; the books follow now if the lock is at hand, and else
        at the next call.
        """
        if not self._table.is_parting(ended.block):
            return
        self._ended.append(ended)
        if self._lock.acquire(blocking=False):
            try:
                if not self._closed:
                    self._begin()
            finally:
                self._lock.release()
