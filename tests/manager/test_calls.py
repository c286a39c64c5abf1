"""How long the ways through a manager are: in calls, which a reader has to follow."""

from __future__ import annotations

from kvpool.manager import KVCacheManager
from tests.support.call_counts import calls_of
from tests.support.sessions import LAYOUT, key_of

CONTEXT = 16


def full() -> KVCacheManager:
    """Return a manager in which a new session takes the place of the oldest one."""
    nbytes = LAYOUT.geometry(CONTEXT).nbytes
    manager = KVCacheManager(4 * nbytes, "numpy", LAYOUT, receipts=False)
    for number in range(4):
        manager.create_cache_entry(key_of(number), CONTEXT)
    return manager


def test_a_session_that_is_there() -> None:
    with full() as manager:
        calls = calls_of(lambda: manager.get_or_create_cache(key_of(1), CONTEXT))
        assert len(calls) <= 15, calls


def test_a_new_session_that_evicts_one() -> None:
    with full() as manager:
        calls = calls_of(lambda: manager.create_cache_entry(key_of("new"), CONTEXT))
        assert manager.get_stats().evictions == 1
        assert len(calls) <= 45, calls
