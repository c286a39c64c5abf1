"""Blocks with a pattern in them, for tests of what views show."""

from __future__ import annotations

import numpy as np

from kvpool.pool import MemoryBlock, MemoryPool

SIZE = 4096
CAPACITY = 4 * SIZE
PATTERN = np.arange(SIZE, dtype=np.uint32).astype(np.uint8)


def block_with_pattern(pool: MemoryPool) -> MemoryBlock:
    block = pool.allocate(SIZE)
    pool.lease(block)[:] = PATTERN
    return block


def overwrite_the_rest(pool: MemoryPool) -> None:
    """Allocate all that the pool has, write to it, and give it back."""
    blocks = []
    while (largest := pool.stats().largest_free) > 0:
        blocks.append(pool.allocate(largest))
        pool.lease(blocks[-1])[:] = 255
    for block in blocks:
        pool.deallocate(block)
