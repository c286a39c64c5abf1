"""The checks of the plan "KV Cache Pool v2" under its names, and the bugs of its first life.

An earlier implementation of that plan had the faults that the second half of this file is
named after. Gate results that were typed by hand are the business of `tests/gates`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import (
    DoubleFreeError,
    EntryRemovedError,
    ForeignBlockError,
    PoolExhaustedError,
    StaleBlockError,
)
from kvpool.eviction.base import EvictionReason
from kvpool.manager import KVCacheManager
from kvpool.pool import MemoryPool
from tests.support.sessions import LAYOUT, Clock, key_of, random_tokens, same_bits


def test_evict_returns_block_to_pool(backend: str) -> None:
    manager = KVCacheManager(1024, backend, elastic=False)
    key1, key2 = CacheKey("test", 1), CacheKey("test2", 2)
    offset = manager.allocate_entry(key1, 64).block.offset
    stats = manager.get_stats()
    assert (stats.active_entries, stats.evictions, stats.used_memory) == (1, 0, 64)
    assert manager.remove_cache_entry(key1) is not None
    stats = manager.get_stats()
    assert (stats.active_entries, stats.evictions, stats.used_memory) == (0, 1, 0)
    assert manager.allocate_entry(key2, 64).block.offset == offset
    stats = manager.get_stats()
    assert (stats.active_entries, stats.evictions, stats.used_memory) == (1, 1, 64)
    manager.check_integrity()


def test_evict_nonexistent_key_returns_none(backend: str) -> None:
    manager = KVCacheManager(1024, backend, elastic=False)
    before = manager.get_stats()
    assert manager.remove_cache_entry(CacheKey("nonexistent", 999)) is None
    assert manager.get_stats() == before
    assert (before.evictions, before.active_entries, before.hits, before.misses) == (0, 0, 0, 0)


def test_multiple_evictions_stats_consistency(backend: str) -> None:
    manager = KVCacheManager(2048, backend, elastic=False)
    keys = [CacheKey("test", number) for number in range(5)]
    for key in keys:
        manager.allocate_entry(key, 128)
    assert manager.get_stats().active_entries == 5
    for gone, key in enumerate(keys, 1):
        manager.remove_cache_entry(key)
        stats = manager.get_stats()
        assert (stats.evictions, stats.active_entries) == (gone, 5 - gone)
        assert stats.used_memory == 128 * (5 - gone)
        assert stats.evictions_by_reason[EvictionReason.MANUAL] == gone
        manager.check_integrity()
    assert len(manager) == 0


def test_allocate_evict_reallocate_cycle(backend: str) -> None:
    manager = KVCacheManager(512, backend, elastic=False)
    full = [CacheKey("fill", number) for number in range(8)]
    offsets = [manager.allocate_entry(key, 64).block.offset for key in full]
    assert sorted(offsets) == list(range(0, 512, 64))
    for key in full[:4]:
        manager.remove_cache_entry(key)
    new = [CacheKey("new", number) for number in range(4)]
    again = [manager.allocate_entry(key, 64).block.offset for key in new]
    assert sorted(again) == sorted(offsets[:4])
    stats = manager.get_stats()
    assert (stats.allocations, stats.evictions, stats.active_entries) == (12, 4, 8)
    assert manager.session_keys() == [*full[4:], *new]
    manager.check_integrity()


# -- what an earlier implementation did --------------------------------------------------


def test_bug_ttl_freed_a_made_up_offset_and_so_aliased_a_live_session(backend: str) -> None:
    """Expiry gives back the bytes of the session that expired, and of no other."""
    clock = Clock()
    with KVCacheManager(4096, backend, LAYOUT, clock=clock, elastic=False) as manager:
        first = manager.create_cache_entry(key_of("at offset 0"), 2)
        tokens = random_tokens(LAYOUT, 2)
        first.extend(*tokens)
        expiring = manager.create_cache_entry(key_of("expires"), 2, ttl=5)
        assert (first.block.offset, expiring.block.offset > 0) == (0, True)
        clock.now += 5
        assert manager.evict_expired() == [key_of("expires")]
        fresh = manager.create_cache_entry(key_of("new"), 2)
        assert fresh.block.offset == expiring.block.offset
        fresh.data()[:] = 0xFF
        assert same_bits(first.keys(), tokens.keys)
        assert same_bits(first.values(), tokens.values)
        manager.check_integrity()


def test_bug_a_double_free_was_accepted(backend: str) -> None:
    with MemoryPool(4096, backend) as pool, MemoryPool(4096, backend) as other_pool:
        block = pool.allocate(64)
        pool.deallocate(block)
        successor = pool.allocate(64)
        before = pool.stats()
        for free in (pool.deallocate, pool.reclaim):
            with pytest.raises(StaleBlockError, match=f"offset={block.offset}"):
                free(block)
        with pytest.raises(DoubleFreeError):
            pool.deallocate(block)
        with pytest.raises(ForeignBlockError):
            other_pool.deallocate(successor)
        assert pool.stats() == before
        pool.check_integrity()


def test_bug_one_small_hole_was_called_half_fragmented(backend: str) -> None:
    """One hole of 64 bytes beside a megabyte is next to nothing."""
    with KVCacheManager(1 << 20, backend, elastic=False) as manager:
        manager.allocate_entry(key_of(1), 64)
        manager.allocate_entry(key_of(2), 64)
        manager.remove_cache_entry(key_of(1))
        free = (1 << 20) - 64
        assert manager.get_stats().fragmentation == 1 - (free - 64) / free < 0.0001


def test_bug_a_hit_did_not_touch(backend: str) -> None:
    with KVCacheManager(192, backend, elastic=False) as manager:
        for number in range(3):
            manager.allocate_entry(key_of(number), 64)
        manager.get_cache_entry(key_of(0))
        manager.allocate_entry(key_of(3), 64)
        assert manager.session_keys() == [key_of(0), key_of(2), key_of(3)]


def test_bug_an_oversized_request_evicted_everything_and_still_failed(backend: str) -> None:
    with KVCacheManager(4096, backend, elastic=False) as manager:
        for number in range(64):
            manager.allocate_entry(key_of(number), 64)
        before, there = manager.get_stats(), manager.session_keys()
        with pytest.raises(PoolExhaustedError, match="4160"):
            manager.allocate_entry(key_of("oversized"), 4097)
        assert (manager.get_stats(), manager.session_keys()) == (before, there)


def test_bug_a_stale_entry_read_another_sessions_data(backend: str) -> None:
    with KVCacheManager(1 << 16, backend, LAYOUT, elastic=False) as manager:
        stale = manager.create_cache_entry(key_of("left"), 8)
        tokens = random_tokens(LAYOUT, 8)
        stale.extend(*tokens)
        offset = stale.block.offset
        manager.remove_cache_entry(key_of("left"))
        secret = manager.create_cache_entry(key_of("came"), 8)
        secret.extend(*random_tokens(LAYOUT, 8, 1))
        assert secret.block.offset == offset
        reads: list[Callable[[], object]] = [
            stale.data,
            stale.keys,
            stale.values,
            lambda: stale.key(0),
            lambda: stale.value(1, writeable=True),
            lambda: stale.extend(*tokens),
        ]
        for read in reads:
            with pytest.raises(EntryRemovedError, match="chat/left"):
                read()
        assert same_bits(secret.keys(), random_tokens(LAYOUT, 8, 1).keys)


def test_bug_a_larger_context_was_ignored(backend: str) -> None:
    with KVCacheManager(1 << 16, backend, LAYOUT, elastic=False) as manager:
        manager.get_or_create_cache(key_of(1), 4).extend(*random_tokens(LAYOUT, 4))
        entry = manager.get_or_create_cache(key_of(1), 8)
        assert entry.extend(*random_tokens(LAYOUT, 4, 1)) == 8
        assert same_bits(entry.keys()[:, :, :4], random_tokens(LAYOUT, 4).keys)


def lines_run(action: Callable[[], object]) -> int:
    """Return how many lines of Python an action runs."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("what", ["deallocate", "allocate"])
def test_bug_free_cost_grew_with_the_number_of_blocks(what: str) -> None:
    """Steps are counted, not time: `benchmarks` measures that."""

    def cost(blocks: int) -> int:
        draws = random.Random(blocks)
        with MemoryPool(blocks * 4096, "numpy") as pool:
            live = [pool.allocate(draws.randrange(1, 4096)) for _ in range(blocks)]
            draws.shuffle(live)
            for _ in range(blocks // 3):
                pool.deallocate(live.pop())
            if what == "allocate":
                return max(lines_run(lambda: pool.allocate(512)) for _ in range(20))
            return max(lines_run(lambda: pool.deallocate(live.pop())) for _ in range(20))

    few, many = cost(64), cost(16_000)
    assert many <= few + 8, f"{few} lines among 64 blocks, {many} among 16,000"
