"""What eviction gives back where blocks share pages: as predicted, and all or nothing."""

from __future__ import annotations

import random

import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import PoolExhaustedError
from kvpool.manager import KVCacheManager
from kvpool.pool._gain import PageGain
from tests.support.elastic_sessions import (
    PAGE,
    PAGES,
    elastic_manager,
    more_tokens,
    new_fork,
    new_session,
    pages_in_use,
)
from tests.support.marks import elastic, needs_pages
from tests.support.sessions import key_of

pytestmark = needs_pages


@elastic
@pytest.mark.parametrize("seed", range(4))
def test_eviction_is_enough_or_nothing(backend: str, seed: int) -> None:
    """As many bytes are free as were asked for, or nobody went."""
    draws = random.Random(seed)
    for _ in range(12):
        with elastic_manager(40 * PAGES, backend) as manager:
            family(manager, draws)
            leases = [
                entry.keys()
                for key in manager.session_keys()
                if draws.random() < 0.2
                and isinstance(entry := manager.get_cache_entry(key), KVCacheEntry)
            ]
            before, order = manager.get_stats(), set(manager.session_keys())
            wanted = draws.randint(1, 40) * PAGES * PAGE
            free = before.total_capacity - before.used_memory
            try:
                gone = manager.evict_lru_entries(wanted)
            except PoolExhaustedError:
                assert manager.get_stats() == before
                continue
            after = manager.get_stats()
            assert after.total_capacity - after.used_memory >= wanted
            assert set(gone) == order - set(manager.session_keys())
            assert bool(gone) == (free < wanted)
            pages_in_use(manager)
            leases.clear()


def family(manager: KVCacheManager, draws: random.Random) -> None:
    new_session(manager, 0, draws.randint(1, 20))
    for number in range(1, 9):
        parent = draws.randrange(number)
        if draws.random() < 0.7:
            child = new_fork(manager, parent, number)
            more_tokens(child, draws.randint(1, 12), number)
        else:
            new_session(manager, number, draws.randint(1, 12))
        manager.get_cache_entry(key_of(draws.randrange(number)))


@elastic
def test_the_last_fork_takes_its_base_along(backend: str) -> None:
    with elastic_manager(6 * PAGES, backend) as manager:
        new_session(manager, 1, 16)
        new_fork(manager, 1, 2)
        manager.remove_cache_entry(key_of(1))
        assert pages_in_use(manager) == 4 * PAGES
        new_session(manager, 3, 8)
        assert manager.evict_lru_entries(4 * PAGES * PAGE) == [key_of(2)]
        assert pages_in_use(manager) == 2 * PAGES


@elastic
def test_who_would_go_for_nothing_stays(backend: str) -> None:
    with elastic_manager(8 * PAGES, backend) as manager:
        parent, _ = new_session(manager, 1, 8)
        for number in (2, 3):
            new_fork(manager, 1, number)
        new_session(manager, 4, 8)
        new_session(manager, 5, 16)
        lease = parent.keys()  # it stays, so its forks would give nothing back
        assert manager.evict_lru_entries(PAGE) == [key_of(4)]
        assert pages_in_use(manager) == 6 * PAGES
        del lease
        assert manager.evict_lru_entries(3 * PAGES * PAGE) == [key_of(5)]
        assert manager.evict_lru_entries(7 * PAGES * PAGE) == [key_of(2), key_of(3), key_of(1)]
        assert pages_in_use(manager) == 0


@elastic
@pytest.mark.parametrize("seed", range(8))
def test_the_prediction_is_what_comes_back(backend: str, seed: int) -> None:
    draws = random.Random(seed)
    with elastic_manager(200 * PAGES, backend) as manager:
        family(manager, draws)
        for number in draws.sample(range(9), 2):
            manager.remove_cache_entry(key_of(number))  # bases without an owner
        found = [manager.get_cache_entry(key) for key in manager.session_keys()]
        entries = [entry for entry in found if isinstance(entry, KVCacheEntry)]
        leases = [entry.keys() for entry in entries if draws.random() < 0.2]
        blocks = [entry.block for entry in entries if not manager.pool.is_leased(entry.block)]
        draws.shuffle(blocks)
        gain, predicted = PageGain(manager.pool.capacity + 1), []
        for block in blocks:
            before = gain.freed
            gain.end(block)
            predicted.append(gain.freed - before)
        freed = []
        for block in blocks:
            before = manager.pool.stats().used
            manager.pool.deallocate(block)
            freed.append(before - manager.pool.stats().used)
        assert predicted == freed
        leases.clear()
