"""A view is a lease: whatever is made from it keeps the entry, and nothing else does."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import EntryError, EntryRemovedError, PoolExhaustedError
from kvpool.manager import KVCacheManager
from tests.support.sessions import LAYOUT, key_of, random_tokens, same_bits

CONTEXT = 8
NBYTES = LAYOUT.geometry(CONTEXT).nbytes
ROOM = 3  # entries that the pool has room for


def interface(view: Any) -> SimpleNamespace:
    """Return somebody else's object over the memory of a view."""
    return SimpleNamespace(view=view, __array_interface__=view.__array_interface__)


def unlocked(view: Any) -> Any:
    """Return a view that does not mind to be written to; ctypes takes no other."""
    view.setflags(write=True)
    return view


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "the view": lambda view: view,
    "a slice of a slice": lambda view: view[1:][:, 1:3][..., ::2],
    "no element of it": lambda view: view[:0],
    "a transpose": lambda view: view.T,
    "other dtypes": lambda view: view.view(np.uint32).view(np.uint8),
    "asarray": np.asarray,
    "a new shape": lambda view: view[0].reshape(-1),
    "a subclass": lambda view: view.view(np.recarray)[1],
    "as_strided": lambda view: np.lib.stride_tricks.as_strided(view, (2, 2), (4, 4)),
    "broadcast": lambda view: np.broadcast_to(view, (4, *view.shape)),
    "frombuffer": lambda view: np.frombuffer(view[0], np.uint8),
    "a flat iterator": lambda view: view.flat,
    "its base": lambda view: view.base,
    "memoryview": memoryview,
    "memoryview of bytes": lambda view: memoryview(view[0]).cast("B")[3:7],
    "the array interface": lambda view: np.asarray(interface(view)),
    "ctypes": lambda view: np.ctypeslib.as_ctypes(unlocked(view[0])),
    "a closure": lambda view: lambda: view,
    "a generator": lambda view: (row for row in view),
}

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": lambda view: view.copy(),
    "deepcopy": copy.deepcopy,
    "element": lambda view: view[0, 0, 0],
    "bytes": lambda view: view.tobytes(),
    "fancy index": lambda view: view[[0, 1]],
}


@pytest.fixture
def manager(backend: str) -> Iterator[KVCacheManager]:
    with KVCacheManager(ROOM * NBYTES, backend, LAYOUT, elastic=False) as manager:
        yield manager
        manager.check_integrity()


def create(manager: KVCacheManager, number: int) -> KVCacheEntry:
    entry = manager.create_cache_entry(key_of(number), CONTEXT)
    entry.extend(*random_tokens(LAYOUT, CONTEXT, number))
    return entry


def churn(manager: KVCacheManager, rounds: int = 20) -> None:
    """Let other sessions come and go, and write every byte that is to be had."""
    for number in range(rounds):
        entry = manager.create_cache_entry(CacheKey("churn", number), CONTEXT)
        entry.data()[:] = 0xA5
        assert same_bits(entry.data(), np.full(NBYTES, 0xA5, np.uint8))


def test_an_entry_without_a_view_is_evicted(manager: KVCacheManager) -> None:
    create(manager, 0)
    churn(manager)
    assert key_of(0) not in manager


@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("writeable", [False, True])
def test_whatever_shows_its_bytes_keeps_the_entry(
    manager: KVCacheManager, name: str, writeable: bool
) -> None:
    entry = create(manager, 0)
    holder = HOLDERS[name](entry.key(1, writeable=writeable))
    churn(manager)
    assert key_of(0) in manager
    assert manager.evict_lru_entries((ROOM - 1) * NBYTES)
    assert key_of(0) in manager
    assert same_bits(entry.keys(), random_tokens(LAYOUT, CONTEXT).keys)
    manager.pool.check_integrity()
    del holder
    churn(manager)
    assert key_of(0) not in manager


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_does_not_keep_the_entry(manager: KVCacheManager, name: str) -> None:
    holder = COPIES[name](create(manager, 0).key(1))
    churn(manager)
    assert key_of(0) not in manager
    del holder


@pytest.mark.parametrize("method", ["key", "value", "keys", "values", "data"])
def test_every_way_to_the_bytes_is_a_lease(manager: KVCacheManager, method: str) -> None:
    entry = create(manager, 0)
    arguments = (0,) if method in ("key", "value") else ()
    view = getattr(entry, method)(*arguments)
    churn(manager)
    assert key_of(0) in manager
    del view
    churn(manager)
    assert key_of(0) not in manager


def test_an_error_that_is_kept_keeps_no_entry(manager: KVCacheManager) -> None:
    """Its traceback holds the frames that were under way."""
    entry, tokens = create(manager, 0), random_tokens(LAYOUT, 1)
    calls: list[Callable[[], object]] = [
        lambda: entry.extend(*tokens),
        lambda: entry.append(0, *tokens.layer(0)),
        lambda: entry.truncate(CONTEXT + 1),
        lambda: entry.key(9),
    ]
    kept = []
    for call in calls:
        with pytest.raises(EntryError) as caught:
            call()
        kept.append(caught.value)
    churn(manager)
    assert key_of(0) not in manager
    for call in calls[:3]:
        with pytest.raises(EntryRemovedError):
            call()
    assert len(kept) == 4


