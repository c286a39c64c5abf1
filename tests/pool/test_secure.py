"""No block shows an earlier session's bytes; a secure pool has none of them left."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import PoolExhaustedError
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.pool._block import Bytes, MemoryBlock
from kvpool.pool._opening import ElasticPool, open_pool
from kvpool.pool._pool import MemoryPool
from tests.support.arenas import all_bytes
from tests.support.marks import needs_pages
from tests.support.sessions import key_of

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=64, dtype="int8")
CASES = [("numpy", False), ("mmap", False), ("ctypes", False), ("mmap", True), ("ctypes", True)]
cases = pytest.mark.parametrize(("backend", "elastic"), CASES)

pytestmark = needs_pages


def free_bytes_are_zero(pool: MemoryPool, content: Bytes) -> bool:
    """Look at every byte of the arena that no block has."""
    return not any(
        content[offset : offset + size].any()
        for offset, size, block in pool.ranges()
        if block is None
    )


def churn(pool: MemoryPool, draws: random.Random, secure: bool) -> None:
    """Allocate, fill and give back; every new block must read zero."""
    data, blocks = all_bytes(pool), list[MemoryBlock]()
    for _ in range(300):
        if blocks and draws.random() < 0.45:
            pool.deallocate(blocks.pop(draws.randrange(len(blocks))))
            if secure:
                assert free_bytes_are_zero(pool, data)
            continue
        try:
            block = pool.allocate(draws.randrange(1, 30_000))
        except PoolExhaustedError:
            continue
        content = pool.lease(block)
        assert not content.any()
        content[:] = draws.randrange(1, 256)
        del content
        blocks.append(block)


@cases
@pytest.mark.parametrize("secure", [False, True])
def test_new_blocks_read_zero(backend: str, elastic: bool, secure: bool) -> None:
    options: dict[str, Any] = {"address_space": 1 << 20} if elastic else {}
    with open_pool(1 << 18, backend, elastic, secure=secure, **options) as pool:
        churn(pool, random.Random(1), secure or elastic)
        pool.check_integrity()


def test_bytes_stay_in_a_pool_that_is_not_secure() -> None:
    """Which shows that the search finds what is there."""
    with MemoryPool(1 << 16, "numpy") as pool:
        data, block = all_bytes(pool), pool.allocate(5000)
        pool.lease(block)[:] = 7
        pool.deallocate(block)
        assert not free_bytes_are_zero(pool, data)
        assert not pool.lease(pool.allocate(1 << 16)).any()


@cases
def test_a_lease_defers_the_end_of_the_bytes(backend: str, elastic: bool) -> None:
    options: dict[str, Any] = {"address_space": 1 << 20} if elastic else {}
    with open_pool(1 << 18, backend, elastic, secure=True, **options) as pool:
        data, block = all_bytes(pool), pool.allocate(5000)
        view = pool.view(block, np.uint8, 5000)
        view[:] = 7
        assert not pool.deallocate(block)
        assert view.all()
        del view
        assert pool.stats().used == 0
        assert free_bytes_are_zero(pool, data)


@cases
def test_sessions_leave_nothing(backend: str, elastic: bool) -> None:
    """Sessions come, fork, grow, shrink and go; each writes one byte of its own everywhere."""
    draws = random.Random(3)
    options: dict[str, Any] = {"address_space": 1 << 22} if elastic else {}
    with KVCacheManager(
        *(1 << 18, backend, LAYOUT), elastic=elastic, secure=True, receipts=False, **options
    ) as manager:
        data = all_bytes(manager.pool)
        for step in range(250):
            key = key_of(draws.randrange(8))
            entry = manager.get_or_create_cache(key, draws.choice([20, 100]))
            room = entry.max_context_length - entry.token_count
            action = draws.choice(["write", "write", "fork", "drop", "remove"])
            if action == "write" and room:
                tokens = np.full((2, 2, draws.randint(1, room), 64), 1 + step % 100, np.int8)
                entry.extend(tokens, tokens)
            elif action == "drop":
                entry.truncate(draws.randint(0, entry.token_count))
            elif action == "remove":
                manager.remove_cache_entry(key)
            elif action == "fork":
                new_key = key_of(draws.randrange(8, 12))
                manager.remove_cache_entry(new_key)
                manager.fork_cache_entry(key, new_key)
            del entry
            assert free_and_unowned_bytes_are_zero(manager.pool, data)
        for key in manager.session_keys():
            manager.remove_cache_entry(key)
        assert not data.any()
        assert manager.pool.stats().reserved == 0


def free_and_unowned_bytes_are_zero(pool: MemoryPool, content: Bytes) -> bool:
    """As `free_bytes_are_zero`, but for what forks still read of removed sessions."""
    kept = {usage.block.offset for usage in pool.usage() if not usage.is_live}
    return not any(
        content[offset : offset + size].any()
        for offset, size, block in pool.ranges()
        if block is None and offset not in kept
    )


def test_a_new_session_reads_zero_behind_its_tokens() -> None:
    with ElasticPool(1 << 20, "mmap", address_space=1 << 21) as pool:
        for value in range(1, 20):
            entry = KVCacheEntry.create(pool, LAYOUT, 1000, "one")
            assert not entry.data().any()
            pool.deallocate(entry.block)
            entry = KVCacheEntry.create(pool, LAYOUT, 1000, "two")
            tokens = np.full((2, 2, 500, 64), value, np.int8)
            entry.extend(tokens, tokens)
            pool.deallocate(entry.block)
