"""The books of a pool: which blocks live, which wait for their last view, and the totals."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from kvpool._checks import align_up
from kvpool.errors import (
    DoubleFreeError,
    ForeignBlockError,
    IntegrityError,
    PoolExhaustedError,
    StaleBlockError,
)
from kvpool.pool._allocator import OffsetAllocator
from kvpool.pool._block import MemoryBlock, RootRef, is_leased
from kvpool.pool._deallocation import Release
from kvpool.pool._usage import BlockUsage, block_usage
from kvpool.stats import MemoryStats

__all__ = ["BlockTable"]

_pool_ids = itertools.count(1)


class BlockTable:
    """The blocks of one pool over an allocator; it touches no byte itself.

    Not thread-safe: `MemoryPool` holds its lock around every call.

    Parameters
    ----------
    capacity, granule : int
        Bytes, as for `OffsetAllocator`.

    Attributes
    ----------
    copied_forks : int
        How often a fork had to be a copy.
    wipe : callable, optional
        Sets a range of bytes to zero; called with offset and size before each is freed.
    """

    def __init__(self, capacity: int, granule: int) -> None:
        self.allocator = OffsetAllocator(capacity, granule)
        self.pool_id = next(_pool_ids)
        self._live: set[MemoryBlock] = set()
        self._parting: set[MemoryBlock] = set()  # deallocated, and something still needs them
        self._allocations = self._deallocations = 0
        self._bytes_allocated = self._bytes_freed = 0
        self.copied_forks = 0
        self.wipe: Callable[[int, int], object] | None = None

    @property
    def capacity(self) -> int:
        """Bytes that all blocks together can be charged with."""
        return self.allocator.capacity

    @property
    def used(self) -> int:
        """Bytes that all blocks together are charged with."""
        return self._bytes_allocated - self._bytes_freed

    def charge(self, nbytes: int) -> int:
        """Return the bytes that a request of `nbytes` is charged with."""
        return align_up(nbytes, self.allocator.granule)

    def allocate(self, nbytes: int, alignment: int) -> MemoryBlock:
        """Take a block; see `MemoryPool.allocate`."""
        offset = self.allocator.allocate(nbytes, alignment)
        block = MemoryBlock(offset, nbytes, self.pool_id)
        block.charged = self.allocator.size_at(offset)
        self._bytes_allocated += block.charged
        self._admit(block)
        return block

    def _admit(self, block: MemoryBlock) -> None:
        self._live.add(block)
        self._allocations += 1

    def is_live(self, block: MemoryBlock) -> bool:
        """Tell whether a block is one of this pool's and was not deallocated."""
        return block in self._live

    def require_live(self, block: MemoryBlock, verb: str) -> None:
        """Raise unless the block is one of this pool's and was not deallocated."""
        if block not in self._live:
            self._refuse(block, verb, StaleBlockError)

    def deallocate(self, block: MemoryBlock, releases: list[Release] | None = None) -> bool:
        """End a block; see `MemoryPool.deallocate`."""
        if block not in self._live:
            self._refuse(block, "deallocate", DoubleFreeError)
        if releases is None:
            return self._end(block)
        before = self.stats()
        charged = block.charged
        is_back = self._end(block)
        releases.append(Release(block, charged, before, self.stats()))
        return is_back

    def is_parting(self, block: MemoryBlock) -> bool:
        """Tell whether the block waits for its last view."""
        return block in self._parting

    def make_room(
        self,
        nbytes: int,
        victims: Iterable[MemoryBlock],
        alignment: int,
        releases: list[Release] | None = None,
    ) -> list[MemoryBlock]:
        """Deallocate the first victims until `nbytes` fit in one free range; see `MemoryPool`."""
        allocator = self.allocator
        if allocator.fits(nbytes, alignment):
            return []
        size = self.charge(nbytes)
        if size > allocator.capacity:
            detail = f", and the whole pool has {allocator.capacity}"
            raise PoolExhaustedError(size, allocator.free_bytes, allocator.largest_free, detail)
        plan = None
        chosen: list[MemoryBlock] = []
        for block in victims:
            self.require_live(block, "evict")
            if is_leased(block):
                continue
            # One that is large enough by itself needs no plan, if it does not come twice.
            if not chosen and block.charged >= size and not block.offset % alignment:
                self.deallocate(block, releases)
                return [block]
            plan = plan or allocator.free_plan()
            start, end = plan.free(block.offset)
            chosen.append(block)
            if align_up(start, alignment) + size <= end:
                for victim in chosen:
                    self.deallocate(victim, releases)
                return chosen
        raise PoolExhaustedError(
            size,
            allocator.free_bytes,
            allocator.largest_free,
            f", and evicting all {len(chosen)} blocks that may go would not make room",
        )

    make_space = make_room  # what is charged are ranges, so room is a free range

    def end_lease(self, ended: RootRef) -> None:
        """Draw the consequence of a root array's death."""
        block = ended.block
        # A later lease has a root of its own, and a live block stays where it is.
        if block._root is ended and self.is_parting(block):
            self._give_back(block)

    def clear(self) -> None:
        """Forget all blocks: every one of them is stale from now on."""
        self._live.clear()
        self._parting.clear()
        self.wipe = None  # it knows the bytes, which are not to be kept

    def stats(self) -> MemoryStats:
        """Return the figures of this moment."""
        allocator = self.allocator
        return MemoryStats(
            capacity=allocator.capacity,
            used=allocator.used_bytes,
            free=allocator.free_bytes,
            largest_free=allocator.largest_free,
            live_blocks=len(self._live),
            parting_blocks=len(self._parting),
            allocations=self._allocations,
            deallocations=self._deallocations,
            bytes_allocated=self._bytes_allocated,
            bytes_freed=self._bytes_freed,
            reserved=allocator.used_bytes,
            address_space=allocator.capacity,
            copied_forks=self.copied_forks,
        )

    def ranges(self) -> list[tuple[int, int, MemoryBlock | None]]:
        """Return offset, size and live block of every range, in address order."""
        live = {block.offset: block for block in self._live if block.base is None}
        return [(at, size, live.get(at)) for at, size, _ in self.allocator.ranges()]

    def usage(self) -> list[BlockUsage]:
        """Return what each block costs, in address order; a base comes before its forks."""
        blocks = sorted(self._live | self._parting, key=lambda b: (b.offset, b.base is not None))
        return [block_usage(block, block in self._live) for block in blocks]

    def check_integrity(self) -> None:
        """Prove that live, parting and free bytes make up the capacity, each once.

        Raises
        ------
        IntegrityError
            They do not; the text says where. This is a bug.
        """
        self.allocator.check_integrity()
        taken = {at: size for at, size, is_taken in self.allocator.ranges() if is_taken}
        owners = [block for block in (*self._live, *self._parting) if block.base is None]
        known = {block.offset: block for block in owners}
        if taken.keys() != known.keys() or len(known) != len(owners):
            raise IntegrityError(f"blocks at {sorted(known)}, allocated ranges at {sorted(taken)}")
        for offset, block in known.items():
            if taken[offset] != self.charge(block.size):
                raise IntegrityError(f"{block!r} is at {offset} with {taken[offset]} bytes")
        self._check_charges()

    def _check_charges(self) -> None:
        """Prove that every range is charged in full."""
        if self.used != self.allocator.used_bytes:
            raise IntegrityError(f"{self.used} bytes charged, {self.allocator.used_bytes} used")

    def _end(self, block: MemoryBlock) -> bool:
        self._live.remove(block)
        block._ended = True
        # First on the list, then the look: a view that ends in between is not missed.
        self._parting.add(block)
        return not is_leased(block) and self._give_back(block)

    def _give_back(self, block: MemoryBlock) -> bool:
        """Give back what nothing needs of a parting block without a view; whether that is all."""
        if self.wipe is not None:
            self.wipe(block.offset, block.size)
        self._parting.remove(block)
        self._deallocations += 1
        self._bytes_freed += self.allocator.free(block.offset)
        return True

    def _refuse(self, block: MemoryBlock, verb: str, stale: type[StaleBlockError]) -> None:
        if block._pool_id != self.pool_id:
            raise ForeignBlockError(
                f"cannot {verb} {block!r}: it belongs to pool {block._pool_id}, "
                f"this is pool {self.pool_id}"
            )
        raise stale(f"cannot {verb} {block!r}: it was deallocated before")
