"""What ending blocks of an elastic pool would give back, before any of them ends."""

from __future__ import annotations

from collections.abc import Collection

from kvpool.pool._block import MemoryBlock, is_leased

__all__ = ["EvictionGain", "kept_pages"]


def kept_pages(base: MemoryBlock, ended: Collection[MemoryBlock] = ()) -> int:
    """Return how many pages of each run of a base its forks read.

    Parameters
    ----------
    base : MemoryBlock
    ended : collection of MemoryBlock
        Forks that are not counted.
    """
    if base.runs is None:
        return 0
    shared = (nbytes for fork, nbytes in base._shares.items() if fork not in ended)
    return base.runs.pages(max(shared, default=0))


class EvictionGain:
    """Adds up what blocks give back that end one after the other, on paper."""

    def __init__(self) -> None:
        self._ended: set[MemoryBlock] = set()
        self._kept: dict[MemoryBlock, int] = {}  # bytes that remain charged to a base

    @staticmethod
    def is_empty(block: MemoryBlock) -> bool:
        """Tell whether the end of a block gives nothing back, now or after others."""
        return not block.charged and block.base is None and not block._shares

    def end(self, block: MemoryBlock) -> int:
        """Return the bytes that come back when a block ends after those that ended before.

        Parameters
        ----------
        block : MemoryBlock
            Live, without a view, and not ended before.
        """
        self._ended.add(block)
        if block.base is None:
            return self._base_gain(block)
        return block.charged + self._base_gain(block.base)

    def helped(self, block: MemoryBlock) -> bool:
        """Tell whether anything came back by the end of a block, then or with a later one.

        Forks whose base stays, and bases whose forks stay, may end for nothing.
        """
        base = block.base or block
        return (base is not block and block.charged > 0) or self._kept[base] < base.charged

    def _base_gain(self, base: MemoryBlock) -> int:
        before = self._kept.get(base, base.charged)
        self._kept[base] = after = min(before, self._needed(base))
        return before - after

    def _needed(self, base: MemoryBlock) -> int:
        """Return the bytes of a base that stay, by what has ended so far."""
        if is_leased(base) or not (base._ended or base in self._ended):
            return base.charged
        if base.runs is None:
            return 0
        return base.charged - base.runs.bytes_above(kept_pages(base, self._ended))
