"""Sessions by key: made, found, grown, updated, removed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry, PoolEntry
from kvpool.errors import EntryRemovedError, PoolClosedError
from kvpool.eviction.base import EvictionReason
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.manager_calls import CALLS, CONTEXT
from tests.support.sessions import LAYOUT, Clock, key_of, random_tokens, same_bits

NBYTES = LAYOUT.geometry(CONTEXT).nbytes


@pytest.fixture
def manager(backend: str) -> Iterator[KVCacheManager]:
    with KVCacheManager(8 * NBYTES, backend, LAYOUT, clock=Clock(), elastic=False) as manager:
        yield manager
        manager.check_integrity()


# -- made and found ----------------------------------------------------------------------


def test_a_created_entry_is_empty_and_can_be_found(manager: KVCacheManager) -> None:
    entry = manager.create_cache_entry(key_of(1), CONTEXT)
    assert isinstance(entry, KVCacheEntry)
    assert (entry.session_id, entry.token_count) == ("chat/1", 0)
    assert (entry.max_context_length, entry.layout) == (CONTEXT, LAYOUT)
    assert entry.pool is manager.pool
    assert manager.get_cache_entry(key_of(1)) is entry
    assert key_of(1) in manager
    assert key_of(2) not in manager
    assert manager.get_cache_entry(key_of(2)) is None


def test_an_entry_may_have_a_layout_of_its_own(manager: KVCacheManager) -> None:
    layout = KVLayout(1, 2, 8, "int8")
    entry = manager.create_cache_entry(key_of(1), CONTEXT, layout=layout)
    assert entry.layout == layout
    assert manager.get_or_create_cache(key_of(1), CONTEXT, layout=layout) is entry


def test_namespaces_are_kept_apart(manager: KVCacheManager) -> None:
    keys = [CacheKey("a", 1), CacheKey("b", 1), CacheKey("a", "1"), CacheKey("a/1", "")]
    for number, key in enumerate(keys):
        manager.get_or_create_cache(key, CONTEXT)
        manager.update_cache(key, *random_tokens(LAYOUT, 4, number))
    assert manager.session_keys() == keys
    manager.remove_cache_entry(keys[0])
    for number, key in enumerate(keys[1:], 1):
        entry = manager.get_or_create_cache(key, CONTEXT)
        assert same_bits(entry.keys(), random_tokens(LAYOUT, 4, number).keys)
    assert manager.session_keys() == keys[1:]


def test_get_or_create_makes_and_then_finds(manager: KVCacheManager) -> None:
    entry = manager.get_or_create_cache(key_of(1), CONTEXT)
    entry.extend(*random_tokens(LAYOUT, 3))
    assert manager.get_or_create_cache(key_of(1), CONTEXT) is entry
    assert entry.token_count == 3
    stats = manager.get_stats()
    assert (stats.hits, stats.misses, stats.allocations) == (1, 1, 1)


def test_raw_entries(manager: KVCacheManager) -> None:
    entry = manager.allocate_entry(key_of(1), 100)
    assert type(entry) is PoolEntry
    assert (entry.size_bytes, entry.session_id) == (100, "chat/1")
    assert not entry.data().any()
    entry.data()[:] = 7
    assert manager.get_cache_entry(key_of(1)) is entry
    assert manager.get_stats().used_memory == 128
    assert manager.remove_cache_entry(key_of(1)) is entry
    assert not manager.allocate_entry(key_of(2), 128).data().any()


def test_update_cache_appends_to_all_layers(manager: KVCacheManager) -> None:
    entry = manager.create_cache_entry(key_of(1), CONTEXT)
    tokens = random_tokens(LAYOUT, 5)
    assert manager.update_cache(key_of(1), tokens.keys[:, :, :4], tokens.values[:, :, :4]) == 4
    assert manager.update_cache(key_of(1), tokens.keys[:, :, 4], tokens.values[:, :, 4]) == 5
    assert same_bits(entry.keys(), tokens.keys)
    assert same_bits(entry.values(), tokens.values)


# -- grown -------------------------------------------------------------------------------


def test_a_larger_context_is_honoured(manager: KVCacheManager) -> None:
    entry = manager.create_cache_entry(key_of(1), CONTEXT)
    tokens = random_tokens(LAYOUT, 20)
    entry.extend(tokens.keys[:, :, :CONTEXT], tokens.values[:, :, :CONTEXT])
    old_view = entry.keys()
    grown = manager.get_or_create_cache(key_of(1), 20)
    assert grown is entry
    assert grown.max_context_length == 20
    assert same_bits(grown.keys(), tokens.keys[:, :, :CONTEXT])
    assert same_bits(grown.values(), tokens.values[:, :, :CONTEXT])
    grown.extend(tokens.keys[:, :, CONTEXT:], tokens.values[:, :, CONTEXT:])
    assert same_bits(grown.keys(), tokens.keys)
    assert same_bits(old_view, tokens.keys[:, :, :CONTEXT])
    stats = manager.get_stats()
    assert (stats.allocations, stats.evictions, stats.parting_entries) == (1, 0, 1)
    del old_view
    stats = manager.get_stats()
    assert stats.used_memory == LAYOUT.geometry(20).nbytes
    assert stats.parting_entries == 0


def test_a_step_that_is_under_way_grows_with_the_entry(manager: KVCacheManager) -> None:
    entry = manager.create_cache_entry(key_of(1), CONTEXT)
    tokens = random_tokens(LAYOUT, 6)
    entry.append(1, *tokens.layer(1))
    manager.get_or_create_cache(key_of(1), CONTEXT + 1)
    assert same_bits(entry.key(1), tokens.keys[1])
    assert entry.key(0).shape[1] == entry.token_count == 0
    assert entry.append(0, *tokens.layer(0)) == 6
    assert same_bits(entry.values(), tokens.values)


@pytest.mark.parametrize("context", [1, CONTEXT - 1, CONTEXT])
def test_a_smaller_context_keeps_the_larger_one(manager: KVCacheManager, context: int) -> None:
    entry = manager.create_cache_entry(key_of(1), CONTEXT)
    entry.extend(*random_tokens(LAYOUT, CONTEXT))
    block = entry.block
    assert manager.get_or_create_cache(key_of(1), context) is entry
    assert entry.block is block
    assert entry.max_context_length == CONTEXT
    assert entry.token_count == CONTEXT


def test_growing_evicts_others_and_never_itself(backend: str) -> None:
    with KVCacheManager(4 * NBYTES, backend, LAYOUT, elastic=False) as manager:
        tokens = random_tokens(LAYOUT, CONTEXT)
        for number in range(4):  # the one that grows is the least recently used
            manager.create_cache_entry(key_of(number), CONTEXT).extend(*tokens)
        entry = manager.get_or_create_cache(key_of(0), 3 * CONTEXT)
        assert manager.session_keys() == [key_of(0)]
        assert same_bits(entry.keys(), tokens.keys)
        assert manager.get_stats().evictions_by_reason[EvictionReason.LRU] == 3
        manager.check_integrity()
        assert manager.get_stats().pinned_entries == 0
        manager.create_cache_entry(key_of(9), 4 * CONTEXT - 1)  # which the grown one gives way to
        assert manager.session_keys() == [key_of(9)]


# -- removed -----------------------------------------------------------------------------


def test_a_removed_entry_is_returned_and_unusable(manager: KVCacheManager) -> None:
    entry = manager.create_cache_entry(key_of(1), CONTEXT)
    assert manager.remove_cache_entry(key_of(1)) is entry
    assert key_of(1) not in manager
    assert manager.get_stats().used_memory == 0
    with pytest.raises(EntryRemovedError, match="'chat/1'"):
        entry.key(0)
    assert manager.create_cache_entry(key_of(1), CONTEXT) is not entry
    with pytest.raises(EntryRemovedError, match="'chat/1'"):
        entry.key(0)


def test_a_pinned_entry_can_be_removed_by_hand(manager: KVCacheManager) -> None:
    manager.create_cache_entry(key_of(1), CONTEXT)
    manager.pin(key_of(1))
    assert manager.remove_cache_entry(key_of(1)) is not None
    assert manager.get_stats().pinned_entries == 0
    manager.create_cache_entry(key_of(1), CONTEXT)
    assert manager.get_stats().pinned_entries == 0


def test_sessions_are_listed_from_the_oldest(manager: KVCacheManager) -> None:
    for number in (3, 1, 2):
        manager.create_cache_entry(key_of(number), 1)
    manager.get_cache_entry(key_of(3))
    manager.remove_cache_entry(key_of(1))
    manager.create_cache_entry(key_of(1), 1)
    assert manager.session_keys() == [key_of(number) for number in (3, 2, 1)]
    assert len(manager) == 3


# -- closed ------------------------------------------------------------------------------


@pytest.fixture
def closed(backend: str) -> KVCacheManager:
    manager = KVCacheManager(8 * NBYTES, backend, LAYOUT, elastic=False)
    manager.create_cache_entry(key_of(1), CONTEXT)
    manager.close()
    return manager


@pytest.mark.parametrize("name", CALLS)
def test_a_closed_manager_refuses_everything(closed: KVCacheManager, name: str) -> None:
    with pytest.raises(PoolClosedError, match="the manager is closed"):
        CALLS[name](closed)


def test_closing_twice_does_nothing(closed: KVCacheManager) -> None:
    closed.close()
    with closed:
        pass
    with pytest.raises(PoolClosedError):
        closed.pool.stats()


def test_an_entry_of_a_closed_manager_is_unusable(backend: str) -> None:
    with KVCacheManager(8 * NBYTES, backend, LAYOUT, elastic=False) as manager:
        entry = manager.create_cache_entry(key_of(1), CONTEXT)
        entry.extend(*random_tokens(LAYOUT, 2))
        view = entry.keys()
    with pytest.raises(PoolClosedError):
        entry.key(0)
    with pytest.raises(PoolClosedError):
        entry.extend(*random_tokens(LAYOUT, 1))
    assert same_bits(view, random_tokens(LAYOUT, 2).keys)


def test_a_manager_is_true_however_few_entries_it_has(backend: str) -> None:
    with KVCacheManager(8 * NBYTES, backend, LAYOUT) as manager:
        assert len(manager) == 0
        assert manager
    assert manager  # a closed one too, though it has no length
