"""Who goes when bytes are needed: in the order of uses, only as many as needed, or nobody."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import pytest

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import EntryNotFoundError, EntryRemovedError, PoolExhaustedError
from kvpool.eviction.base import EvictionReason
from kvpool.eviction.lru import LruPolicy
from kvpool.manager import KVCacheManager
from tests.support.sessions import LAYOUT, Clock, key_of, random_tokens, same_bits

CONTEXT = 8
NBYTES = LAYOUT.geometry(CONTEXT).nbytes
ROOM = 4


@pytest.fixture
def policy() -> LruPolicy:
    return LruPolicy()


@pytest.fixture
def manager(backend: str, policy: LruPolicy) -> Iterator[KVCacheManager]:
    """A manager that is full: sessions 0 to 3, of equal size, made in this order."""
    with KVCacheManager(
        ROOM * NBYTES, backend, LAYOUT, policy=policy, clock=Clock(), elastic=False
    ) as manager:
        for number in range(ROOM):
            create(manager, number)
        yield manager
        manager.check_integrity()


def create(manager: KVCacheManager, number: int, room: int = 1) -> KVCacheEntry:
    """Make an entry of the size of `room` of the usual ones, and fill it."""
    entry = manager.create_cache_entry(key_of(number), room * CONTEXT)
    entry.extend(*random_tokens(LAYOUT, CONTEXT, number))
    return entry


def keys(*numbers: int) -> list[CacheKey]:
    return [key_of(number) for number in numbers]


def entry_of(manager: KVCacheManager, number: int) -> KVCacheEntry:
    entry = manager.get_cache_entry(key_of(number))
    assert isinstance(entry, KVCacheEntry)
    return entry


def order(manager: KVCacheManager, policy: LruPolicy) -> list[Hashable]:
    manager.get_stats()  # which lets the manager take note of uses
    return list(policy.victims())


def check_refused(manager: KVCacheManager, policy: LruPolicy, nbytes: int, text: str) -> None:
    """Check that nobody goes for a request that must fail, however it is made."""
    before = manager.get_stats(), manager.session_keys(), order(manager, policy)
    context = nbytes // NBYTES * CONTEXT
    with pytest.raises(PoolExhaustedError, match=text):
        manager.evict_lru_entries(nbytes)
    with pytest.raises(PoolExhaustedError, match=text):
        manager.allocate_entry(key_of("new"), nbytes)
    with pytest.raises(PoolExhaustedError, match=text):
        manager.create_cache_entry(key_of("new"), context)
    with pytest.raises(PoolExhaustedError, match=text):
        manager.get_or_create_cache(key_of("new"), context)
    assert (manager.get_stats(), manager.session_keys(), order(manager, policy)) == before
    manager.check_integrity()


# -- the order ---------------------------------------------------------------------------


def test_the_oldest_goes_first(manager: KVCacheManager) -> None:
    create(manager, 4)
    assert manager.session_keys() == keys(1, 2, 3, 4)
    create(manager, 5)
    assert manager.session_keys() == keys(2, 3, 4, 5)
    assert manager.get_stats().evictions_by_reason[EvictionReason.LRU] == 2


def test_being_found_is_a_use(manager: KVCacheManager, policy: LruPolicy) -> None:
    manager.get_cache_entry(key_of(0))
    manager.get_or_create_cache(key_of(1), CONTEXT)
    assert order(manager, policy) == keys(2, 3, 0, 1)


def test_being_asked_for_is_no_use(manager: KVCacheManager, policy: LruPolicy) -> None:
    assert key_of(0) in manager
    manager.session_keys()
    manager.check_integrity()
    manager.pin(key_of(0))
    manager.unpin(key_of(0))
    assert order(manager, policy) == keys(0, 1, 2, 3)


@pytest.mark.parametrize("method", ["key", "value", "keys", "values", "data", "truncate"])
def test_a_call_of_the_entry_is_a_use(
    manager: KVCacheManager, policy: LruPolicy, method: str
) -> None:
    entries = [entry_of(manager, number) for number in range(ROOM)]
    arguments = {"key": (0,), "value": (1,), "truncate": (3,)}.get(method, ())
    for number in (1, 3, 1, 0, 3, 1):  # the clock stands still, and the order is told
        getattr(entries[number], method)(*arguments)
    assert order(manager, policy) == keys(2, 0, 3, 1)


def test_writing_is_a_use(manager: KVCacheManager, policy: LruPolicy) -> None:
    entries = [entry_of(manager, number) for number in range(ROOM)]
    for entry in entries:
        entry.truncate(0)
    tokens = random_tokens(LAYOUT, 1)
    entries[2].append(0, *tokens.layer(0))
    entries[0].extend(*tokens)
    manager.update_cache(key_of(1), *tokens)
    assert order(manager, policy) == keys(3, 2, 0, 1)


def test_uses_by_key_and_by_entry_have_one_order(
    manager: KVCacheManager, policy: LruPolicy
) -> None:
    entries = [entry_of(manager, number) for number in range(ROOM)]
    entries[0].key(0)
    manager.get_cache_entry(key_of(2))
    entries[1].key(0)
    manager.get_cache_entry(key_of(0))
    entries[3].key(0)
    entries[1].key(0)
    assert order(manager, policy) == keys(2, 0, 3, 1)


def test_a_stale_entry_does_not_use_its_successor(
    manager: KVCacheManager, policy: LruPolicy
) -> None:
    stale = entry_of(manager, 0)
    manager.remove_cache_entry(key_of(0))
    create(manager, 0)
    before = manager.get_stats(), order(manager, policy)
    manager.get_cache_entry(key_of(1))
    with pytest.raises(EntryRemovedError):
        stale.key(0)
    assert order(manager, policy) == keys(2, 3, 0, 1)
    assert manager.get_stats().evictions == before[0].evictions


# -- until it fits -----------------------------------------------------------------------


def test_only_as_many_go_as_are_needed(manager: KVCacheManager) -> None:
    assert manager.evict_lru_entries(NBYTES) == keys(0)
    assert manager.evict_lru_entries(NBYTES) == []
    assert manager.evict_lru_entries(2 * NBYTES) == keys(1)
    assert manager.evict_lru_entries(4 * NBYTES) == keys(2, 3)
    assert manager.get_stats().used_memory == 0


def test_bytes_must_lie_next_to_each_other(manager: KVCacheManager) -> None:
    """Free bytes of half the pool do not serve a request of half the pool."""
    manager.remove_cache_entry(key_of(1))
    manager.remove_cache_entry(key_of(3))
    manager.get_cache_entry(key_of(0))
    assert manager.get_stats().fragmentation == 0.5
    create(manager, 4, room=2)  # 2 goes, which lies between the holes
    assert manager.session_keys() == keys(0, 4)


def test_they_go_in_their_order_even_if_a_later_one_would_do(manager: KVCacheManager) -> None:
    manager.remove_cache_entry(key_of(3))
    create(manager, 4, room=2)  # 2 alone would do; 0 and 1 are older
    assert manager.session_keys() == keys(2, 4)


def test_survivors_keep_their_tokens(manager: KVCacheManager) -> None:
    for number in range(4, 20):
        create(manager, number)
        for key in manager.session_keys():
            assert isinstance(key.id, int)
            tokens = random_tokens(LAYOUT, CONTEXT, key.id)
            assert same_bits(entry_of(manager, key.id).keys(), tokens.keys)
            assert same_bits(entry_of(manager, key.id).values(), tokens.values)


# -- or nobody ---------------------------------------------------------------------------


def test_what_exceeds_the_pool_evicts_nobody(manager: KVCacheManager, policy: LruPolicy) -> None:
    text = f"the whole pool has {ROOM * NBYTES}"
    check_refused(manager, policy, (ROOM + 1) * NBYTES, text)


def test_what_does_not_fit_around_a_lease_evicts_nobody(
    manager: KVCacheManager, policy: LruPolicy
) -> None:
    view = entry_of(manager, 1).key(0)
    check_refused(manager, policy, 3 * NBYTES, "evicting all 3 blocks that may go")
    create(manager, 4, room=2)
    assert manager.session_keys() == keys(1, 4)
    assert same_bits(view, random_tokens(LAYOUT, CONTEXT, 1).keys[0])


def test_what_does_not_fit_around_a_pin_evicts_nobody(
    manager: KVCacheManager, policy: LruPolicy
) -> None:
    manager.pin(key_of(2))
    check_refused(manager, policy, 3 * NBYTES, "evicting all 3 blocks that may go")
    create(manager, 4, room=2)
    assert manager.session_keys() == keys(2, 3, 4)


def test_what_does_not_fit_around_parting_bytes_evicts_nobody(
    manager: KVCacheManager, policy: LruPolicy
) -> None:
    view = entry_of(manager, 1).key(0)
    manager.remove_cache_entry(key_of(1))
    check_refused(manager, policy, 3 * NBYTES, "evicting all 3 blocks that may go")
    del view
    create(manager, 4, room=3)
    assert manager.session_keys() == keys(3, 4)


# -- pins --------------------------------------------------------------------------------


def test_pins_nest(manager: KVCacheManager) -> None:
    for _ in range(3):
        manager.pin(key_of(0))
    assert manager.get_stats().pinned_entries == 1
    for number in range(4, 7):
        create(manager, number)
        manager.unpin(key_of(0))
        assert key_of(0) in manager
    assert manager.get_stats().pinned_entries == 0
    create(manager, 7)
    assert key_of(0) not in manager


def test_pins_keep_the_place_in_the_order(manager: KVCacheManager, policy: LruPolicy) -> None:
    manager.pin(key_of(0))
    manager.unpin(key_of(0))
    create(manager, 4)
    assert order(manager, policy) == keys(1, 2, 3, 4)


def test_pins_of_nobody(manager: KVCacheManager) -> None:
    before = manager.get_stats()
    for call in (manager.pin, manager.unpin):
        with pytest.raises(EntryNotFoundError, match="no entry for chat/9"):
            call(key_of(9))
    with pytest.raises(EntryNotFoundError, match="chat/0 is not pinned"):
        manager.unpin(key_of(0))
    assert manager.get_stats() == before
    create(manager, 4)  # and it was not pinned the other way round
    assert key_of(0) not in manager
