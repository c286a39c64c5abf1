"""What a finalizer may do to a manager, in the middle of any call of the manager."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Hashable, Iterator
from typing import ClassVar

import pytest

from kvpool.cache_key import CacheKey
from kvpool.eviction.base import EvictionReason
from kvpool.eviction.lru import LruPolicy
from kvpool.manager._manager import KVCacheManager
from kvpool.receipts import KvEvictionReceipt, MemorySink
from tests.support.sessions import key_of


class Conversation:
    """Has its entry removed when it is gone itself, as the session of an engine may."""

    ended_in: ClassVar[list[int]] = []  # threads

    def __init__(self, manager: KVCacheManager, key: CacheKey) -> None:
        self.manager, self.key = manager, key
        self.itself = self  # so that only the garbage collector ends it
        manager.allocate_entry(key, 64)

    def __del__(self) -> None:
        self.ended_in.append(threading.get_ident())
        self.manager.remove_later(self.key)
        assert not self.manager.get_stats().is_exact
        self.manager.pool.stats()


class CollectingPolicy(LruPolicy):
    """Runs the garbage collector in the middle of the manager's calls."""

    def touch(self, key: Hashable, /) -> None:
        gc.collect()
        super().touch(key)

    def victims(self) -> Iterator[Hashable]:
        gc.collect()
        return super().victims()


@pytest.fixture
def manager(backend: str) -> Iterator[KVCacheManager]:
    with KVCacheManager(1024, backend, policy=CollectingPolicy(), elastic=False) as manager:
        yield manager
        manager.check_integrity()


def test_a_finalizer_inside_of_a_call_does_not_wait_for_it(backend: str) -> None:
    manager = KVCacheManager(1024, backend, policy=CollectingPolicy(), elastic=False)
    manager.allocate_entry(key_of(0), 64)
    gc.disable()
    try:
        Conversation(manager, key_of(1))
        # In a thread, so that a deadlock would be a failure and not a test without an end.
        caller = threading.Thread(target=manager.get_cache_entry, args=[key_of(0)], daemon=True)
        caller.start()
        caller.join(60)
    finally:
        gc.enable()
    assert not caller.is_alive()
    assert Conversation.ended_in[-1] == caller.ident
    assert manager.session_keys() == [key_of(0)]
    assert manager.get_stats().evictions_by_reason[EvictionReason.MANUAL] == 1
    manager.close()


class Anchor:
    """Ends with its last reference."""


class DroppingPolicy(LruPolicy):
    """Drops what it was given, in the middle of a call of the manager."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: list[Anchor] = []

    def touch(self, key: Hashable, /) -> None:
        self.anchors.clear()
        super().touch(key)


def test_the_callback_of_a_weak_reference_may_too(backend: str) -> None:
    policy = DroppingPolicy()
    with KVCacheManager(1024, backend, policy=policy, elastic=False) as manager:
        for number in (1, 2):
            manager.allocate_entry(key_of(number), 64)
        policy.anchors.append(Anchor())
        reference = weakref.ref(policy.anchors[0], lambda _: manager.remove_later(key_of(1)))
        manager.get_cache_entry(key_of(2))
        assert reference() is None
        assert manager.session_keys() == [key_of(2)]


def test_it_is_removed_before_the_next_call_looks(manager: KVCacheManager) -> None:
    first = manager.allocate_entry(key_of(1), 64)
    manager.remove_later(key_of(1))
    assert first.data().size == 64  # until then it is there
    second = manager.allocate_entry(key_of(1), 64)
    assert manager.get_cache_entry(key_of(1)) is second
    stats = manager.get_stats()
    assert (stats.allocations, stats.evictions, stats.active_entries) == (2, 1, 1)


def test_it_goes_though_it_is_pinned_and_its_views_stay(manager: KVCacheManager) -> None:
    view = manager.allocate_entry(key_of(1), 64).data()
    view[:] = 7
    manager.pin(key_of(1))
    manager.remove_later(key_of(1))
    assert len(manager) == 0
    assert manager.get_stats().parting_entries == 1
    assert (view == 7).all()


def test_a_key_without_an_entry_is_nothing(manager: KVCacheManager) -> None:
    for _ in range(3):
        manager.remove_later(key_of(1))
    assert manager.get_stats().evictions == 0


def test_a_closed_manager_takes_no_notice() -> None:
    sink = MemorySink()
    manager = KVCacheManager(1024, "numpy", receipts=sink)
    manager.allocate_entry(key_of(1), 64)
    manager.remove_later(key_of(1))
    manager.close()
    manager.remove_later(key_of(1))
    reasons = [one.eviction_reason for one in sink.receipts if isinstance(one, KvEvictionReceipt)]
    assert reasons == [EvictionReason.CLOSE]
