"""`LeasedMemory`: the bytes of a pool, and who still looks at them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvpool._closing import Closing
from kvpool.arena import Arena
from kvpool.errors import InvalidViewError, PoolClosedError
from kvpool.pool._accounting import BlockTable
from kvpool.pool._block import Bytes, MemoryBlock, RootRef, as_int, view_geometry

__all__ = ["LeasedMemory"]


class LeasedMemory(Closing):
    """An arena, the books of its blocks, and the views of them.

    What a `MemoryPool` is made of. One lock guards the books.

    Parameters
    ----------
    arena : Arena
        Closed with this.
    table : BlockTable
        The books.
    """

    def __init__(self, arena: Arena, table: BlockTable) -> None:
        self._table = table
        self._arena = arena
        self._buffer = arena.buffer
        self._bytes: Bytes = np.frombuffer(self._buffer, np.uint8)
        self._lock = threading.Lock()
        self._closed = False
        self._ended: deque[RootRef] = deque()  # roots that died, not yet settled

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
                root = self._whole(block)
                block._root = ref = RootRef(root, self._lease_ended)
                ref.block = block
            return root

    def _whole(self, block: MemoryBlock) -> Bytes:
        # Of a slice, so that the `base` of a view leads to the bytes of this block alone.
        return np.frombuffer(self._buffer[block.offset : block.offset + block.size], np.uint8)

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
        start, count = self._checked_range(offset, nbytes)
        with self._lock:
            self._begin()
            data = self._bytes
        data[start : start + count] = 0

    def _checked_range(self, offset: int, nbytes: int) -> tuple[int, int]:
        start, count = as_int("offset", offset), as_int("nbytes", nbytes)
        size = self._table.allocator.capacity
        if start < 0 or count < 0 or start + count > size:
            raise InvalidViewError(
                f"cannot zero [{start}, {start + count}): the pool has [0, {size})"
            )
        return start, count

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
