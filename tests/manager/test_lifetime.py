"""What nothing refers to any more is freed at once, without the garbage collector."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import EntryError, PoolClosedError, PoolExhaustedError
from kvpool.manager import KVCacheManager
from kvpool.receipts import MemorySink
from tests.support.process_usage import arenas
from tests.support.sessions import LAYOUT, key_of, random_tokens

pytestmark = pytest.mark.usefixtures("no_collector")

CAPACITY = 4 << 20


def made(manager: KVCacheManager) -> KVCacheEntry:
    return manager.create_cache_entry(key_of(1), 64)


def used_by_key(manager: KVCacheManager) -> KVCacheEntry:
    made(manager)
    return manager.get_or_create_cache(key_of(1), 64)


def used_by_itself(manager: KVCacheManager) -> KVCacheEntry:
    """The log of uses has an item that no call of the manager has read."""
    entry = made(manager)
    entry.extend(*random_tokens(LAYOUT, 5))
    return entry


def grown(manager: KVCacheManager) -> KVCacheEntry:
    used_by_itself(manager)
    return manager.get_or_create_cache(key_of(1), 1000)


def failed(manager: KVCacheManager) -> KVCacheEntry:
    entry = made(manager)
    with pytest.raises(PoolExhaustedError):
        manager.allocate_entry(key_of(9), 1 << 40)
    with pytest.raises(EntryError):
        entry.append(9, 1.0, 1.0)
    return entry


def written_in_place(manager: KVCacheManager) -> KVCacheEntry:
    entry = made(manager)
    with entry.writing(0, 1) as (keys, values):
        keys[:] = values[:] = 1
    return entry


def evicted(manager: KVCacheManager) -> KVCacheEntry:
    entry = made(manager)
    manager.make_room(CAPACITY)
    manager.remove_cache_entry(key_of(1))
    return entry


def forked(manager: KVCacheManager) -> KVCacheEntry:
    """A fork, and a fork of the fork, have written pages of their own."""
    entry = used_by_itself(manager)
    child = entry.fork("2")
    child.extend(*random_tokens(LAYOUT, 5))
    child.fork("3").extend(*random_tokens(LAYOUT, 5))
    return child


USES = [forked, made, used_by_key, used_by_itself, grown, failed, written_in_place, evicted]


@pytest.mark.parametrize("receipts", [False, True])
@pytest.mark.parametrize("use", USES)
def test_a_manager_is_freed_with_its_last_reference(
    backend: str, use: Callable[[KVCacheManager], KVCacheEntry], receipts: bool
) -> None:
    sink = MemorySink()
    manager = KVCacheManager(CAPACITY, backend, LAYOUT, receipts=sink if receipts else False)
    entry = use(manager)
    gone: list[weakref.ref[Any]] = [
        weakref.ref(manager),
        weakref.ref(manager.pool),
        weakref.ref(entry),
    ]
    del manager, entry
    assert [reference() for reference in gone] == [None] * 3
    assert arenas() == []


def test_an_entry_keeps_the_pool_and_not_the_manager(backend: str) -> None:
    manager = KVCacheManager(CAPACITY, backend, LAYOUT, receipts=False)
    entry = manager.create_cache_entry(key_of(1), 64)
    entry.extend(*random_tokens(LAYOUT, 5))
    gone, pool = weakref.ref(manager), weakref.ref(manager.pool)
    del manager
    assert gone() is None
    assert entry.extend(*random_tokens(LAYOUT, 5)) == 10
    with pytest.raises(PoolClosedError, match="chat/1 does not exist any more"):
        entry.fork("2")
    view = entry.keys()
    del entry
    assert np.isfinite(view[..., :0]).all()
    del view
    assert pool() is None
    assert arenas() == []


def test_a_view_keeps_what_it_shows_and_no_more(backend: str) -> None:
    manager = KVCacheManager(CAPACITY, backend, LAYOUT, receipts=False)
    entry = manager.create_cache_entry(key_of(1), 64)
    tokens = random_tokens(LAYOUT, 5)
    entry.extend(*tokens)
    view = entry.keys()
    gone, pool = weakref.ref(manager), weakref.ref(manager.pool)
    del manager, entry
    assert gone() is None
    assert view.tobytes() == tokens.keys.tobytes()
    del view
    assert pool() is None
    assert arenas() == []


@pytest.mark.parametrize("elastic", [False, True])
def test_a_pool_is_freed_with_its_last_reference(backend: str, elastic: bool) -> None:
    if elastic and (backend == "numpy" or sys.platform != "linux"):
        pytest.skip("this backend has no elastic arenas here")
    with KVCacheManager(CAPACITY, backend, LAYOUT, receipts=False, elastic=elastic) as manager:
        pool_type = type(manager.pool)
    pool = pool_type(CAPACITY, backend)
    blocks = [pool.allocate(4096), pool.reserve(LAYOUT.geometry(64, pool.granule))]
    view = pool.view(blocks[0], "uint8", 4096)
    view[:] = 1
    del view
    pool.lease(blocks[1])[:64] = 1
    gone = weakref.ref(pool)
    del pool, blocks
    assert gone() is None
    assert arenas() == []
