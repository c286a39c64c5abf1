"""`PageGain` and `AddressGain`: what the end of blocks would free, before any of them ends."""

from __future__ import annotations

from kvpool._checks import align_up
from kvpool.pool._allocator import OffsetAllocator
from kvpool.pool._block import DRAINING, MemoryBlock

__all__ = ["AddressGain", "PageGain"]


class PageGain:
    """Adds up the pages that are freed if blocks end one after the other; nothing changes.

    Parameters
    ----------
    wanted : int
        Bytes.

    Attributes
    ----------
    freed : int
        Bytes that are freed by the blocks that have ended.
    """

    def __init__(self, wanted: int) -> None:
        self.freed = 0
        self._wanted = wanted
        self._ended: set[MemoryBlock] = set()
        self._kept: dict[MemoryBlock, int] = {}  # bytes that remain charged to a parent

    @property
    def is_enough(self) -> bool:
        """Whether the wanted bytes are free."""
        return self.freed >= self._wanted

    def end(self, block: MemoryBlock) -> bool:
        """End a block, if pages are still wanted.

        Parameters
        ----------
        block : MemoryBlock
            Live, without a view, and not ended before.

        Returns
        -------
        bool
            False if the end of this block never frees a page.
        """
        if self.freed >= self._wanted or (not block.charged and block.is_alone):
            return False
        self._ended.add(block)
        parent = block.parent
        if parent is not None:
            self.freed += block.charged
        self.freed += self._freed_of(parent or block)
        return True

    def helped(self, block: MemoryBlock) -> bool:
        """Tell whether the end of `block` frees pages, alone or with the other ended blocks.

        A fork frees nothing of its parent while the parent stays, and a parent frees nothing
        that a remaining fork reads; such blocks need not be evicted.
        """
        if block not in self._ended:
            return False
        parent = block.parent or block
        return (parent is not block and block.charged > 0) or self._kept[parent] < parent.charged

    def _freed_of(self, parent: MemoryBlock) -> int:
        before = self._kept.get(parent, parent.charged)
        self._kept[parent] = after = min(before, self._needed_of(parent))
        return before - after

    def _needed_of(self, parent: MemoryBlock) -> int:
        """Return the bytes of a parent that stay, by the blocks that have ended so far."""
        if parent.is_leased or not (parent.state is DRAINING or parent in self._ended):
            return parent.charged
        if parent.pages is None:
            return 0
        return parent.charged - parent.pages.bytes_above(parent.shared_pages(self._ended))


class AddressGain:
    """Joins the addresses that are freed if blocks end one after the other; nothing changes.

    Parameters
    ----------
    allocator : OffsetAllocator
    nbytes : int
        Bytes wanted in one range; 0: none.
    alignment : int
    """

    def __init__(self, allocator: OffsetAllocator, nbytes: int, alignment: int) -> None:
        self.is_enough = not nbytes or allocator.fits(nbytes, alignment)
        self._size = align_up(nbytes, allocator.granule)
        self._alignment = alignment
        self._plan = None if self.is_enough else allocator.free_plan()
        self._ended: set[MemoryBlock] = set()

    def end(self, block: MemoryBlock) -> bool:
        """End a block, if addresses are still wanted; return whether that frees any."""
        if self.is_enough or self._plan is None or not block.is_alone:
            return False
        start, end = self._plan.free(block.offset)
        self._ended.add(block)
        self.is_enough = align_up(start, self._alignment) + self._size <= end
        return True

    def helped(self, block: MemoryBlock) -> bool:
        """Tell whether the block is one of those that ended for addresses."""
        return block in self._ended
