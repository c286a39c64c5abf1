"""`BlockUsage`: what one block of a pool costs, and what it shares."""

from __future__ import annotations

from dataclasses import dataclass

from kvpool.pool._block import MemoryBlock
from kvpool.pool._eviction_gain import kept_pages

__all__ = ["BlockUsage", "block_usage"]


@dataclass(frozen=True, slots=True)
class BlockUsage:
    """What one block costs, and what it shares; sizes in bytes.

    Attributes
    ----------
    block : MemoryBlock
        Its `offset` and `size` say which addresses it has; those of a fork are its base's.
    committed : int
        What the pool charges for it. Over all blocks this adds up to `MemoryStats.used`.
    shared : int
        Of a block that forks read: the pages that they read, a part of `committed`. Of a
        fork: the pages that it shows of its base, which are no part of its `committed`.
    is_fork : bool
    is_live : bool
        False for one that was deallocated and waits for its last view or fork.
    """

    block: MemoryBlock
    committed: int
    shared: int
    is_fork: bool
    is_live: bool


def block_usage(block: MemoryBlock, is_live: bool) -> BlockUsage:
    """Return the figures of a block; the caller holds the lock of its pool."""
    is_fork = block.base is not None
    shared = _shown(block) if is_fork else _read_by_forks(block)
    return BlockUsage(block, block.charged, shared, is_fork, is_live)


def _shown(fork: MemoryBlock) -> int:
    """Return the bytes of the pages that a fork shows of its base, and has not written."""
    runs = fork.runs
    if runs is None:
        return 0
    # The page in which the shown tokens end is the fork's own in the groups that went on.
    whole, touched = runs.floor, runs.pages(runs.shown)
    pages = sum(whole if level > whole else touched for level in runs.levels)
    return pages * runs.geometry.runs_per_group * runs.page_size


def _read_by_forks(base: MemoryBlock) -> int:
    if base.runs is None:
        return 0
    return base.charged - base.runs.bytes_above(kept_pages(base))
