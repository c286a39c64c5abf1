"""`MemoryPool`: an arena, and the allocator that says which of its bytes are whose."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from kvpool.arena import MIN_ALIGNMENT, Arena, ArenaInfo
from kvpool.backends import create_arena
from kvpool.errors import InvalidAlignmentError, InvalidViewError
from kvpool.pool._accounting import BlockTable
from kvpool.pool._block import Bytes, MemoryBlock, as_int, is_leased
from kvpool.pool._deallocation import Release
from kvpool.pool._leased_memory import LeasedMemory
from kvpool.pool._pages import RunGeometry
from kvpool.pool._usage import BlockUsage
from kvpool.stats import MemoryStats

__all__ = ["MemoryPool"]


class MemoryPool(LeasedMemory):
    """A bounded pool of bytes, handed out as zeroed blocks with zero-copy views.

    Parameters
    ----------
    capacity : int
        Bytes of the pool; rounded down to a multiple of 64.
    backend : str, optional
        Name of the backend that holds the bytes. By default ``$KVPOOL_BACKEND``, else
        ``"numpy"``.
    secure : bool, default False
        Whether bytes are set to zero as soon as they are free, under the lock. Else that is
        done when they are handed out again. Bytes that are still in use when the pool is closed
        stay in its file, where it has one.
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
    lock guards the books; no byte is written under it, but where the pool is `secure`.

    Examples
    --------
    >>> pool = MemoryPool(1 << 20, backend="numpy")
    >>> block = pool.allocate(4096)
    >>> view = pool.view(block, "float32", (8, 128))
    >>> view[0, :2] = 1.5
    >>> float(view.sum())
    3.0
    """

    def __init__(
        self,
        capacity: int,
        backend: str | None = None,
        *,
        secure: bool = False,
        **backend_options: Any,
    ) -> None:
        table = BlockTable(as_int("capacity", capacity), MIN_ALIGNMENT)
        self._open(create_arena(table.capacity, backend, **backend_options), table)
        if secure:
            table.wipe = partial(_set_zero, self._bytes)

    def _open(self, arena: Arena, table: BlockTable) -> None:
        super().__init__(arena, table)
        self._needs_commit = arena.info.needs_commit
        # Bytes at or past this offset read zero: none was handed out, or all were wiped.
        self._touched = 0 if arena.info.zeroed else table.capacity

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
            if self._needs_commit:
                try:
                    self._arena.commit(block.offset, nbytes)
                except BaseException:
                    self._table.deallocate(block)
                    raise
            data, touched = self._bytes, self._touched
            start, end = block.offset, block.offset + nbytes
            if end > touched and self._table.wipe is None:
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
            False if a view of it is alive: it stays as it is. True if it has ended; its
            bytes may still wait for its forks.

        Raises
        ------
        StaleBlockError, ForeignBlockError, PoolClosedError
        """
        with self._lock:
            self._begin()
            self._table.require_live(block, "reclaim")
            if is_leased(block):
                return False
            self._table.deallocate(block, releases)
            return True

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

    def make_space(
        self,
        nbytes: int,
        victims: Iterable[MemoryBlock],
        releases: list[Release] | None = None,
    ) -> list[MemoryBlock]:
        """Deallocate blocks until `nbytes` can be reserved; else as `make_room`."""
        nbytes = as_int("nbytes", nbytes)
        with self._lock:
            self._begin()
            return self._table.make_space(nbytes, victims, MIN_ALIGNMENT, releases)

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

    def is_live(self, block: MemoryBlock) -> bool:
        """Tell whether a block is one of this pool's and was not deallocated."""
        with self._lock:
            return self._table.is_live(block)

    # -- pages ---------------------------------------------------------------------------

    def reserve(self, geometry: RunGeometry) -> MemoryBlock:
        """Take a block for runs of tokens, whose pages are committed as they are needed.

        Here, where the pool is not elastic, that is to allocate it.

        Parameters
        ----------
        geometry : RunGeometry
            Where the runs lie in the block.

        Returns
        -------
        MemoryBlock
            Of ``geometry.nbytes``; it reads zero.

        Raises
        ------
        PoolExhaustedError
            No free range is large enough; nothing has changed.
        PoolClosedError
        """
        return self.allocate(geometry.nbytes)

    def commit(self, block: MemoryBlock, groups: Iterable[int], start: int, end: int) -> None:
        """Charge the pages that writing to the runs of some groups needs; before it is written.

        Here nothing is left to do.

        Parameters
        ----------
        block : MemoryBlock
            From `reserve` or `fork`.
        groups : iterable of int
        start, end : int
            Bytes from the start of each run: what is to be written.

        Raises
        ------
        PoolExhaustedError
            That many pages may not be committed; nothing has changed.
        StaleBlockError, ForeignBlockError, PoolClosedError
        """

    def settle(self, block: MemoryBlock) -> None:
        """Let a fork that was written give back what that cost its base; here nothing."""

    def trim(self, block: MemoryBlock, end: int) -> None:
        """Give back the pages behind the first `end` bytes of each run; here nothing.

        Nothing is given back where a view of the block is alive.

        Raises
        ------
        InvalidViewError
            `end` is not in the block.
        StaleBlockError, ForeignBlockError, PoolClosedError
        """
        self._check_end(block, end)
        with self._lock:
            self._begin()
            self._table.require_live(block, "trim")

    def fork(self, block: MemoryBlock, end: int) -> tuple[MemoryBlock, int] | None:
        """Make a block that shows the first `end` bytes of each run; here None: copy them.

        Returns
        -------
        tuple of (MemoryBlock, int) or None
            The fork, and how many bytes of each run it shows: fewer than `end` where
            `block` is a fork itself, and has written those behind. None where it cannot be
            made.

        Raises
        ------
        InvalidViewError
            `end` is not in the block.
        StaleBlockError, ForeignBlockError, PoolClosedError
        """
        self._check_end(block, end)
        with self._lock:
            self._begin()
            self._table.require_live(block, "fork")
        return None

    def count_copied_fork(self) -> None:
        """Count a fork that had to be a copy."""
        with self._lock:
            self._table.copied_forks += 1

    @staticmethod
    def _check_end(block: MemoryBlock, end: int) -> None:
        if not 0 <= end <= block.size:
            raise InvalidViewError(f"{end} bytes of each run are not in a block of {block.size}")

    # -- the whole -----------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Bytes that the pool can hand out."""
        return self._table.capacity

    @property
    def granule(self) -> int:
        """Bytes; blocks start at a multiple of it, and their sizes are rounded up to one."""
        return self._table.allocator.granule

    @property
    def arena_info(self) -> ArenaInfo:
        """What the arena behind the pool is."""
        return self._arena.info

    def charge(self, nbytes: int) -> int:
        """Return the bytes that a request of `nbytes` is charged with."""
        return self._table.charge(nbytes)

    def committed_bytes(self) -> int | None:
        """Return what the system says of the arena; see `Arena.committed_bytes`.

        Raises
        ------
        PoolClosedError
        """
        with self._lock:
            self._begin()
            return self._arena.committed_bytes()

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

    def usage(self) -> list[BlockUsage]:
        """Return what each block costs and shares, those that wait for a view or fork as well.

        Returns
        -------
        list of BlockUsage
            In address order; a base comes before its forks.

        Raises
        ------
        PoolClosedError
        """
        with self._lock:
            self._begin()
            return self._table.usage()

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

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._table.used} used"
        return f"<MemoryPool {self._arena.info.backend}: {self.capacity} bytes, {state}>"

    def _check_alignment(self, alignment: int) -> None:
        """Refuse what the base address cannot give; the allocator refuses odd numbers."""
        if alignment > self._arena.info.alignment:
            raise InvalidAlignmentError(
                f"alignment {alignment} exceeds that of the arena's base address, "
                f"{self._arena.info.alignment}"
            )


def _set_zero(data: Bytes, offset: int, nbytes: int) -> None:
    data[offset : offset + nbytes] = 0
