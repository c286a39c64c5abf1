"""A clock that raises: the error passes, and everything is as before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvpool.manager import KVCacheManager
from tests.support.sessions import LAYOUT, key_of, random_tokens


class BrokenError(Exception):
    """What the clock raises."""


class Broken:
    """A clock that raises once, after some calls."""

    def __init__(self) -> None:
        self.left = 0

    def __call__(self) -> float:
        if self.left:
            self.left -= 1
            if not self.left:
                raise BrokenError
        return 1.0


CALLS: dict[str, Callable[[KVCacheManager], object]] = {
    "create": lambda m: m.create_cache_entry(key_of("new"), 8),
    "raw": lambda m: m.allocate_entry(key_of("new"), 64),
    "fork": lambda m: m.fork_cache_entry(key_of(1), key_of("new")),
    "find": lambda m: m.get_cache_entry(key_of(1)),
    "write": lambda m: m.update_cache(key_of(1), *random_tokens(LAYOUT, 1)),
    "stats": KVCacheManager.get_stats,
}


@pytest.mark.parametrize("call", CALLS)
def test_an_error_of_the_clock_changes_nothing(backend: str, call: str) -> None:
    clock = Broken()
    raised = 0
    with KVCacheManager(
        1 << 20, backend, LAYOUT, ttl=60, clock=clock, receipts=False, snapshot_interval=60
    ) as manager:
        entry = manager.create_cache_entry(key_of(1), 8)
        entry.extend(*random_tokens(LAYOUT, 3))
        for at in range(1, 8):
            before, live = manager.get_stats(), manager.pool.stats().live_blocks
            clock.left = at
            try:
                CALLS[call](manager)
            except BrokenError:
                raised += 1
            else:
                break  # it looks at the clock less often
            manager.check_integrity()
            after = manager.get_stats()
            assert (after.used_memory, after.active_entries) == (before.used_memory, 1)
            assert (after.hits, after.misses) == (before.hits, before.misses)
            assert manager.pool.stats().live_blocks == live
            assert entry.token_count == 3
        clock.left = 0
    assert raised


def test_a_clock_that_raises_at_once_leaves_nothing_open() -> None:
    clock = Broken()
    clock.left = 1
    with pytest.raises(BrokenError):
        KVCacheManager(1 << 20, "mmap", LAYOUT, clock=clock)
