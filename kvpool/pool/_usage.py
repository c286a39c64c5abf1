"""Figures of one block: `BlockUsage`, what it costs, and `Deallocation`, what its end freed."""

from __future__ import annotations

from dataclasses import dataclass

from kvpool.pool._block import LIVE, MemoryBlock
from kvpool.stats import MemoryStats

__all__ = ["BlockUsage", "Deallocation", "block_usage"]


@dataclass(frozen=True, slots=True)
class Deallocation:
    """The figures of a pool right before and right after one block was deallocated.

    Attributes
    ----------
    block : MemoryBlock
    charged : int
        Bytes that the block was charged with. ``before.used - after.used`` bytes are free
        now; the others are freed with the last view or fork that needs them.
    before, after : MemoryStats
        Nothing else happened to the pool between the two.
    """

    block: MemoryBlock
    charged: int
    before: MemoryStats
    after: MemoryStats


@dataclass(frozen=True, slots=True)
class BlockUsage:
    """What one block costs, and what it shares; sizes in bytes.

    Attributes
    ----------
    block : MemoryBlock
        A fork has the same `offset` and `size` as its parent.
    committed : int
        What the pool charges for the block. The sum over all blocks is `MemoryStats.used`.
    shared : int
        Of a block with forks: the pages that the forks read, a part of `committed`. Of a
        fork: the pages that it reads from its parent, which are not part of its `committed`.
    is_fork : bool
    is_live : bool
        False if the block is draining: it was deallocated, and a view or a fork needs it.
    """

    block: MemoryBlock
    committed: int
    shared: int
    is_fork: bool
    is_live: bool


def block_usage(block: MemoryBlock) -> BlockUsage:
    """Return the figures of a block; the caller holds the lock of its pool."""
    is_fork = block.is_fork
    shared = _read_from_parent(block) if is_fork else _read_by_children(block)
    return BlockUsage(block, block.charged, shared, is_fork, block.state is LIVE)


def _read_from_parent(fork: MemoryBlock) -> int:
    pages = fork.pages
    if pages is None:
        return 0
    # The page in which the inherited bytes end is the fork's own in the groups that it wrote.
    whole, touched = pages.inherited_pages, pages.pages(pages.inherited_bytes)
    count = sum(whole if held > whole else touched for held in pages.committed_pages)
    return count * pages.geometry.stripes_per_group * pages.page_size


def _read_by_children(parent: MemoryBlock) -> int:
    if parent.pages is None:
        return 0
    return parent.charged - parent.pages.bytes_above(parent.shared_pages())
