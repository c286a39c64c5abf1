"""Room in an elastic pool: who is evicted for pages and for addresses, and what refusals change."""

from __future__ import annotations

import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    AddressSpaceExhaustedError,
    EntryRemovedError,
    PoolExhaustedError,
)
from kvpool.manager import KVCacheManager
from kvpool.pool import ElasticPool
from tests.support.elastic_sessions import (
    CONTEXT,
    PAGE,
    PAGES,
    PAPER,
    elastic_manager,
    holds,
    more_tokens,
    new_session,
    pages_in_use,
    session_ids,
)
from tests.support.marks import elastic, needs_pages
from tests.support.sessions import key_of, same_bits

pytestmark = needs_pages


@elastic
def test_an_append_that_lacks_pages_evicts_others(backend: str) -> None:
    with elastic_manager(4 * PAGES, backend) as manager:
        first, tokens = new_session(manager, 1, 4)
        new_session(manager, 2, 4)
        new_session(manager, 3, 4)
        more = more_tokens(first, 5, 9)
        assert session_ids(manager) == [1, 3]
        assert holds(first, tokens, more)
        assert pages_in_use(manager) == 4 * PAGES


@elastic
def test_an_append_that_cannot_be_served_changes_nothing(backend: str) -> None:
    with elastic_manager(4 * PAGES, backend) as manager:
        first, tokens = new_session(manager, 1, 4)
        second, others = new_session(manager, 2, 4)
        lease = second.keys()
        new_session(manager, 3, 4)
        before = manager.get_stats()
        for _ in range(2):
            with pytest.raises(PoolExhaustedError, match=f"{3 * PAGES * PAGE} bytes"):
                more_tokens(first, 12, 9)
            assert manager.get_stats() == before
            assert session_ids(manager) == [1, 2, 3]
            assert pages_in_use(manager) == 3 * PAGES
        assert holds(first, tokens)
        assert same_bits(lease, others.keys)


@elastic
def test_an_entry_of_no_manager_has_nobody_to_evict(backend: str) -> None:
    with ElasticPool(PAGES * PAGE, backend) as pool:
        entry = KVCacheEntry.create(pool, PAPER, CONTEXT, "alone")
        more_tokens(entry, 4, 1)
        with pytest.raises(PoolExhaustedError):
            more_tokens(entry, 1, 2)
        assert entry.token_count == 4
        pool.deallocate(entry.block)
        with pytest.raises(EntryRemovedError):
            entry.trim()


@elastic
def test_growth_evicts_for_its_tokens_and_not_for_its_length(backend: str) -> None:
    with elastic_manager(4 * PAGES, backend) as manager:
        entry, tokens = new_session(manager, 1, 6)
        new_session(manager, 2, 4)
        new_session(manager, 3, 4)
        manager.get_or_create_cache(key_of(1), 100_000)
        assert session_ids(manager) == [1]
        assert holds(entry, tokens)
        assert pages_in_use(manager) == 2 * PAGES


@elastic
def test_addresses_that_are_exhausted_evict(backend: str) -> None:
    nbytes = PAPER.geometry(CONTEXT, PAGE).nbytes
    with elastic_manager(2 * PAGES, backend, address_space=3 * nbytes) as manager:
        assert nbytes > manager.pool.capacity
        for number in range(5):
            manager.create_cache_entry(key_of(number), CONTEXT)
        more_tokens(entries(manager)[0], 1, 7)
        assert session_ids(manager) == [2, 3, 4]
        kept = [manager.pool.lease(entry.block) for entry in entries(manager)]
        with pytest.raises(PoolExhaustedError):
            manager.create_cache_entry(key_of(9), CONTEXT)
        assert session_ids(manager) == [2, 3, 4]
        kept.clear()
        with pytest.raises(PoolExhaustedError):
            manager.create_cache_entry(key_of(9), 4 * CONTEXT)
        assert session_ids(manager) == [2, 3, 4]


def entries(manager: KVCacheManager) -> list[KVCacheEntry]:
    found = (manager.get_cache_entry(key) for key in manager.session_keys())
    return [entry for entry in found if isinstance(entry, KVCacheEntry)]


@elastic
def test_growth_that_cannot_be_served_evicts_nobody(backend: str) -> None:
    with elastic_manager(5 * PAGES, backend) as manager:
        new_session(manager, 1, 8)  # enough for one layer
        entry, tokens = new_session(manager, 2, 12)
        before = manager.get_stats()
        with pytest.raises(PoolExhaustedError):
            manager.get_or_create_cache(key_of(2), 2 * CONTEXT)
        after = manager.get_stats()
        assert session_ids(manager) == [1, 2]
        assert (after.used_memory, after.evictions) == (before.used_memory, 0)
        assert (after.reserved_memory, entry.max_context_length) == (
            before.reserved_memory,
            CONTEXT,
        )
        assert holds(entry, tokens)


@elastic
def test_a_shortage_of_addresses_is_named(backend: str) -> None:
    with ElasticPool(PAGE, backend, address_space=4 * PAGE) as pool:
        with pytest.raises(AddressSpaceExhaustedError, match="of address space"):
            pool.reserve(PAPER.geometry(CONTEXT, PAGE))
        pool.check_integrity()
        assert pool.stats().reserved == 0
