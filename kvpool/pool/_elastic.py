"""`ElasticAccounting`: blocks are charged with the pages that they have committed.

A *parent* is a block whose pages forks read. It outlives its owner as long as it has forks, and
keeps just the pages that they read. A block that is to write where its forks read hands its
pages over: to a new parent without an owner, of which it becomes one more fork.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from kvpool._checks import align_up
from kvpool.arena import MIN_ALIGNMENT, Arena, ArenaFork, Capability
from kvpool.errors import (
    AddressSpaceExhaustedError,
    ArenaError,
    ForkLimitError,
    InvalidSizeError,
    PoolExhaustedError,
)
from kvpool.pool._accounting import Accounting, Leaving, victims_of
from kvpool.pool._block import DRAINING, LIVE, MemoryBlock
from kvpool.pool._gain import AddressGain, PageGain
from kvpool.pool._pages import CommittedPages, StripeGeometry
from kvpool.pool._usage import Deallocation
from kvpool.stats import CopyReason

__all__ = ["ElasticAccounting"]

_log = logging.getLogger(__name__)


class ElasticAccounting(Accounting):
    """The accounts of an elastic pool.

    Not thread-safe: `MemoryPool` holds its lock around every call, and documents the methods
    that both have.

    Parameters
    ----------
    budget : int
        Bytes that may be committed; whole pages.
    arena : Arena
        With `Capability.ELASTIC`. Pages are decommitted under the caller's lock.
    """

    is_elastic = True

    def __init__(self, budget: int, arena: Arena) -> None:
        super().__init__(arena.info.size, arena.info.page_size)
        self.capacity = budget
        self._arena = arena
        self._page_size = arena.info.page_size
        # What must be done to the end once it has begun; doing it twice is as doing it once.
        self._redo: Callable[[], MemoryBlock | None] | None = None
        self._needs_commit = arena.info.needs_commit
        self._refusals: set[CopyReason] = set()  # reasons of copied forks that were logged

    @property
    def free(self) -> int:
        """Bytes that may still be committed."""
        return self.capacity - self._bytes_allocated + self._bytes_freed

    def resize(self, capacity: int) -> None:
        """Change the budget."""
        budget = capacity - capacity % self._page_size
        if not self._page_size <= budget <= self.allocator.capacity:
            raise InvalidSizeError(
                f"a capacity of {capacity} bytes is not between a page, {self._page_size}, and the "
                f"address space, {self.allocator.capacity}"
            )
        used = self.capacity - self.free
        if used > budget:
            raise self._shortage(
                self.capacity - budget, f"; {used} bytes are in use, more than {budget}"
            )
        self.capacity = budget

    def cost(self, geometry: StripeGeometry, tokens: int) -> int:
        """Return the bytes that an entry is charged with when it holds some tokens."""
        return geometry.bytes_in_pages(tokens, self._page_size)

    def could_hold(self, geometry: StripeGeometry, tokens: int) -> bool:
        """Tell whether an entry with `tokens` tokens fits into a pool without other blocks."""
        return super().could_hold(geometry, tokens) and geometry.nbytes <= self.allocator.capacity

    # -- blocks --------------------------------------------------------------------------

    def allocate(self, nbytes: int, alignment: int, owner: object = None) -> MemoryBlock:
        """Take a block all of whose pages count as committed."""
        self._check_budget(self.charge(max(nbytes, 1)))
        block = self._take(nbytes, alignment, owner)
        if self._needs_commit:
            self._find_room(block, [(0, nbytes)])
        block.charged = self.charge(nbytes)
        self._bytes_allocated += block.charged
        return self._admit(block)

    def reserve(self, geometry: StripeGeometry, owner: object = None) -> MemoryBlock:
        """Take a block of which no page is committed."""
        return self._reserve(CommittedPages(geometry, self._page_size), 0, 0, owner)

    def reserve_evicting(
        self,
        geometry: StripeGeometry,
        committed: int,
        victims: Iterable[MemoryBlock],
        deallocations: list[Deallocation] | None,
        owner: object = None,
        leaving: Leaving = None,
    ) -> tuple[MemoryBlock, list[MemoryBlock]]:
        """Reserve a block, with some of it committed, after the first victims have ended."""
        pages = CommittedPages(geometry, self._page_size)
        charge = pages.missing(None, 0, committed) if committed else 0
        chosen = self._choose(geometry.nbytes, MIN_ALIGNMENT, charge, victims)
        evicted = self._evict(chosen, deallocations, leaving)
        return self._reserve(pages, committed, charge, owner), evicted

    def _reserve(
        self, pages: CommittedPages, committed: int, charged: int, owner: object
    ) -> MemoryBlock:
        """Take a block of which the first bytes of each stripe are committed, and charged."""
        block = self._take(pages.geometry.nbytes, MIN_ALIGNMENT, owner)
        block.pages = pages
        if charged:
            if self._needs_commit:
                self._find_room(block, self._lacking(block, pages, None, committed))
            pages.commit(None, 0, committed)
            block.charged = charged
            self._bytes_allocated += charged
        return self._admit(block)

    def _take(self, nbytes: int, alignment: int, owner: object) -> MemoryBlock:
        """Begin a step: take addresses, of which nothing is charged yet. `_admit` ends the step."""
        self.step = self._bytes_allocated, self._bytes_freed
        try:
            offset = self.allocator.allocate(nbytes, alignment)
        except PoolExhaustedError as shortage:  # nothing has changed
            self.step = None
            raise self._lack_of_addresses(shortage.requested, "") from None
        return MemoryBlock(offset, nbytes, self.pool_id, owner)

    def _admit(self, block: MemoryBlock) -> MemoryBlock:
        self._allocations += 1
        self._blocks.add(block)
        self.step = None
        return block

    # -- pages ---------------------------------------------------------------------------

    def commit(self, block: MemoryBlock, group: int | None, start: int, end: int) -> bool:
        """Charge the pages for a write; return whether that took new ones."""
        pages = None
        try:
            if block.state is LIVE and block in self._blocks:
                pages = block.pages
                if start >= block.shared_bytes and (pages is None or pages.has(group, start, end)):
                    return False  # as for most tokens
        except (AttributeError, IndexError, TypeError, ValueError):
            pass  # a bad argument: the next lines name it
        self.require_live(block, "write to")
        group, start, end = block.checked_range(group, start, end)
        if pages is None:
            return False
        if start < block.shared_bytes:
            pages = self._split_off_shared(block, pages, group, start, end)
        missing = pages.missing(group, start, end)
        self._check_budget(missing)
        self.step = self._bytes_allocated, self._bytes_freed
        if missing and self._needs_commit:
            self._find_room(block, self._lacking(block, pages, group, end))
        self._bytes_allocated += missing
        block.charged += missing
        pages.commit(group, start, end)
        self.step = None
        return True

    def _lacking(
        self, block: MemoryBlock, pages: CommittedPages, group: int | None, end: int
    ) -> Iterator[tuple[int, int]]:
        """Yield offset and size of the arena's pages that a write up to `end` would commit.

        Writing a page of a fork commits one in its parent, if the parent has none there.
        """
        parent = None if block.parent is None else block.parent.pages
        for one in range(pages.geometry.groups) if group is None else (group,):
            held = 0 if parent is None else parent.committed_pages[one]
            first = max(pages.committed_pages[one], held)
            yield from pages.ranges(one, first, pages.pages(end))

    def _find_room(self, block: MemoryBlock, ranges: Iterable[tuple[int, int]]) -> None:
        """Have the arena find room for ranges of a block, or leave the arena as it was."""
        asked: list[tuple[int, int]] = []
        try:
            for offset, size in ranges:
                asked.append((offset, size))
                self._arena.commit(block.offset + offset, size)
        except BaseException:
            for offset, size in asked:
                self._decommit(block, offset, align_up(size, self._page_size))
            raise

    def trim(self, block: MemoryBlock, end: int) -> None:
        """Decommit the pages past `end` bytes of each stripe, if the block has no view."""
        pages = block.pages
        if pages is None or block.is_leased:
            return
        before, parent = block.charged, block.parent
        self._trimmed = self._bytes_trimmed
        self.step = self._bytes_allocated, self._bytes_freed
        if parent is None:
            self._decommit_from(block, max(pages.pages(end), block.shared_pages()))
        else:
            self._redo = partial(self._trim_fork, block, parent, pages, end)
            self._redo()
            self._redo = None
            self._uncharge(block, before - pages.charged)
            self._release_if_unused(parent)
        self._bytes_trimmed += before - block.charged
        self._trimmed = None
        self.step = None

    def _trim_fork(
        self, fork: MemoryBlock, parent: MemoryBlock, pages: CommittedPages, end: int
    ) -> None:
        # Stripe of a fork, in pages:
        # [0, page)                    stays; where `end` is inherited, it inherits less
        # [page, inherited)            was read from the parent, which may now free it
        # [max(page, inherited), ...)  the fork's own copies: decommitted in its mapping
        page = pages.pages(end)
        if end <= pages.inherited_bytes:
            pages.inherited_bytes, page = end, end // self._page_size
        # Also if the fork stays as it is: it may have written to inherited pages since.
        parent.share(fork, pages.inherited_bytes)
        own = max(page, pages.inherited_pages)
        for offset, size in pages.ranges_above(own):
            fork.decommit(offset, size)
        pages.inherited_pages = min(pages.inherited_pages, page)
        pages.cut(page)

    def erase_pages(self, start: int, end: int) -> tuple[int, int]:
        """Set the whole pages of a range to zero by decommitting them; return their range."""
        first = align_up(start, self._page_size)
        last = end // self._page_size * self._page_size
        if first >= last:
            return end, end
        self._arena.decommit(first, last - first)
        return first, last

    # -- forks ---------------------------------------------------------------------------

    def fork(self, block: MemoryBlock, end: int) -> tuple[MemoryBlock, int] | CopyReason:
        """Make a block that reads the first bytes of each stripe, or say why it must be a copy."""
        parent = block.parent or block
        if parent.pages is None:
            return CopyReason.WHOLE_BLOCK
        info = self._arena.info
        if Capability.FORK not in info.capabilities:
            return self._log_refusal(CopyReason.ARENA, f"the {info.backend} arena cannot fork")
        if self._forks >= info.fork_limit:
            text = f"the arena may have {info.fork_limit} forks at a time"
            return self._log_refusal(CopyReason.ARENA_LIMIT, text)
        shared = end
        if parent is not block and block.pages is not None:
            shared = min(end, block.pages.inherited_bytes)
        try:
            mapping = self._map(parent)
        except ForkLimitError as error:
            known = error.reason in set(CopyReason)
            reason = CopyReason(error.reason) if known else CopyReason.ARENA
            return self._log_refusal(reason, error)
        except ArenaError as error:
            return self._log_refusal(CopyReason.ARENA, error)
        self.step = self._bytes_allocated, self._bytes_freed
        child = MemoryBlock(parent.offset, parent.size, self.pool_id, block.owner)
        pages = CommittedPages(parent.pages.geometry, self._page_size, shared)
        child.become_child(parent, pages, mapping)
        self._forks += 1
        return self._admit(child), shared

    def _log_refusal(self, reason: CopyReason, text: object) -> CopyReason:
        """Log why forks are copies, once for each reason; return the reason."""
        if reason not in self._refusals:
            self._refusals.add(reason)
            _log.warning("forks are copies from now on: %s", text)
        return reason

    def trim_parent(self, block: MemoryBlock) -> None:
        """Decommit the parent's pages that writing to a fork committed there.

        The kernel fills a hole of the parent before it copies the page for the fork. Pages
        that the parent is charged with stay.
        """
        parent, pages = block.parent, block.pages
        if parent is None or pages is None or parent.pages is None:
            return
        trimmed = pages.parent_trimmed_pages
        for group, held in enumerate(pages.committed_pages):
            first = max(trimmed[group], parent.pages.committed_pages[group])
            for offset, size in pages.ranges(group, first, held):
                self._decommit(parent, offset, size)
            trimmed[group] = max(trimmed[group], held)

    def _map(self, parent: MemoryBlock) -> ArenaFork:
        return self._arena.fork(parent.offset, align_up(parent.size, self._page_size))

    def _split_off_shared(
        self, block: MemoryBlock, pages: CommittedPages, group: int | None, start: int, end: int
    ) -> CommittedPages:
        """Turn a block into a fork of what it held; views of that keep the new parent."""
        # Stripe of the block, in bytes:
        # [0, start)             the new parent's; the block reads it as a fork
        # [start, shared)        the new parent's; only the other forks read it
        # [shared, committed)    freed, unless a view shows it
        own = CommittedPages(pages.geometry, self._page_size, start)
        freed = 0 if block.is_leased else pages.bytes_above(block.shared_pages())
        self._check_budget(own.missing(group, start, end) - freed)
        self.step = self._bytes_allocated, self._bytes_freed
        parent, mapping = block.heir(), self._map(block)
        self._bytes_trimmed += parent.charged  # before: what follows will be done to the end
        self._redo = partial(block.hand_over, parent, own, mapping)
        self._redo()
        self._blocks.add(parent)
        self._redo = None
        self._draining.add(parent)
        self._forks += 1
        self._release_if_unused(parent)
        self.step = None
        return own

    # -- after an interrupt --------------------------------------------------------------

    def _finish_step(self) -> None:
        """Finish what must not stay half done, and forget forks that were not handed out."""
        if self._redo is not None:
            parent = self._redo()
            if parent is not None:
                self._blocks.add(parent)
            self._redo = None
        for block in self._blocks:
            for child in [one for one in block.children if one not in self._blocks]:
                block.disown(child)

    # -- making room ---------------------------------------------------------------------

    def make_room(
        self,
        nbytes: int,
        victims: Iterable[MemoryBlock],
        alignment: int,
        deallocations: list[Deallocation] | None = None,
        leaving: Leaving = None,
    ) -> list[MemoryBlock]:
        """Deallocate the first victims until `nbytes` may be committed."""
        charge = self.charge(align_up(nbytes, alignment))
        return self._evict(self._choose(0, alignment, charge, victims), deallocations, leaving)

    def _choose(
        self, nbytes: int, alignment: int, charge: int, victims: Iterable[MemoryBlock]
    ) -> list[MemoryBlock]:
        """Return the first victims after whose end both addresses and pages are free."""
        if charge <= self.free and (not nbytes or self.allocator.fits(nbytes, alignment)):
            return []
        pages = PageGain(charge - self.free)
        addresses = AddressGain(self.allocator, nbytes, alignment)
        size = self.charge(nbytes)
        if charge > self.capacity:
            raise self._shortage(charge, f", and the whole pool has {self.capacity}")
        if size > self.allocator.capacity:
            detail = f", and the whole pool has {self.allocator.capacity}"
            raise self._lack_of_addresses(size, detail)
        chosen: dict[MemoryBlock, None] = {}
        for block in victims_of(victims):
            try:
                is_new = block.state is LIVE and block in self._blocks and block not in chosen
            except AttributeError:  # not a block
                is_new = False
            if not is_new:
                self._refuse_victim(block)
            # Both are asked: a block may help with both.
            if block.is_leased or not pages.end(block) | addresses.end(block):
                continue
            chosen[block] = None
            if pages.is_enough and addresses.is_enough:
                return [one for one in chosen if pages.helped(one) or addresses.helped(one)]
        in_vain = f", and evicting all {len(chosen)} blocks that may go would not make room"
        if pages.is_enough:
            raise self._lack_of_addresses(size, in_vain)
        raise self._shortage(charge, in_vain)

    def _check_budget(self, nbytes: int) -> None:
        if nbytes > self.free:
            raise self._shortage(nbytes)

    def _lack_of_addresses(self, nbytes: int, detail: str) -> AddressSpaceExhaustedError:
        figures = nbytes, self.allocator.free_bytes, self.allocator.largest_free
        return AddressSpaceExhaustedError(*figures, f" of address space{detail}")

    # -- what is freed -------------------------------------------------------------------

    def _uncharge(self, block: MemoryBlock, nbytes: int) -> None:
        block.charged -= nbytes
        self._bytes_freed += nbytes

    def _decommit_from(self, block: MemoryBlock, page: int) -> None:
        """Decommit the pages of a block that is not a fork from index `page` of each stripe on."""
        pages = block.pages
        if pages is None:
            return
        freed = pages.bytes_above(page)
        if freed:
            for offset, size in pages.ranges_above(page):
                self._decommit(block, offset, size)
            pages.cut(page)
            self._uncharge(block, freed)

    def _decommit(self, block: MemoryBlock, offset: int, size: int) -> None:
        self._arena.decommit(block.offset + offset, size)

    def _give_back(self, block: MemoryBlock) -> bool:
        """Free what nothing needs of a draining block without a view; whether that is all."""
        parent = block.parent
        if parent is not None:
            self._uncharge(block, block.charged)
            self._forks -= parent.disown(block)
            self._remove(block)
            self._release_if_unused(parent)
            return True
        if block.children:
            self._decommit_from(block, block.shared_pages())
            return False
        # All pages, committed or not: a write through a fork may have committed some.
        self._decommit(block, 0, align_up(block.size, self._page_size))
        self._uncharge(block, block.charged)
        self.allocator.free(block.offset)
        self._remove(block)
        return True

    def _remove(self, block: MemoryBlock) -> None:
        self._blocks.remove(block)
        block.let_go()
        self._draining.discard(block)
        self._deallocations += 1

    def _release_if_unused(self, parent: MemoryBlock) -> None:
        """Free what nothing needs any more of a parent that has no owner."""
        if parent.state is DRAINING and not parent.is_leased:
            self._give_back(parent)
