"""`Accounting`: which blocks of a pool live, which are draining, and what they are charged."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NoReturn, TypeAlias

from kvpool._checks import align_up
from kvpool.arena import MIN_ALIGNMENT
from kvpool.errors import (
    DoubleFreeError,
    ForeignBlockError,
    IntegrityError,
    InvalidArgumentError,
    KVPoolError,
    PoolExhaustedError,
    StaleBlockError,
    UnsupportedError,
)
from kvpool.pool._allocator import OffsetAllocator
from kvpool.pool._block import DRAINING, GONE, LIVE, MemoryBlock, RootRef, not_a_block
from kvpool.pool._pages import StripeGeometry
from kvpool.pool._usage import BlockUsage, Deallocation, block_usage
from kvpool.stats import CopyReason, MemoryStats

__all__ = ["Accounting", "Leaving", "victims_of"]

Leaving: TypeAlias = Callable[[list[MemoryBlock]], object] | None
"""What is called with the victims of a step before the first of them ends; it may raise."""

_pool_ids = itertools.count(1)


class Accounting:
    """The accounts of a rigid pool: a block is charged with all its bytes from the start.

    It touches no byte itself. Not thread-safe: `MemoryPool` holds its lock around every call,
    and documents the methods that both have.

    Parameters
    ----------
    capacity, granule : int
        Bytes of the pool, and of the unit in which they are handed out.

    Attributes
    ----------
    is_elastic : bool
        Whether blocks are charged by committed page.
    capacity : int
        Bytes that all blocks together can be charged with.
    touched : int
        Bytes of the arena from this offset on read zero, and so does everything that
        `allocate` returns from there. Stays 0 if bytes read zero as soon as they are free.
    copied_forks : mapping of CopyReason to int
        How often a fork had to be a copy. Replaced at each change, so figures may refer to it.
    find_room : callable or None
        Has the arena find room for a range of bytes, or raises; called with offset and size.
    wipe : callable or None
        Sets a range of bytes to zero; called with offset and size before they are free.
    step : tuple of (int, int) or None
        While a step changes the accounts: the bytes allocated and freed before it. A call that
        finds a step knows that it was interrupted, by a signal handler that raised or because
        memory ran out: `recover`.
    """

    # The blocks are the truth. The rest is an index of them or a sum over them, which `recover`
    # makes anew from the blocks: the allocator's ranges, `_draining`, `_forks` and `used`. So a
    # step may end anywhere, if each of its stores leaves the blocks as they may be.

    is_elastic = False

    def __init__(self, capacity: int, granule: int) -> None:
        self.allocator = OffsetAllocator(capacity, granule)
        self._granule = self.allocator.granule
        self.pool_id = next(_pool_ids)
        self.capacity = self.allocator.capacity
        self.touched = 0
        self.copied_forks = dict.fromkeys(CopyReason, 0)
        self.find_room: Callable[[int, int], object] | None = None
        self.wipe: Callable[[int, int], object] | None = None
        self._blocks: set[MemoryBlock] = set()  # all that are live or draining
        self._draining: set[MemoryBlock] = set()
        self.step: tuple[int, int] | None = None
        self._trimmed: int | None = None  # while a step trims: the bytes trimmed before it
        self._allocations = self._deallocations = 0
        self._bytes_allocated = self._bytes_freed = self._bytes_trimmed = 0
        self._forks = 0

    # -- what things cost ----------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes that all blocks together are charged with."""
        return self._bytes_allocated - self._bytes_freed

    def charge(self, nbytes: int) -> int:
        """Return the bytes that a request of `nbytes` is charged with."""
        return (nbytes + self._granule - 1) & -self._granule  # as `align_up`, without another call

    def resize(self, capacity: int) -> None:
        """Refuse: the capacity is the size of the arena."""
        raise UnsupportedError(
            f"a rigid pool of {self.capacity} bytes cannot be resized to {capacity}; "
            "an elastic one can, see ElasticPool"
        )

    def cost(self, geometry: StripeGeometry, tokens: int) -> int:
        """Return the bytes that an entry is charged with when it holds some tokens."""
        del tokens  # the whole block is charged from the start
        return self.charge(geometry.nbytes)

    def could_hold(self, geometry: StripeGeometry, tokens: int) -> bool:
        """Tell whether an entry with `tokens` tokens fits into a pool without other blocks."""
        return self.cost(geometry, tokens) <= self.capacity

    # -- blocks --------------------------------------------------------------------------

    def allocate(self, nbytes: int, alignment: int, owner: object = None) -> MemoryBlock:
        """Take a block; see `MemoryPool.allocate`."""
        self.step = self._bytes_allocated, self._bytes_freed
        try:
            offset = self.allocator.allocate(nbytes, alignment)
        except KVPoolError:  # nothing has changed
            self.step = None
            raise
        if self.find_room is not None:
            self.find_room(offset, nbytes)
        block = MemoryBlock(offset, nbytes, self.pool_id, owner)
        block.charged = charged = (nbytes + self._granule - 1) & -self._granule  # as `charge`
        self._bytes_allocated += charged
        self._allocations += 1
        self._blocks.add(block)
        if offset + nbytes > self.touched and self.wipe is None:
            self.touched = offset + nbytes
        self.step = None
        return block

    def reserve(self, geometry: StripeGeometry, owner: object = None) -> MemoryBlock:
        """Take a block for stripes; see `MemoryPool.reserve`."""
        return self.allocate(geometry.nbytes, MIN_ALIGNMENT, owner)

    def require_live(self, block: MemoryBlock, verb: str) -> None:
        """Raise unless the block is live and belongs to this pool."""
        try:
            if block.state is LIVE and block in self._blocks:
                return
        except AttributeError:  # not a block
            pass
        self._refuse(block, verb, StaleBlockError)

    def is_live(self, block: MemoryBlock) -> bool:
        """Tell whether the block is live and belongs to this pool."""
        is_block = block.__class__ is MemoryBlock
        return is_block and block.state is LIVE and block in self._blocks

    def deallocate(
        self, block: MemoryBlock, deallocations: list[Deallocation] | None = None
    ) -> bool:
        """End a block; see `MemoryPool.deallocate`."""
        try:
            is_live = block.state is LIVE and block in self._blocks
        except AttributeError:  # not a block
            is_live = False
        if not is_live:
            self._refuse(block, "deallocate", DoubleFreeError)
        if deallocations is None:
            self.step = self._bytes_allocated, self._bytes_freed
            is_free = self._end(block)
            self.step = None
            return is_free
        if not isinstance(deallocations, list):
            raise InvalidArgumentError(f"deallocations must be a list, not {deallocations!r}")
        before, charged = self.stats(), block.charged
        self.step = self._bytes_allocated, self._bytes_freed
        is_free = self._end(block)
        self.step = None
        deallocations.append(Deallocation(block, charged, before, self.stats()))
        return is_free

    def end_leases(self, ended: deque[RootRef]) -> None:
        """Free what root arrays kept, which have died."""
        self.step = self._bytes_allocated, self._bytes_freed
        while ended:
            self._end_lease(ended.popleft())
        self.step = None

    def _end_lease(self, ended: RootRef) -> None:
        block, ended.block = ended.block, None
        # A later lease has a root of its own.
        if block is not None and block.state is DRAINING and block.root_ref is ended:
            self._give_back(block)

    def clear(self) -> None:
        """Forget all blocks: every one of them is stale from now on."""
        for block in self._blocks:
            block.let_go()
        self._blocks.clear()
        self._draining.clear()
        self._forks = 0
        self.find_room = self.wipe = None  # they refer to the arena and its bytes

    # -- pages: here every block has all of them -----------------------------------------

    def commit(self, block: MemoryBlock, group: int | None, start: int, end: int) -> bool:
        """Charge the pages for a write; return whether that took new ones."""
        del group, start, end
        try:
            is_live = block.state is LIVE and block in self._blocks
        except AttributeError:  # not a block
            is_live = False
        if not is_live:
            self._refuse(block, "write to", StaleBlockError)
        return False

    def trim(self, block: MemoryBlock, end: int) -> None:
        """Decommit the pages past `end` bytes of each stripe, if the block has no view."""

    def trim_parent(self, block: MemoryBlock) -> None:
        """Decommit the parent's pages that writing to a fork committed there."""

    def fork(self, block: MemoryBlock, end: int) -> tuple[MemoryBlock, int] | CopyReason:
        """Make a block that reads the first bytes of each stripe, or say why it must be a copy."""
        del block, end
        return CopyReason.WHOLE_BLOCK

    def erase_pages(self, start: int, end: int) -> tuple[int, int]:
        """Set the whole pages of a range to zero by decommitting them; return their range."""
        del start
        return end, end

    # -- making room ---------------------------------------------------------------------

    def make_room(
        self,
        nbytes: int,
        victims: Iterable[MemoryBlock],
        alignment: int,
        deallocations: list[Deallocation] | None = None,
        leaving: Leaving = None,
    ) -> list[MemoryBlock]:
        """Deallocate the first victims until `nbytes` can be allocated; see `MemoryPool`."""
        chosen = self._choose(nbytes, alignment, self.charge(nbytes), victims)
        return self._evict(chosen, deallocations, leaving)

    def allocate_evicting(
        self,
        nbytes: int,
        victims: Iterable[MemoryBlock],
        deallocations: list[Deallocation] | None,
        owner: object = None,
        leaving: Leaving = None,
    ) -> tuple[MemoryBlock, list[MemoryBlock]]:
        """Take a block after the first victims have ended; see `MemoryPool`."""
        chosen = self._choose(nbytes, MIN_ALIGNMENT, self.charge(nbytes), victims)
        evicted = self._evict(chosen, deallocations, leaving)
        return self.allocate(nbytes, MIN_ALIGNMENT, owner), evicted

    def reserve_evicting(
        self,
        geometry: StripeGeometry,
        committed: int,
        victims: Iterable[MemoryBlock],
        deallocations: list[Deallocation] | None,
        owner: object = None,
        leaving: Leaving = None,
    ) -> tuple[MemoryBlock, list[MemoryBlock]]:
        """Reserve a block after the first victims have ended; see `MemoryPool`."""
        del committed  # all bytes can be written from the start
        return self.allocate_evicting(geometry.nbytes, victims, deallocations, owner, leaving)

    def _choose(
        self, nbytes: int, alignment: int, charge: int, victims: Iterable[MemoryBlock]
    ) -> list[MemoryBlock]:
        """Return the first victims after whose end `nbytes` fit; change nothing.

        `charge` is what `nbytes` are charged with.
        """
        allocator = self.allocator
        if allocator.fits(nbytes, alignment):
            return []
        if charge > allocator.capacity:
            raise self._shortage(charge, f", and the whole pool has {allocator.capacity}")
        plan = None
        chosen: dict[MemoryBlock, None] = {}
        for block in victims_of(victims):
            try:
                is_new = block.state is LIVE and block in self._blocks and block not in chosen
            except AttributeError:  # not a block
                is_new = False
            if not is_new:
                self._refuse_victim(block)
            if block.is_leased:
                continue
            # A first victim that is large enough by itself needs no plan.
            if not chosen and block.charged >= charge and not block.offset % alignment:
                return [block]
            plan = plan or allocator.free_plan()
            start, end = plan.free(block.offset)
            chosen[block] = None
            if align_up(start, alignment) + charge <= end:
                return list(chosen)
        raise self._shortage(
            charge, f", and evicting all {len(chosen)} blocks that may go would not make room"
        )

    def _evict(
        self,
        chosen: list[MemoryBlock],
        deallocations: list[Deallocation] | None,
        leaving: Leaving = None,
    ) -> list[MemoryBlock]:
        if leaving is not None and chosen:
            leaving(chosen)  # first, because it may raise
        for block in chosen:
            self.deallocate(block, deallocations)
        return chosen

    def _refuse_victim(self, block: MemoryBlock) -> NoReturn:
        self.require_live(block, "evict")
        raise DoubleFreeError(f"cannot evict {block!r} twice: the victims name it again")

    def _shortage(self, nbytes: int, detail: str = "") -> PoolExhaustedError:
        stats = self.stats()
        return PoolExhaustedError(nbytes, stats.free, stats.largest_free, detail)

    # -- the whole -----------------------------------------------------------------------

    def stats(self) -> MemoryStats:
        """Return the figures of this moment."""
        allocator = self.allocator
        used = self._bytes_allocated - self._bytes_freed
        free = self.capacity - used
        return MemoryStats(
            capacity=self.capacity,
            used=used,
            free=free,
            largest_free=min(free, allocator.largest_free),
            live_blocks=len(self._blocks) - len(self._draining),
            parting_blocks=len(self._draining),
            allocations=self._allocations,
            deallocations=self._deallocations,
            bytes_allocated=self._bytes_allocated,
            bytes_freed=self._bytes_freed,
            reserved=allocator.used_bytes,
            address_space=allocator.capacity,
            bytes_trimmed=self._bytes_trimmed,
            forks=self._forks,
            copied_forks=sum(self.copied_forks.values()),
            copied_forks_by_reason=self.copied_forks,
        )

    def glance(self) -> MemoryStats:
        """Return the figures as they are in the middle of a step, perhaps of this very thread.

        Nothing is changed, and nothing that another thread changes meanwhile is iterated over.
        """
        now = self._bytes_allocated, self._bytes_freed
        allocated, freed = self.step or now
        used = allocated - freed
        stats = self.stats()
        return replace(
            stats,
            used=used,
            free=self.capacity - used,
            largest_free=min(stats.largest_free, self.capacity - used),
            bytes_allocated=allocated,
            bytes_freed=freed,
            is_exact=False,
        )

    def ranges(self) -> list[tuple[int, int, MemoryBlock | None]]:
        """Return offset, size and live block of every range, in address order."""
        live = {b.offset: b for b in self._blocks if b.state is LIVE and not b.is_fork}
        return [(at, size, live.get(at)) for at, size, _ in self.allocator.ranges()]

    def usage(self) -> list[BlockUsage]:
        """Return what each block costs, in address order; a parent comes before its forks."""
        blocks = sorted(self._blocks, key=lambda block: (block.offset, block.is_fork))
        return [block_usage(block) for block in blocks]

    def check_integrity(self) -> None:
        """Prove that live, draining and free bytes make up the capacity, each once.

        Raises
        ------
        IntegrityError
            They do not; the text says where. This is a bug.
        """
        self.allocator.check_integrity()
        taken = {at: size for at, size, is_taken in self.allocator.ranges() if is_taken}
        owners = [block for block in self._blocks if not block.is_fork]
        known = {block.offset: block for block in owners}
        if taken.keys() != known.keys() or len(known) != len(owners):
            raise IntegrityError(f"blocks at {sorted(known)}, allocated ranges at {sorted(taken)}")
        for offset, block in known.items():
            if taken[offset] != self.charge(block.size):
                raise IntegrityError(f"{block!r} is at {offset} with {taken[offset]} bytes")
        for block in self._blocks:
            self._check_block(block)
        self._check_sums()

    def _check_block(self, block: MemoryBlock) -> None:
        """Prove the invariants that `MemoryBlock` states."""
        if block.state is GONE or block.pool_id != self.pool_id:
            raise IntegrityError(f"{block!r} of pool {block.pool_id} is {block.state.name}")
        if block.is_fork != block.is_mapped:
            raise IntegrityError(f"{block!r} has a parent or a mapping, not both")
        expected = self.charge(block.size) if block.pages is None else block.pages.charged
        if block.charged != expected:
            raise IntegrityError(f"{block!r} is charged {block.charged}, has {expected}")
        for child in block.children:
            if child not in self._blocks or child.parent is not block:
                raise IntegrityError(f"{block!r} has the child {child!r}, which is not a fork")
        if block.shared_bytes != max(map(block.shared_with, block.children), default=0):
            raise IntegrityError(f"{block!r} has lost count of what its forks read")
        inherited = block.pages.inherited_bytes if block.pages is not None else 0
        if block.is_fork and (block.parent or block).shared_with(block) < inherited:
            raise IntegrityError(f"{block!r} is a fork that reads more than its parent keeps")

    def _check_sums(self) -> None:
        """Prove that the sums are those of the blocks."""
        charged = sum(block.charged for block in self._blocks)
        if charged != self.used or charged > self.capacity:
            raise IntegrityError(f"{charged} bytes charged, {self.used} used of {self.capacity}")
        draining = {block for block in self._blocks if block.state is DRAINING}
        if draining != self._draining:
            raise IntegrityError(f"{draining} are draining, listed are {self._draining}")
        forks = sum(len(block.children) for block in self._blocks)
        if forks != self._forks:
            raise IntegrityError(f"{forks} forks, counted {self._forks}")

    # -- after an interrupt --------------------------------------------------------------

    def recover(self) -> None:
        """Make the accounts right after a step that was interrupted: O(n log n) for n blocks.

        The blocks stay as the step left them, and a block that the step was about to hand out is
        not there. If this is interrupted too, the next call does it again.
        """
        self._finish_step()
        for block in self._blocks:
            block.recount()
        owners = [block for block in self._blocks if not block.is_fork]
        taken = [(block.offset, block.size) for block in owners]
        before = self.allocator
        self.allocator = OffsetAllocator.restored(before.capacity, before.granule, taken)
        self._draining = {block for block in self._blocks if block.state is DRAINING}
        self._forks = sum(len(block.children) for block in self._blocks)
        for block in self._blocks:
            pages = block.pages
            block.charged = self.charge(block.size) if pages is None else pages.charged
        charged = sum(block.charged for block in self._blocks)
        allocated, freed = self.step or (self._bytes_allocated, self._bytes_freed)
        grown = charged - (allocated - freed)
        self._bytes_allocated = allocated + max(0, grown)
        self._bytes_freed = freed + max(0, -grown)
        if self._trimmed is not None:
            self._bytes_trimmed, self._trimmed = self._trimmed + max(0, -grown), None
        self._free_unused()
        self.step = None

    def _finish_step(self) -> None:
        """Finish what must not stay half done; here that is nothing."""

    def _free_unused(self) -> None:
        """Free what nothing needs of draining blocks: forks first, their parents after them."""
        for block in sorted(self._draining, key=lambda one: one.is_fork, reverse=True):
            if block.state is DRAINING and not block.is_leased:
                self._give_back(block)

    def free_missed(self) -> None:
        """Free draining blocks whose last view ended when the note of that was interrupted."""
        self.step = self._bytes_allocated, self._bytes_freed
        self._free_unused()
        self.step = None

    @property
    def is_draining(self) -> bool:
        """Whether a block waits for its last view or fork."""
        return bool(self._draining)

    # -- the end of a block --------------------------------------------------------------

    def _end(self, block: MemoryBlock) -> bool:
        # Order matters: the state is stored before the views are looked at. A view that dies
        # between the two is then still seen by end_lease().
        block.state = DRAINING
        if not block.is_leased and self._give_back(block):
            return True
        self._draining.add(block)
        return False

    def _give_back(self, block: MemoryBlock) -> bool:
        """Free what nothing needs of a draining block without a view; whether that is all."""
        if self.wipe is not None:
            self.wipe(block.offset, block.size)
        self._bytes_freed += self.allocator.free(block.offset)
        self._blocks.remove(block)
        block.state = GONE
        self._draining.discard(block)
        self._deallocations += 1
        return True

    def _refuse(self, block: MemoryBlock, verb: str, stale: type[StaleBlockError]) -> NoReturn:
        if not isinstance(block, MemoryBlock):
            raise not_a_block(block, verb)
        if block.pool_id != self.pool_id:
            raise ForeignBlockError(
                f"cannot {verb} {block!r}: it belongs to pool {block.pool_id}, "
                f"this is pool {self.pool_id}"
            )
        raise stale(f"cannot {verb} {block!r}: it was deallocated before")


def victims_of(victims: Iterable[MemoryBlock]) -> Iterator[MemoryBlock]:
    """Return an iterator over victims.

    Raises
    ------
    InvalidArgumentError
        `victims` cannot be iterated over.
    """
    try:
        return iter(victims)
    except TypeError:
        raise InvalidArgumentError(
            f"victims must be an iterable of blocks, not {victims!r}"
        ) from None
