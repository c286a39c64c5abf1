"""`Release`: the figures of a pool around the end of one block."""

from __future__ import annotations

from dataclasses import dataclass

from kvpool.pool._block import MemoryBlock
from kvpool.stats import MemoryStats

__all__ = ["Release"]


@dataclass(frozen=True, slots=True)
class Release:
    """A block was deallocated; nothing else happened to the pool between the two moments.

    Attributes
    ----------
    block : MemoryBlock
    charged : int
        Bytes that the block was charged with. ``before.used - after.used`` of them are free
        now, all or none: the others follow with the last view.
    before, after : MemoryStats
    """

    block: MemoryBlock
    charged: int
    before: MemoryStats
    after: MemoryStats
