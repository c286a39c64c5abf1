"""Time to live: who was not used for so long goes at the next call, and nobody else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import EntryNotFoundError, EntryRemovedError, KVPoolError, PoolExhaustedError
from kvpool.eviction.base import EvictionReason
from kvpool.manager import KVCacheManager
from tests.support.manager_calls import CALLS, CONTEXT
from tests.support.marks import needs_pages
from tests.support.sessions import LAYOUT, Clock, key_of, random_tokens, same_bits

NBYTES = LAYOUT.geometry(CONTEXT).nbytes
TTL = 60.0

ALL_CALLS = CALLS | {
    "create_cache_entry of its key": lambda manager: manager.create_cache_entry(key_of(1), CONTEXT),
    "a refused allocation": lambda manager: manager.allocate_entry(key_of(2), 1 << 40),
}


@pytest.fixture
def manager(backend: str, clock: Clock) -> Iterator[KVCacheManager]:
    with KVCacheManager(
        8 * NBYTES, backend, LAYOUT, ttl=TTL, clock=clock, elastic=False
    ) as manager:
        yield manager
        manager.check_integrity()


def create(manager: KVCacheManager, number: int, ttl: float | None = None) -> KVCacheEntry:
    entry = manager.create_cache_entry(key_of(number), CONTEXT, ttl=ttl)
    entry.extend(*random_tokens(LAYOUT, 2, number))
    return entry


def expired(manager: KVCacheManager) -> int:
    return manager.get_stats().evictions_by_reason[EvictionReason.TTL]


@pytest.mark.parametrize("name", ALL_CALLS)
def test_the_next_call_of_any_kind(manager: KVCacheManager, clock: Clock, name: str) -> None:
    entry = create(manager, 1)
    clock.now += TTL
    with contextlib.suppress(EntryNotFoundError, PoolExhaustedError):
        ALL_CALLS[name](manager)
    with pytest.raises(EntryRemovedError, match="chat/1"):  # before the manager is called again
        entry.key(0)
    assert expired(manager) == 1


def test_not_before_its_time(manager: KVCacheManager, clock: Clock) -> None:
    create(manager, 1)
    clock.now += TTL - 0.001
    assert key_of(1) in manager
    clock.now += 0.001
    assert key_of(1) not in manager
    stats = manager.get_stats()
    assert (stats.evictions, stats.used_memory, stats.active_entries) == (1, 0, 0)


def test_evict_expired_says_who_went(manager: KVCacheManager, clock: Clock) -> None:
    for number in (1, 2, 3):
        create(manager, number)
        clock.now += 10
    assert manager.evict_expired() == []
    clock.now += TTL - 20
    assert manager.evict_expired() == [key_of(1), key_of(2)]
    assert manager.evict_expired() == []
    assert manager.session_keys() == [key_of(3)]


USES: dict[str, Callable[[KVCacheManager, KVCacheEntry], object]] = {
    "get_cache_entry": lambda manager, _: manager.get_cache_entry(key_of(1)),
    "get_or_create_cache": lambda manager, _: manager.get_or_create_cache(key_of(1), 1),
    "growing": lambda manager, _: manager.get_or_create_cache(key_of(1), 2 * CONTEXT),
    "update_cache": lambda manager, _: manager.update_cache(key_of(1), *random_tokens(LAYOUT, 1)),
    "append": lambda _, entry: [
        entry.append(n, *random_tokens(LAYOUT, 1).layer(n)) for n in (1, 0)
    ],
    "extend": lambda _, entry: entry.extend(*random_tokens(LAYOUT, 1)),
    "truncate": lambda _, entry: entry.truncate(1),
    "key": lambda _, entry: entry.key(0),
    "values": lambda _, entry: entry.values(),
    "data": lambda _, entry: entry.data(),
}


@pytest.mark.parametrize("name", USES)
def test_a_use_starts_the_time_anew(manager: KVCacheManager, clock: Clock, name: str) -> None:
    entry = create(manager, 1)
    for _ in range(3):
        clock.now += TTL - 1
        USES[name](manager, entry)
        assert entry.last_accessed == clock.now
    clock.now += TTL - 1
    assert manager.evict_expired() == []
    clock.now += 1
    assert manager.evict_expired() == [key_of(1)]


def pin_and_unpin(manager: KVCacheManager) -> None:
    manager.pin(key_of(1))
    manager.unpin(key_of(1))


NO_USES: dict[str, Callable[[KVCacheManager, KVCacheEntry], object]] = {
    "in": lambda manager, _: key_of(1) in manager,
    "session_keys": lambda manager, _: manager.session_keys(),
    "get_stats": lambda manager, _: manager.get_stats(),
    "pin": lambda manager, _: pin_and_unpin(manager),
    "facts": lambda _, entry: (entry.token_count, entry.size_bytes, entry.max_context_length),
    "a refused call": lambda _, entry: entry.key(99),
    "refused tokens": lambda _, entry: entry.extend(*random_tokens(LAYOUT, 99)),
    "a refused truncation": lambda _, entry: entry.truncate(99),
    "a refused creation": lambda manager, _: manager.create_cache_entry(key_of(1), CONTEXT),
    "a refused growth": lambda manager, _: manager.get_or_create_cache(key_of(1), 1 << 30),
}


@pytest.mark.parametrize("name", NO_USES)
def test_what_is_no_use(manager: KVCacheManager, clock: Clock, name: str) -> None:
    entry = create(manager, 1)
    clock.now += TTL - 1
    try:
        NO_USES[name](manager, entry)
    except KVPoolError:
        assert "refused" in name
    clock.now += 1
    assert manager.evict_expired() == [key_of(1)]


def test_an_entry_may_have_a_time_of_its_own(manager: KVCacheManager, clock: Clock) -> None:
    create(manager, 1)
    create(manager, 2, ttl=5)
    create(manager, 3, ttl=1000)
    create(manager, 4, ttl=float("inf"))
    manager.allocate_entry(key_of(5), 64, ttl=7)
    manager.get_or_create_cache(key_of(6), CONTEXT, ttl=6)
    manager.get_or_create_cache(key_of(2), CONTEXT, ttl=1000)  # which is for new entries only
    clock.now += 7
    assert manager.evict_expired() == [key_of(2), key_of(6), key_of(5)]
    clock.now += 53
    assert manager.evict_expired() == [key_of(1)]
    clock.now += 940
    assert manager.evict_expired() == [key_of(3)]
    clock.now += 1e9
    assert manager.evict_expired() == []
    assert manager.session_keys() == [key_of(4)]


def test_without_a_time_to_live_nobody_expires(backend: str, clock: Clock) -> None:
    with KVCacheManager(8 * NBYTES, backend, LAYOUT, clock=clock, elastic=False) as manager:
        create(manager, 1)
        create(manager, 2, ttl=5)
        clock.now += 1e12
        assert manager.session_keys() == [key_of(1)]


def test_a_leased_entry_stays_and_goes_later(manager: KVCacheManager, clock: Clock) -> None:
    view = create(manager, 1).keys()
    clock.now += 10 * TTL
    assert manager.evict_expired() == []
    assert key_of(1) in manager
    assert same_bits(view, random_tokens(LAYOUT, 2, 1).keys)
    del view
    assert manager.evict_expired() == [key_of(1)]


def test_a_pinned_entry_stays_and_goes_later(manager: KVCacheManager, clock: Clock) -> None:
    create(manager, 1)
    manager.pin(key_of(1))
    clock.now += 10 * TTL
    assert manager.evict_expired() == []
    manager.unpin(key_of(1))
    assert manager.evict_expired() == [key_of(1)]


def test_a_use_renews_who_expired_and_was_kept(manager: KVCacheManager, clock: Clock) -> None:
    entry = create(manager, 1)
    view = entry.keys()
    clock.now += 10 * TTL
    assert manager.evict_expired() == []
    entry.key(0)
    del view
    clock.now += TTL - 1
    assert manager.evict_expired() == []
    clock.now += 1
    assert manager.evict_expired() == [key_of(1)]


def test_expired_entries_make_room_before_others_go(backend: str, clock: Clock) -> None:
    with KVCacheManager(2 * NBYTES, backend, LAYOUT, clock=clock, elastic=False) as manager:
        create(manager, 1)
        create(manager, 2, ttl=5)  # used later than 1, and yet it goes
        clock.now += 5
        create(manager, 3)
        assert manager.session_keys() == [key_of(1), key_of(3)]
        stats = manager.get_stats()
        assert stats.evictions_by_reason[EvictionReason.TTL] == stats.evictions == 1


def test_a_key_that_expired_is_free_again(manager: KVCacheManager, clock: Clock) -> None:
    old = create(manager, 1)
    clock.now += TTL
    new = manager.get_or_create_cache(key_of(1), CONTEXT)
    assert new is not old
    assert new.token_count == 0
    clock.now += TTL - 1
    assert manager.evict_expired() == []
    stats = manager.get_stats()
    assert (stats.hits, stats.misses, stats.allocations, stats.evictions) == (0, 1, 2, 1)


def test_many_sessions_go_in_the_order_of_their_deadlines(clock: Clock) -> None:
    with KVCacheManager(1 << 20, "numpy", clock=clock) as manager:
        ttls = {CacheKey("s", number): 1.0 + number * 37 % 101 for number in range(100)}
        for key, ttl in ttls.items():
            manager.allocate_entry(key, 64, ttl=ttl)
        gone = []
        for _ in range(101):
            clock.now += 1
            gone += manager.evict_expired()
        assert gone == sorted(ttls, key=lambda key: ttls[key])


@needs_pages
def test_session_with_a_fork_expires_once() -> None:
    clock = Clock()
    parent, child = CacheKey("chat", "parent"), CacheKey("chat", "child")
    with KVCacheManager(1 << 22, "mmap", LAYOUT, clock=clock) as manager:
        tokens = random_tokens(LAYOUT, 100)
        manager.create_cache_entry(parent, 256, ttl=1).extend(*tokens)
        manager.fork_cache_entry(parent, child)
        clock.now += 2
        assert manager.evict_expired() == [parent]
        assert manager.evict_expired() == []
        entry = manager.get_cache_entry(child)
        assert isinstance(entry, KVCacheEntry)
        assert np.array_equal(entry.keys(), tokens.keys, equal_nan=True)
        manager.check_integrity()
