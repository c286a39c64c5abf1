"""Every call of a manager refuses bad arguments with an error, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import PoolExhaustedError
from kvpool.manager import KVCacheManager
from tests.support.bad_arguments import (
    BELOW_ZERO,
    NOT_WHOLE,
    TOO_MUCH,
    WRONG_OBJECTS,
    Values,
    cases,
    check_all_refused,
    check_refused,
    pool_state,
    without,
)
from tests.support.entry_calls import array
from tests.support.managers import entry_of
from tests.support.sessions import LAYOUT, key_of, random_tokens

Act = Callable[[KVCacheManager, Any], object]

FLAGS = (True, np.True_)
NOT_A_COUNT = (*NOT_WHOLE, *BELOW_ZERO, 0)
NOT_SECONDS = (
    *without(WRONG_OBJECTS, None, 1.5, float("inf"), 7, 10**30, np.float32(2), np.int64(2)),
    0,
    10**400,
)
NOT_A_TIMEOUT = (*without(NOT_SECONDS, 0), -0.5)
odd: Any = CacheKey
NOT_KEYS = (
    *WRONG_OBJECTS,
    ("chat", 9),
    odd(None, 1),
    odd("chat", None),
    odd("chat", 1.5),
    odd("chat", float("nan")),
    odd("chat", []),
    odd("chat", np.array(3)),
    odd(b"chat", 1),
)
NOT_TOKENS = (None, 7, 1.5, "ab")
NOT_TEXTS = without(WRONG_OBJECTS, "", "x")
TOKENS = random_tokens(LAYOUT, 1).keys

TABLE: dict[str, tuple[Act, tuple[Any, ...]]] = {
    "create_cache_entry": (lambda m, v: m.create_cache_entry(v, 8), NOT_KEYS),
    "create_cache_entry, length": (lambda m, v: m.create_cache_entry(key_of(2), v), NOT_A_COUNT),
    "create_cache_entry, layout": (
        lambda m, v: m.create_cache_entry(key_of(2), 8, layout=v),
        without(WRONG_OBJECTS, None),
    ),
    "create_cache_entry, ttl": (
        lambda m, v: m.create_cache_entry(key_of(2), 8, ttl=v),
        NOT_SECONDS,
    ),
    "get_cache_entry": (KVCacheManager.get_cache_entry, NOT_KEYS),
    "get_or_create_cache": (lambda m, v: m.get_or_create_cache(v, 8), NOT_KEYS),
    "get_or_create_cache, hit": (lambda m, v: m.get_or_create_cache(key_of(1), v), NOT_A_COUNT),
    "get_or_create_cache, layout": (
        lambda m, v: m.get_or_create_cache(key_of(1), 8, layout=v),
        without(WRONG_OBJECTS, None),
    ),
    "get_or_create_cache, new": (lambda m, v: m.get_or_create_cache(key_of(2), v), NOT_A_COUNT),
    "get_or_create_cache, ttl": (
        lambda m, v: m.get_or_create_cache(key_of(2), 8, ttl=v),
        NOT_SECONDS,
    ),
    "fork_cache_entry": (lambda m, v: m.fork_cache_entry(v, key_of(2)), NOT_KEYS),
    "fork_cache_entry, new": (lambda m, v: m.fork_cache_entry(key_of(1), v), NOT_KEYS),
    "fork_cache_entry, ttl": (
        lambda m, v: m.fork_cache_entry(key_of(1), key_of(2), ttl=v),
        NOT_SECONDS,
    ),
    "is_open": (KVCacheManager.is_open, NOT_KEYS),
    "find_session_tokens": (KVCacheManager.find_session_tokens, NOT_KEYS),
    "get_session_tokens": (KVCacheManager.get_session_tokens, NOT_KEYS),
    "note_compute": (lambda m, v: m.note_compute(v, 1.0), (*NOT_WHOLE, *BELOW_ZERO)),
    "note_compute, seconds": (lambda m, v: m.note_compute(1, v), without(NOT_SECONDS, 0)),
    "open_session": (KVCacheManager.open_session, NOT_TOKENS),
    "open_session, key": (lambda m, v: m.open_session([1], v), without(NOT_KEYS, None)),
    "open_session, model_id": (lambda m, v: m.open_session([1], model_id=v), NOT_TEXTS),
    "open_session, salt": (lambda m, v: m.open_session([1], salt=v), NOT_TEXTS),
    "open_session, layout": (
        lambda m, v: m.open_session([1], layout=v),
        without(WRONG_OBJECTS, None),
    ),
    "open_session, length": (
        lambda m, v: m.open_session([1], max_context_length=v),
        without(NOT_A_COUNT, None),
    ),
    "open_session, ttl": (lambda m, v: m.open_session([1], ttl=v), NOT_SECONDS),
    "open_session, min_left": (
        lambda m, v: m.open_session([1], min_left=v),
        (*NOT_WHOLE, *BELOW_ZERO),
    ),
    "open_session, priority": (
        lambda m, v: m.open_session([1], priority=v),
        without(NOT_WHOLE, None),
    ),
    "begin_session": (KVCacheManager.begin_session, NOT_TOKENS),
    "begin_session, key": (lambda m, v: m.begin_session([1], v), without(NOT_KEYS, None)),
    "begin_session, model_id": (lambda m, v: m.begin_session([1], model_id=v), NOT_TEXTS),
    "begin_session, salt": (lambda m, v: m.begin_session([1], salt=v), NOT_TEXTS),
    "begin_session, ttl": (lambda m, v: m.begin_session([1], ttl=v), NOT_SECONDS),
    "begin_session, timeout": (lambda m, v: m.begin_session([1, 2], timeout=v), NOT_A_TIMEOUT),
    "set_priority": (lambda m, v: m.set_priority(v, 1), NOT_KEYS),
    "set_priority, number": (lambda m, v: m.set_priority(key_of(1), v), NOT_WHOLE),
    "close_session": (lambda m, v: m.close_session(v, [1]), WRONG_OBJECTS),
    "allocate_entry": (lambda m, v: m.allocate_entry(v, 64), NOT_KEYS),
    "allocate_entry, size": (lambda m, v: m.allocate_entry(key_of(2), v), NOT_A_COUNT),
    "allocate_entry, ttl": (lambda m, v: m.allocate_entry(key_of(2), 64, ttl=v), NOT_SECONDS),
    "update_cache": (lambda m, v: m.update_cache(v, TOKENS, TOKENS), NOT_KEYS),
    "remove_cache_entry": (KVCacheManager.remove_cache_entry, NOT_KEYS),
    "remove_later": (KVCacheManager.remove_later, NOT_KEYS),
    "make_room": (KVCacheManager.make_room, (*NOT_A_COUNT, *TOO_MUCH)),
    "evict_lru_entries": (KVCacheManager.evict_lru_entries, (*NOT_A_COUNT, *TOO_MUCH)),
    "pin": (KVCacheManager.pin, NOT_KEYS),
    "unpin": (KVCacheManager.unpin, NOT_KEYS),
    "create_cache_entry, timeout": (
        lambda m, v: m.create_cache_entry(key_of(2), 8, timeout=v),
        NOT_A_TIMEOUT,
    ),
    "get_or_create_cache, timeout": (
        lambda m, v: m.get_or_create_cache(key_of(2), 8, timeout=v),
        NOT_A_TIMEOUT,
    ),
    "get_or_create_cache, timeout of a hit": (
        lambda m, v: m.get_or_create_cache(key_of(1), 8, timeout=v),
        NOT_A_TIMEOUT,
    ),
    "fork_cache_entry, timeout": (
        lambda m, v: m.fork_cache_entry(key_of(1), key_of(2), timeout=v),
        NOT_A_TIMEOUT,
    ),
    "open_session, timeout": (lambda m, v: m.open_session([1, 2], timeout=v), NOT_A_TIMEOUT),
    "allocate_entry, timeout": (
        lambda m, v: m.allocate_entry(key_of(2), 64, timeout=v),
        NOT_A_TIMEOUT,
    ),
    "make_room, timeout": (lambda m, v: m.make_room(64, timeout=v), NOT_A_TIMEOUT),
    "evict_lru_entries, timeout": (lambda m, v: m.evict_lru_entries(64, timeout=v), NOT_A_TIMEOUT),
    "in": (KVCacheManager.__contains__, NOT_KEYS),
}
OPEN: dict[str, tuple[Callable[[Any], object], tuple[Any, ...]]] = {
    "capacity": (lambda v: KVCacheManager(v, "numpy"), NOT_A_COUNT),
    "backend": (lambda v: KVCacheManager(1 << 20, v), without(WRONG_OBJECTS, None, "")),
    "layout": (lambda v: KVCacheManager(1 << 20, "numpy", v), without(WRONG_OBJECTS, None)),
    "ttl": (lambda v: KVCacheManager(1 << 20, "numpy", ttl=v), NOT_SECONDS),
    "policy": (
        lambda v: KVCacheManager(1 << 20, "numpy", policy=v),
        without(WRONG_OBJECTS, "", None),
    ),
    "clock": (lambda v: KVCacheManager(1 << 20, "numpy", clock=v), WRONG_OBJECTS),
    "receipts": (
        lambda v: KVCacheManager(1 << 20, "numpy", receipts=v),
        (*without(WRONG_OBJECTS, "", *FLAGS[:1], [], {}), np.array(3)),
    ),
    "snapshot_interval": (
        lambda v: KVCacheManager(1 << 20, "numpy", snapshot_interval=v),
        NOT_SECONDS,
    ),
    "elastic": (
        lambda v: KVCacheManager(1 << 20, "numpy", elastic=v),
        without(WRONG_OBJECTS, None, *FLAGS),
    ),
    "chunk_tokens": (lambda v: KVCacheManager(1 << 20, "numpy", chunk_tokens=v), NOT_A_COUNT),
    "prefix_tokens": (
        lambda v: KVCacheManager(1 << 20, "numpy", prefix_tokens=v),
        without(NOT_A_COUNT, None),
    ),
    "secure": (
        lambda v: KVCacheManager(1 << 20, "numpy", secure=v),
        without(WRONG_OBJECTS, *FLAGS),
    ),
}


@pytest.fixture(params=["numpy", "mmap"])
def manager(request: pytest.FixtureRequest) -> Iterator[KVCacheManager]:
    """A manager with a session that holds a token."""
    with KVCacheManager(1 << 20, request.param, LAYOUT, receipts=False) as manager:
        manager.create_cache_entry(key_of(1), 8).extend(TOKENS, TOKENS)
        yield manager


def state(manager: KVCacheManager) -> object:
    manager.check_integrity()
    return manager.get_stats(), manager.session_keys(), pool_state(manager.pool)


@pytest.mark.parametrize(("act", "values"), cases(TABLE))
def test_a_bad_argument_is_named(manager: KVCacheManager, act: Act, values: Values) -> None:
    check_all_refused(lambda v: act(manager, v), values, lambda: state(manager))


@pytest.mark.parametrize("value", [None, 1.5, float("nan"), b"x", [], {}, np.array(3)], ids=repr)
def test_a_fork_of_an_entry_under_a_bad_name(manager: KVCacheManager, value: Any) -> None:
    entry = entry_of(manager, key_of(1))
    check_refused(entry.fork, value, lambda: state(manager))


def test_a_session_that_is_larger_than_any_pool(manager: KVCacheManager) -> None:
    before = state(manager)
    with pytest.raises(PoolExhaustedError):
        manager.create_cache_entry(key_of(2), 10**30)
    with pytest.raises(PoolExhaustedError):
        manager.get_or_create_cache(key_of(1), 10**30)
    with pytest.raises(PoolExhaustedError):
        manager.allocate_entry(key_of(2), 10**30)
    assert state(manager) == before


@pytest.mark.parametrize(("act", "values"), cases(OPEN))
def test_a_manager_that_cannot_be_opened(act: Callable[[Any], object], values: Values) -> None:
    check_all_refused(act, values, lambda: None)


def test_numbers_of_numpy_are_accepted(manager: KVCacheManager) -> None:
    number: Any = np.int64
    seconds: Any = np.float32(7)
    key = CacheKey("chat", number(2))
    entry = manager.create_cache_entry(key, number(8), ttl=seconds)
    entry.extend(array(2, 3, 1, 5), array(2, 3, 1, 5))
    assert manager.get_cache_entry(CacheKey("chat", 2)) is entry
    assert manager.make_room(number(64)) == []
    assert manager.allocate_entry(key_of(3), number(64), ttl=number(7)).size_bytes == 64
