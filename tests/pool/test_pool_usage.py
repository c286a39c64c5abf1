"""`MemoryPool.usage`: what each block costs, and what it shares."""

from __future__ import annotations

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import PoolClosedError
from kvpool.layout import KVLayout
from kvpool.pool._opening import ElasticPool
from kvpool.pool._pool import MemoryPool
from tests.support.marks import needs_pages

LAYOUT = KVLayout(2, 1, 128, "float16")
PAGE = 4096  # 16 tokens of a run
RUNS = 4


def say(entry: KVCacheEntry, tokens: int) -> None:
    ones = np.ones((2, 1, tokens, 128), np.float16)
    entry.extend(ones, ones)


def figures(pool: MemoryPool) -> list[tuple[int, int, bool, bool]]:
    """Pages of each stripe: charged, shared; then whether it is a fork, and live."""
    assert sum(usage.committed for usage in pool.usage()) == pool.stats().used
    unit = PAGE * RUNS
    return [
        (usage.committed // unit, usage.shared // unit, usage.is_fork, usage.is_live)
        for usage in pool.usage()
    ]


def test_whole_blocks(backend: str) -> None:
    with MemoryPool(1 << 20, backend) as pool:
        blocks = [pool.allocate(nbytes) for nbytes in (64, 100, 4096)]
        view = pool.view(blocks[1], np.uint8, 1)
        pool.deallocate(blocks[1])
        usages = pool.usage()
        assert [usage.block for usage in usages] == blocks
        assert [usage.committed for usage in usages] == [64, 128, 4096]
        assert [usage.is_live for usage in usages] == [True, False, True]
        assert not any(usage.is_fork or usage.shared for usage in usages)
        del view
        assert [usage.block for usage in pool.usage()] == [blocks[0], blocks[2]]
    with pytest.raises(PoolClosedError):
        pool.usage()


@needs_pages
@pytest.mark.parametrize("elastic_backend", ["mmap", "ctypes"])
def test_forks(elastic_backend: str) -> None:
    with ElasticPool(1 << 20, elastic_backend) as pool:
        parent = KVCacheEntry.create(pool, LAYOUT, 1 << 16, "parent")
        say(parent, 40)
        assert figures(pool) == [(3, 0, False, True)]
        fork = parent.fork("fork")
        assert figures(pool) == [(3, 3, False, True), (0, 3, True, True)]
        say(fork, 1)  # into the page in which the shared tokens end
        assert figures(pool) == [(3, 3, False, True), (1, 2, True, True)]
        say(parent, 20)
        assert figures(pool) == [(4, 3, False, True), (1, 2, True, True)]
        fork.truncate(16)
        assert figures(pool) == [(4, 1, False, True), (0, 1, True, True)]
        pool.deallocate(parent.block)
        assert figures(pool) == [(1, 1, False, False), (0, 1, True, True)]
        pool.deallocate(fork.block)
        assert figures(pool) == []


@needs_pages
def test_a_layer_that_is_ahead_has_pages_of_its_own_first() -> None:
    with ElasticPool(1 << 20, "mmap") as pool:
        parent = KVCacheEntry.create(pool, LAYOUT, 1 << 16, "parent")
        say(parent, 40)
        fork = parent.fork("fork")
        one = np.ones((1, 128), np.float16)
        fork.append(0, one, one)
        (_, usage) = pool.usage()
        assert usage.committed == 2 * PAGE
        assert usage.shared == (2 * 2 + 2 * 3) * PAGE
