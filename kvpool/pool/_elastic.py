"""The books of an elastic pool: what is charged are committed pages, not ranges.

A *base* is a block whose pages forks show. It outlives its owner as long as it has forks, and
keeps just the pages that they read. A block that is to write where its forks read parts from
its pages: they become a base without an owner, of which it is one more fork.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence

from kvpool._checks import align_up
from kvpool.arena import Arena, ArenaFork
from kvpool.errors import (
    AddressSpaceExhaustedError,
    ArenaError,
    ForkLimitError,
    IntegrityError,
    PoolExhaustedError,
)
from kvpool.pool._accounting import BlockTable
from kvpool.pool._block import MemoryBlock, is_leased
from kvpool.pool._deallocation import Release
from kvpool.pool._eviction_gain import EvictionGain, kept_pages
from kvpool.pool._pages import PageRuns, RunGeometry
from kvpool.stats import MemoryStats

__all__ = ["ElasticTable"]

_log = logging.getLogger(__name__)


class ElasticTable(BlockTable):
    """The blocks of one elastic pool.

    Not thread-safe: `ElasticPool` holds its lock around every call, and documents them.

    Parameters
    ----------
    budget : int
        Bytes that may be committed; whole pages.
    arena : Arena
        With `Capability.ELASTIC`. Pages are given back under the caller's lock.
    """

    def __init__(self, budget: int, arena: Arena) -> None:
        super().__init__(arena.info.size, arena.info.page_size)
        self._budget = budget
        self._arena = arena
        self._page_size = arena.info.page_size
        self._needs_commit = arena.info.needs_commit
        self._bytes_trimmed = 0
        self._forks = 0
        self._refusals: set[str] = set()  # reasons of copied forks that were logged

    @property
    def capacity(self) -> int:
        """Bytes that may be committed."""
        return self._budget

    @property
    def free(self) -> int:
        """Bytes that may still be committed."""
        return self._budget - self.used

    # -- blocks --------------------------------------------------------------------------

    def allocate(self, nbytes: int, alignment: int) -> MemoryBlock:
        """Take a block all of whose pages count as committed."""
        self._check_budget(self.charge(max(nbytes, 1)))
        with _addresses_named():
            block = super().allocate(nbytes, alignment)
        if self._needs_commit:
            try:
                self._arena.commit(block.offset, block.size)
            except BaseException:
                self.deallocate(block)
                raise
        return block

    def reserve(self, geometry: RunGeometry) -> MemoryBlock:
        """Take a block of which nothing is committed."""
        nbytes = geometry.nbytes
        with _addresses_named():
            offset = self.allocator.allocate(nbytes)
        block = MemoryBlock(offset, nbytes, self.pool_id)
        block.runs = PageRuns(geometry, self._page_size)
        self._admit(block)
        return block

    def commit(self, block: MemoryBlock, groups: Sequence[int], start: int, end: int) -> None:
        """Charge what writing from `start` to `end` in the runs of some groups needs."""
        runs = block.runs
        if runs is None:
            return
        if start < block.lent:
            runs = self._part(block, runs, groups, start, end)
        missing = runs.missing(groups, start, end)
        if missing and self._needs_commit:
            self._check_budget(missing)
            self._find_room(block, runs, groups, end)
        self._charge(block, missing)
        runs.commit(groups, start, end)

    def _find_room(
        self, block: MemoryBlock, runs: PageRuns, groups: Sequence[int], end: int
    ) -> None:
        """Have the arena find room for the pages that some groups lack, or leave it as it was.

        Writing a page of a fork commits one in its base, if the base has none there.
        """
        parent = None if block.base is None else block.base.runs
        asked: list[tuple[int, int]] = []
        try:
            for group in groups:
                first = max(runs.levels[group], 0 if parent is None else parent.levels[group])
                for offset, size in runs.ranges(group, first, runs.pages(end)):
                    asked.append((offset, size))
                    self._arena.commit(block.offset + offset, size)
        except BaseException:
            for offset, size in asked:
                self._decommit(block, offset, size)
            raise

    def trim(self, block: MemoryBlock, end: int) -> None:
        """Give back what lies behind the first `end` bytes of each run; nobody views it."""
        runs = block.runs
        if runs is None:
            return
        before = block.charged
        if block.base is None:
            self._cut(block, max(runs.pages(end), kept_pages(block)))
        else:
            self._cut_fork(block, block.base, runs, end)
        self._bytes_trimmed += before - block.charged

    # -- forks ---------------------------------------------------------------------------

    def fork(self, block: MemoryBlock, end: int) -> tuple[MemoryBlock, int] | None:
        """Make a block that shows the first bytes of each run; None where it must be a copy."""
        base = block.base or block
        if base.runs is None:
            return None
        limit = self._arena.info.fork_limit
        if self._forks >= limit:
            self._log_refusal(ArenaError(f"the arena may have {limit} forks at a time"))
            return None
        shared = end if block.base is None or block.runs is None else min(end, block.runs.shown)
        child = MemoryBlock(base.offset, base.size, self.pool_id)
        try:
            child._fork = self._map(base)
        except ArenaError as error:  # a limit of the process, or an arena that cannot fork
            self._log_refusal(error)
            return None
        self._attach(child, base, PageRuns(base.runs.geometry, self._page_size, shared))
        self._admit(child)
        return child, shared

    def _log_refusal(self, error: ArenaError) -> None:
        """Log why forks are copies, once for each reason."""
        reason = error.reason if isinstance(error, ForkLimitError) else type(error).__name__
        if reason not in self._refusals:
            self._refusals.add(reason)
            _log.warning("forks are copies from now on: %s", error)

    def settle(self, block: MemoryBlock) -> None:
        """Give back pages that writing through a fork committed in its base.

        The kernel fills a hole of the base before it copies the page for the fork. Pages
        that the base is charged with stay.
        """
        base, runs = block.base, block.runs
        if base is None or runs is None or base.runs is None:
            return
        for group, level in enumerate(runs.levels):
            first = max(runs.settled[group], base.runs.levels[group])
            for offset, size in runs.ranges(group, first, level):
                self._decommit(base, offset, size)
            runs.settled[group] = max(runs.settled[group], level)

    def _map(self, base: MemoryBlock) -> ArenaFork:
        return self._arena.fork(base.offset, align_up(base.size, self._page_size))

    def _attach(self, fork: MemoryBlock, base: MemoryBlock, runs: PageRuns) -> None:
        fork.base, fork.runs = base, runs
        base.add_fork(fork, runs.shown)
        self._forks += 1

    def _part(
        self, block: MemoryBlock, runs: PageRuns, groups: Sequence[int], start: int, end: int
    ) -> PageRuns:
        """Turn a block into a fork of what it held; views of that keep the base."""
        own = PageRuns(runs.geometry, self._page_size, start)
        given_back = 0 if is_leased(block) else runs.bytes_above(kept_pages(block))
        self._check_budget(own.missing(groups, start, end) - given_back)
        mapping = self._map(block)
        base = MemoryBlock(block.offset, block.size, self.pool_id)
        base.runs, base.charged, base._shares = runs, block.charged, block._shares
        base._ended = True
        self._bytes_trimmed += base.charged
        for fork in base._shares:
            fork.base = base
        base._root = block._root
        if base._root is not None:
            base._root.block = base
        block._root, block._fork, block._shares, block.charged = None, mapping, {}, 0
        self._attach(block, base, own)
        self._parting.add(base)
        self._tidy(base)
        return own

    # -- making room ---------------------------------------------------------------------

    def make_room(
        self,
        nbytes: int,
        victims: Iterable[MemoryBlock],
        alignment: int,
        releases: list[Release] | None = None,
    ) -> list[MemoryBlock]:
        """Deallocate the first victims until `nbytes` may be committed."""
        size = self.charge(align_up(nbytes, alignment))
        if size > self._budget:
            self._refuse_room(size, f", and the whole pool has {self._budget}")
        gain = EvictionGain()
        chosen: list[MemoryBlock] = []
        missing = size - self.free
        for block in victims if missing > 0 else ():
            self.require_live(block, "evict")
            if is_leased(block) or gain.is_empty(block):
                continue
            chosen.append(block)
            missing -= gain.end(block)
            if missing <= 0:
                break
        if missing > 0:
            count = len(chosen)
            self._refuse_room(
                size, f", and evicting all {count} blocks that may go would not make room"
            )
        chosen = [block for block in chosen if gain.helped(block)]
        for victim in chosen:
            self.deallocate(victim, releases)
        return chosen

    def make_space(
        self,
        nbytes: int,
        victims: Iterable[MemoryBlock],
        alignment: int,
        releases: list[Release] | None = None,
    ) -> list[MemoryBlock]:
        """Deallocate the first victims until a range of `nbytes` is free."""
        alone = (block for block in victims if block.base is None and not block._shares)
        return super().make_space(nbytes, alone, alignment, releases)

    # -- the whole -----------------------------------------------------------------------

    def clear(self) -> None:
        """Forget all blocks, and let go of the mappings of forks, which views keep."""
        for block in self._live | self._parting:
            block._fork = None
            block._shares.clear()
        self._forks = 0
        super().clear()

    def stats(self) -> MemoryStats:
        """Return the figures of this moment."""
        allocator = self.allocator
        return MemoryStats(
            capacity=self._budget,
            used=self.used,
            free=self.free,
            largest_free=min(self.free, allocator.largest_free),
            live_blocks=len(self._live),
            parting_blocks=len(self._parting),
            allocations=self._allocations,
            deallocations=self._deallocations,
            bytes_allocated=self._bytes_allocated,
            bytes_freed=self._bytes_freed,
            reserved=allocator.used_bytes,
            address_space=allocator.capacity,
            bytes_trimmed=self._bytes_trimmed,
            forks=self._forks,
            copied_forks=self.copied_forks,
        )

    def _check_charges(self) -> None:
        """Prove that each block is charged with its pages, and every fork has its base."""
        blocks = self._live | self._parting
        for block in blocks:
            expected = self.charge(block.size) if block.runs is None else block.runs.charged
            if block.charged != expected:
                raise IntegrityError(f"{block!r} is charged {block.charged}, has {expected}")
            for fork in block._shares:
                if fork not in blocks or fork.base is not block:
                    raise IntegrityError(f"{block!r} is the base of {fork!r}, which is not a fork")
            shown = block.runs.shown if block.runs is not None else 0
            if block.base is not None and block.base._shares.get(block, -1) < shown:
                raise IntegrityError(f"{block!r} is a fork that shows more than its base knows")
        total = sum(block.charged for block in blocks)
        if total != self.used or self.used > self._budget:
            raise IntegrityError(f"{total} bytes charged, {self.used} used of {self._budget}")
        if self._forks != sum(len(block._shares) for block in blocks):
            raise IntegrityError(f"{self._forks} forks by count")

    # -- pages ---------------------------------------------------------------------------

    def _charge(self, block: MemoryBlock, nbytes: int) -> None:
        if nbytes:
            self._check_budget(nbytes)
            block.charged += nbytes
            self._bytes_allocated += nbytes

    def _check_budget(self, nbytes: int) -> None:
        if nbytes > self.free:
            self._refuse_room(nbytes, "")

    def _refuse_room(self, nbytes: int, detail: str) -> None:
        stats = self.stats()
        raise PoolExhaustedError(nbytes, stats.free, stats.largest_free, detail)

    def _uncharge(self, block: MemoryBlock, nbytes: int) -> None:
        block.charged -= nbytes
        self._bytes_freed += nbytes

    def _cut(self, block: MemoryBlock, page: int) -> None:
        """Give back the pages of a base from `page` of each run on."""
        runs = block.runs
        if runs is None:
            return
        freed = runs.bytes_above(page)
        if freed:
            for offset, size in runs.ranges_above(page):
                self._decommit(block, offset, size)
            runs.cut(page)
            self._uncharge(block, freed)

    def _cut_fork(self, fork: MemoryBlock, base: MemoryBlock, runs: PageRuns, end: int) -> None:
        """Give back a fork's own pages behind `end`; below what it shows it shows less."""
        page = runs.pages(end)
        if end <= runs.shown:
            runs.shown, page = end, end // self._page_size
        base._shares[fork] = runs.shown  # less than before, too, where the fork wrote again
        for offset, size in runs.ranges_above(max(page, runs.floor)):
            if fork._fork is not None:
                fork._fork.decommit(offset, size)
        self._uncharge(fork, runs.bytes_above(max(page, runs.floor)))
        runs.floor = min(runs.floor, page)
        runs.cut(page)
        self._tidy(base)

    def _decommit(self, block: MemoryBlock, offset: int, size: int) -> None:
        self._arena.decommit(block.offset + offset, size)

    def _erase(self, block: MemoryBlock) -> None:
        """Give back all pages of a block, committed or not."""
        self._decommit(block, 0, align_up(block.size, self._page_size))

    # -- the end of a block --------------------------------------------------------------

    def _give_back(self, block: MemoryBlock) -> bool:
        if block.base is not None:
            self._end_fork(block, block.base)
        elif block._shares:
            self._cut(block, kept_pages(block))
            return False
        else:
            self._erase(block)
            self._uncharge(block, block.charged)
            self.allocator.free(block.offset)
        self._parting.remove(block)
        self._deallocations += 1
        return True

    def _end_fork(self, fork: MemoryBlock, base: MemoryBlock) -> None:
        self._uncharge(fork, fork.charged)
        fork._fork = None
        del base._shares[fork]
        self._forks -= 1
        self._tidy(base)

    def _tidy(self, base: MemoryBlock) -> None:
        """Give back what nobody needs any more of a base that has lost its owner."""
        if base in self._parting and not is_leased(base):
            self._give_back(base)


@contextlib.contextmanager
def _addresses_named() -> Iterator[None]:
    """Say of a shortage that the allocator reports that it is one of addresses, not of pages."""
    try:
        yield
    except PoolExhaustedError as shortage:
        figures = shortage.requested, shortage.free, shortage.largest_free
        raise AddressSpaceExhaustedError(*figures, " of address space") from None
