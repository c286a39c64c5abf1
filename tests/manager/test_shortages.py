"""What a `PoolExhaustedError` of a manager says of why there is no room."""

from __future__ import annotations

import pickle

import pytest

from kvpool.errors import PoolExhaustedError
from kvpool.manager import KVCacheManager
from tests.support.sessions import key_of

PAGE = 4096
PAGES = 8


def full(backend: str, sessions: int = PAGES) -> KVCacheManager:
    manager = KVCacheManager(PAGES * PAGE, backend, receipts=False)
    for number in range(sessions):
        manager.allocate_entry(key_of(number), PAGES * PAGE // sessions)
    return manager


def test_a_request_that_is_larger_than_the_pool_is_told_from_a_full_pool(backend: str) -> None:
    with full(backend) as manager:
        view = manager.get_cache_entry(key_of(0))
        assert view is not None
        lease = view.data()
        with pytest.raises(PoolExhaustedError, match=f"whole pool has {PAGES * PAGE}") as caught:
            manager.allocate_entry(key_of("new"), (PAGES + 1) * PAGE)
        assert caught.value.requested > caught.value.capacity == PAGES * PAGE
        assert "live views" not in str(caught.value)
        with pytest.raises(
            PoolExhaustedError, match=r"leases \(live views\) keep 4096 bytes"
        ) as caught:
            manager.allocate_entry(key_of("new"), PAGES * PAGE)
        assert caught.value.requested == caught.value.capacity
        del lease


def test_it_says_how_many_bytes_are_leased_and_pinned_and_by_whom(backend: str) -> None:
    with full(backend) as manager:
        entries = [manager.get_cache_entry(key_of(number)) for number in (2, 5)]
        leases = [entry.data() for entry in entries if entry is not None]
        for number in (3, 5):
            manager.pin(key_of(number))
        for ask in (
            lambda: manager.make_room(PAGES * PAGE),
            lambda: manager.allocate_entry(key_of("new"), PAGES * PAGE),
        ):
            with pytest.raises(PoolExhaustedError) as caught:
                ask()
            shortage = caught.value
            assert (shortage.leased, shortage.pinned) == (2 * PAGE, PAGE)
            text = (
                "; leases (live views) keep 8192 bytes of chat/2, chat/5"
                "; pins keep 4096 bytes of chat/3"
            )
            assert str(shortage).endswith(text)
            again = pickle.loads(pickle.dumps(shortage))
            assert str(again) == str(shortage)
            assert (again.leased, again.pinned, again.capacity) == (2 * PAGE, PAGE, PAGES * PAGE)
        assert len(leases) == 2


def test_it_names_five_sessions_and_counts_the_others(backend: str) -> None:
    with full(backend) as manager:
        for number in range(PAGES):
            manager.pin(key_of(number))
        with pytest.raises(PoolExhaustedError, match=r"chat/4, 3 others$"):
            manager.make_room(PAGE)