def test_a_lease_says_what_it_holds(manager: KVCacheManager) -> None:
    lease = create(manager, 0).lease()
    assert repr(lease) == f"<Lease of {NBYTES} bytes>"
    lease.release()
    assert repr(lease) == "<Lease released>"


def test_all_entries_leased(manager: KVCacheManager) -> None:
    views = [create(manager, number).value(0) for number in range(ROOM)]
    before = manager.get_stats()
    with pytest.raises(PoolExhaustedError, match="evicting all 0 blocks that may go"):
        create(manager, ROOM)
    with pytest.raises(PoolExhaustedError, match="evicting all 0 blocks that may go"):
        manager.evict_lru_entries(NBYTES)
    assert manager.get_stats() == before
    del views[1]
    assert create(manager, ROOM).token_count == CONTEXT
    assert manager.session_keys() == [key_of(0), key_of(2), key_of(3)]


@pytest.mark.parametrize("name", HOLDERS)
def test_a_removed_entry_keeps_its_bytes_until_the_last_view(
    manager: KVCacheManager, name: str
) -> None:
    entry = create(manager, 0)
    expected = random_tokens(LAYOUT, CONTEXT)
    holder, key, values = HOLDERS[name](entry.key(1)), entry.key(1), entry.values()
    assert manager.remove_cache_entry(key_of(0)) is entry
    assert manager.get_stats().parting_entries == 1
    with pytest.raises(EntryRemovedError, match="chat/0"):
        entry.key(1)
    with pytest.raises(EntryRemovedError, match="chat/0"):
        entry.extend(*random_tokens(LAYOUT, 1))
    create(manager, 0)  # the key is free again
    churn(manager)
    assert same_bits(key, expected.keys[1])
    assert same_bits(values, expected.values)
    del key, values
    churn(manager)
    assert manager.get_stats().parting_entries == 1
    assert manager.get_stats().used_memory == ROOM * NBYTES
    del holder
    stats = manager.get_stats()
    assert (stats.parting_entries, stats.used_memory) == (0, (ROOM - 1) * NBYTES)


def test_a_writeable_view_of_a_removed_entry_writes_to_nobody_else(
    manager: KVCacheManager,
) -> None:
    view = create(manager, 0).key(0, writeable=True)
    manager.remove_cache_entry(key_of(0))
    others = [create(manager, number) for number in (1, 2)]
    view[...] = 3
    for number, other in enumerate(others, 1):
        tokens = random_tokens(LAYOUT, CONTEXT, number)
        assert same_bits(other.keys(), tokens.keys)
        assert same_bits(other.values(), tokens.values)


def test_a_view_outlives_the_manager(backend: str) -> None:
    manager = KVCacheManager(ROOM * NBYTES, backend, LAYOUT, elastic=False)
    view = create(manager, 0).keys()
    manager.close()
    del manager
    gc.collect()
    assert same_bits(view, random_tokens(LAYOUT, CONTEXT).keys)


# -- threads and cycles ------------------------------------------------------------------


def test_a_view_of_another_thread(manager: KVCacheManager) -> None:
    entry = create(manager, 0)
    taken, done = threading.Event(), threading.Event()
    unharmed = []

    def read() -> None:
        view = entry.key(1)
        taken.set()
        done.wait(60)
        unharmed.append(same_bits(view, random_tokens(LAYOUT, CONTEXT).keys[1]))

    thread = threading.Thread(target=read)
    thread.start()
    assert taken.wait(60)
    churn(manager)
    assert key_of(0) in manager
    manager.remove_cache_entry(key_of(0))
    churn(manager)
    assert manager.get_stats().parting_entries == 1
    done.set()
    thread.join()
    assert unharmed == [True]
    assert manager.get_stats().parting_entries == 0


def leave_in_a_cycle(view: Any) -> None:
    holder = SimpleNamespace(view=view)
    holder.itself = holder


@pytest.mark.usefixtures("no_collector")
def test_a_view_in_a_cycle_is_alive_until_it_is_collected(manager: KVCacheManager) -> None:
    leave_in_a_cycle(create(manager, 0).keys())
    churn(manager)
    assert key_of(0) in manager
    gc.collect()
    churn(manager)
    assert key_of(0) not in manager


@pytest.mark.usefixtures("no_collector")
def test_the_bytes_of_a_removed_entry_return_when_a_cycle_is_collected(
    manager: KVCacheManager,
) -> None:
    leave_in_a_cycle(create(manager, 0).keys())
    manager.remove_cache_entry(key_of(0))
    assert manager.get_stats().parting_entries == 1
    gc.collect()
    assert manager.get_stats().parting_entries == 0


class Resurrecting:
    """Something in a cycle whose finalizer looks at its view, and keeps it."""

    def __init__(self, view: Any, kept: list[Any]) -> None:
        self.view, self.kept, self.itself = view, kept, self

    def __del__(self) -> None:
        self.kept.append(self.view)


@pytest.mark.usefixtures("no_collector")
def test_a_view_that_a_finalizer_keeps_is_still_a_lease(manager: KVCacheManager) -> None:
    kept: list[Any] = []
    Resurrecting(create(manager, 0).keys(), kept)
    manager.remove_cache_entry(key_of(0))
    gc.collect()
    churn(manager)
    assert same_bits(kept[0], random_tokens(LAYOUT, CONTEXT).keys)
    assert manager.get_stats().parting_entries == 1
    kept.clear()
    gc.collect()
    assert manager.get_stats().parting_entries == 0
