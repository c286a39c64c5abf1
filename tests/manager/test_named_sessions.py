"""Sessions that go on after a restart, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import InvalidArgumentError, InvalidLayoutError, PoolClosedError
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.tiers import TierStore

LAYOUT = KVLayout(2, 2, 16, "float16")
KEY = CacheKey("chat", 1)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"disk:{tmp_path / 'kv'}?capacity=16MiB"


def opened(tiers: str | TierStore | None, capacity: int | str = "4MiB") -> KVCacheManager:
    return KVCacheManager(capacity, "numpy", LAYOUT, receipts=False, chunk_tokens=16, tiers=tiers)


def serve(
    manager: KVCacheManager, tokens: Sequence[int], key: CacheKey | None = KEY, **options: Any
) -> int:
    """Open a session, compute what is missing, close it; return how many tokens were loaded."""
    session = manager.open_session(list(tokens), key, **options)
    entry, left = session
    ids = np.asarray(tokens, np.float16)
    new = np.broadcast_to(ids[len(ids) - left :, None], (2, 2, left, 16))
    entry.extend(new, new)
    assert np.array_equal(entry.key(1)[0, :, 0], ids)
    manager.close_session(entry, list(tokens))
    return session.loaded


def known(manager: KVCacheManager, key: CacheKey = KEY, **options: Any) -> list[int] | None:
    tokens = manager.find_session_tokens(key, **options)
    return None if tokens is None else tokens.tolist()


def test_a_session_goes_on_after_a_restart(url: str) -> None:
    with opened(url) as manager:
        assert known(manager) is None
        serve(manager, range(100))
        assert known(manager) == list(range(100))
    with opened(url) as manager:
        history = known(manager)
        assert history == list(range(100))
        assert serve(manager, [*history, *range(300, 320)]) == 96
        manager.check_integrity()
    with opened(url) as manager:
        assert known(manager) == [*range(100), *range(300, 320)]


def test_only_sessions_with_a_name_are_kept(url: str) -> None:
    with opened(url) as manager:
        serve(manager, range(100), key=None)
        serve(manager, range(50))
    with TierStore([url]) as store:
        assert [one.key for one in store.sessions()] == [KEY]


def test_what_the_pool_evicted_is_known_still(url: str) -> None:
    size = 3 * LAYOUT.geometry(128).nbytes
    with TierStore([url], chunk_tokens=16) as store, opened(store, size) as manager:
        serve(manager, range(100))
        for number in range(2, 8):
            serve(manager, range(1000 * number, 1000 * number + 100), CacheKey("chat", number))
        assert KEY not in manager
        store.drain(60)
        assert known(manager) == list(range(100))


def test_a_later_turn_in_the_pool_counts(url: str) -> None:
    with TierStore([url], chunk_tokens=16) as store, opened(store) as manager:
        serve(manager, range(100))
        store.close()
        serve(manager, [*range(50), *range(500, 560)])  # an edit that no tier has
        assert known(manager) == [*range(50), *range(500, 560)]


def test_fewer_tokens_count_before_they_are_written(url: str) -> None:
    """A shorter turn is not taken for a tail that the pool has evicted."""
    with opened(url) as manager:
        serve(manager, range(100))
    full = TierStore([url], chunk_tokens=16, queue_bytes=1)  # which takes nothing
    with full, opened(full) as manager:
        assert known(manager) == list(range(100))
        serve(manager, range(40))
        assert known(manager) == list(range(40))


def test_a_later_turn_of_another_process_counts(url: str) -> None:
    with TierStore([url], chunk_tokens=16) as store, opened(store) as manager:
        serve(manager, range(40))
        store.drain(60)
        with opened(store) as other:
            serve(other, range(60))
        store.drain(60)
        assert known(manager) == list(range(60))


def test_models_and_tenants_have_sessions_of_their_own(url: str) -> None:
    with opened(url) as manager:
        serve(manager, range(40), model_id="a", salt="x")
        assert known(manager) is None
        assert known(manager, model_id="a") is None
        assert known(manager, model_id="a", salt="x") == list(range(40))
    with opened(url) as manager:
        assert known(manager, model_id="b", salt="x") is None
        assert known(manager, model_id="a", salt="x") == list(range(40))


def test_without_tiers_the_pool_is_all_there_is() -> None:
    with opened(None) as manager:
        assert known(manager) is None
        serve(manager, range(40))
        assert known(manager) == list(range(40))


def test_bad_arguments_are_errors(url: str) -> None:
    text: Any = "chat/1"
    one: Any = 1
    with opened(url) as manager:
        with pytest.raises(InvalidArgumentError, match="'chat/1'"):
            manager.find_session_tokens(text)
        with pytest.raises(InvalidArgumentError, match="model_id"):
            manager.find_session_tokens(KEY, model_id=one)
        with pytest.raises(InvalidLayoutError, match="layout"):
            manager.find_session_tokens(KEY, layout=one)
    with pytest.raises(PoolClosedError):
        manager.find_session_tokens(KEY)
