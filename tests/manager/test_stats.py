"""The figures of a manager: what they count, and that they are of one moment."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kvpool.errors import IntegrityError
from kvpool.eviction.base import EvictionReason
from kvpool.eviction.lru import LruPolicy
from kvpool.manager import KVCacheManager
from kvpool.stats import CopyReason, PoolStats, PrefixStats
from tests.support.sessions import LAYOUT, Clock, key_of

CONTEXT = 8
NBYTES = LAYOUT.geometry(CONTEXT).nbytes
NOTHING_REUSED = PrefixStats(
    tokens_by_source={"continued": 0, "forked": 0, "copied": 0, "loaded": 0}
)


@pytest.fixture
def manager(backend: str, clock: Clock) -> Iterator[KVCacheManager]:
    with KVCacheManager(4 * NBYTES, backend, LAYOUT, clock=clock, elastic=False) as manager:
        yield manager
        manager.check_integrity()


def by_reason(stats: PoolStats) -> dict[str, int]:
    return {reason.value: count for reason, count in stats.evictions_by_reason.items() if count}


def test_a_new_manager_has_counted_nothing(manager: KVCacheManager) -> None:
    stats = manager.get_stats()
    assert stats == PoolStats(
        total_capacity=4 * NBYTES,
        used_memory=0,
        active_entries=0,
        pinned_entries=0,
        parting_entries=0,
        allocations=0,
        evictions=0,
        evictions_by_reason=dict.fromkeys(EvictionReason, 0),
        fragmentation=0.0,
        hits=0,
        misses=0,
        bytes_allocated=0,
        bytes_freed=0,
        bytes_trimmed=0,
        reserved_memory=0,
        address_space=4 * NBYTES,
        forks=0,
        copied_forks=0,
        copied_forks_by_reason=dict.fromkeys(CopyReason, 0),
        prefix=NOTHING_REUSED,
    )
    assert stats.utilization == stats.hit_rate == 0.0


def test_everything_is_counted_once(manager: KVCacheManager, clock: Clock) -> None:
    for number in range(4):
        manager.create_cache_entry(key_of(number), CONTEXT)  # full
    manager.get_cache_entry(key_of(0))
    manager.get_cache_entry(key_of(9))
    manager.get_or_create_cache(key_of(4), CONTEXT, ttl=5)  # 1 goes
    manager.get_or_create_cache(key_of(4), CONTEXT)
    manager.remove_cache_entry(key_of(2))
    manager.remove_cache_entry(key_of(2))
    clock.now += 5  # 4 goes
    manager.pin(key_of(3))
    manager.pin(key_of(3))
    entry = manager.get_cache_entry(key_of(0))
    assert entry is not None
    view = entry.data()
    manager.remove_cache_entry(key_of(0))
    assert manager.get_stats() == PoolStats(
        total_capacity=4 * NBYTES,
        used_memory=2 * NBYTES,
        active_entries=1,
        pinned_entries=1,
        parting_entries=1,
        allocations=5,
        evictions=4,
        evictions_by_reason=dict.fromkeys(EvictionReason, 0)
        | {EvictionReason.LRU: 1, EvictionReason.MANUAL: 2, EvictionReason.TTL: 1},
        fragmentation=0.0,
        hits=3,
        misses=2,
        bytes_allocated=5 * NBYTES,
        bytes_freed=3 * NBYTES,
        bytes_trimmed=0,
        reserved_memory=2 * NBYTES,
        address_space=4 * NBYTES,
        forks=0,
        copied_forks=0,
        copied_forks_by_reason=dict.fromkeys(CopyReason, 0),
        prefix=NOTHING_REUSED,
    )
    stats = manager.get_stats()
    assert (stats.utilization, stats.hit_rate) == (0.5, 0.6)
    del view
    assert manager.get_stats() == dataclasses.replace(
        stats,
        used_memory=NBYTES,
        reserved_memory=NBYTES,
        parting_entries=0,
        bytes_freed=4 * NBYTES,
    )


def test_fragmentation_is_about_sizes(manager: KVCacheManager) -> None:
    """Free bytes of which the largest range has all but one granule are hardly fragmented."""
    manager.allocate_entry(key_of(0), 64)
    manager.allocate_entry(key_of(1), 64)
    manager.remove_cache_entry(key_of(0))
    free = 4 * NBYTES - 64
    assert manager.get_stats().fragmentation == pytest.approx(1 - (free - 64) / free)
    manager.remove_cache_entry(key_of(1))
    assert manager.get_stats().fragmentation == 0.0


def test_figures_do_not_change_afterwards(manager: KVCacheManager) -> None:
    before = manager.get_stats()
    copy = dataclasses.replace(before, evictions_by_reason=dict(before.evictions_by_reason))
    manager.create_cache_entry(key_of(1), CONTEXT)
    manager.remove_cache_entry(key_of(1))
    assert before == copy
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(before, dataclasses.fields(before)[0].name, 1)
    by_reason_of: Any = before.evictions_by_reason
    with pytest.raises(TypeError, match="does not support item assignment"):
        by_reason_of[EvictionReason.LRU] = 9
    assert by_reason(manager.get_stats()) == {"manual": 1}


def test_figures_are_of_one_moment(manager: KVCacheManager) -> None:
    """While another thread makes and removes entries, no snapshot is between two states."""
    stop = threading.Event()

    def come_and_go() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            manager.create_cache_entry(key_of(number), CONTEXT)
            if number % 3 == 0:
                manager.remove_cache_entry(key_of(number))

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(1000):
            stats = manager.get_stats()
            assert stats.active_entries == stats.allocations - stats.evictions
            assert stats.used_memory == stats.active_entries * NBYTES
            assert stats.used_memory == stats.bytes_allocated - stats.bytes_freed
            assert stats.evictions == sum(stats.evictions_by_reason.values())
            assert stats.total_capacity == 4 * NBYTES
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("damage", ["policy", "block freed", "block shared"])
def test_damage_is_found(damage: str) -> None:
    policy = LruPolicy()
    with KVCacheManager(4 * NBYTES, "numpy", LAYOUT, policy=policy) as manager:
        entries = [manager.create_cache_entry(key_of(number), CONTEXT) for number in range(3)]
        manager.check_integrity()
        if damage == "policy":
            policy.admit(key_of(9), NBYTES)
        elif damage == "block freed":
            manager.pool.deallocate(entries[1].block)
        else:
            entries[1].block = entries[2].block
        with pytest.raises(IntegrityError):
            manager.check_integrity()
