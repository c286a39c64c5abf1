"""Sessions with a lower priority are evicted first, whatever the policy says."""

from __future__ import annotations

import numpy as np
import pytest

from kvpool.cache_key import CacheKey
from kvpool.eviction.lru import LruPolicy
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.sessions import key_of

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=64, dtype="float16")
TOKENS = np.ones((2, 2, 256, 64), "float16")  # 256 KiB with the values


def fill(manager: KVCacheManager, number: int, priority: int = 0) -> CacheKey:
    key = key_of(number)
    manager.create_cache_entry(key, 256).extend(TOKENS, TOKENS)
    manager.set_priority(key, priority)
    return key


@pytest.mark.parametrize("elastic", [False, None])
def test_lower_ones_go_before_higher_ones(backend: str, elastic: bool | None) -> None:
    with KVCacheManager(1 << 20, backend, LAYOUT, receipts=False, elastic=elastic) as manager:
        keys = [fill(manager, number, priority) for number, priority in enumerate([5, -1, 0, 5])]
        manager.get_cache_entry(keys[1])  # the most recently used one
        assert manager.make_room(1 << 18) == [keys[1]]
        assert manager.make_room(1 << 19) == [keys[2]]
        assert manager.make_room(1 << 20) == [keys[0], keys[3]]


@pytest.mark.parametrize("prefix_tokens", [None, 512])
def test_held_tokens_have_the_priority_of_their_session(
    backend: str, prefix_tokens: int | None
) -> None:
    with KVCacheManager(
        1 << 19, backend, LAYOUT, receipts=False, prefix_tokens=prefix_tokens, policy=LruPolicy()
    ) as manager:
        for number, priority in enumerate([1, None, None]):
            first = 1000 * number
            entry, left = manager.open_session(
                range(first, first + 256),
                key_of(number),
                max_context_length=256,
                priority=priority,
            )
            assert left == 256
            entry.extend(TOKENS, TOKENS)
            manager.close_session(entry, range(first, first + 256))
        assert key_of(1) not in manager  # and not session 0, which was used before it
        manager.check_integrity()


def test_what_a_higher_one_continues_stays(backend: str) -> None:
    with KVCacheManager(1 << 24, backend, LAYOUT, receipts=False, prefix_tokens=300) as manager:
        for number, tail in enumerate([range(500, 540), range(600, 650)]):
            tokens = [*range(200), *tail]
            entry, left = manager.open_session(tokens, key_of(number), priority=1 - number)
            entry.extend(TOKENS[:, :, :left], TOKENS[:, :, :left])
            manager.close_session(entry, tokens)
        assert manager.get_stats().prefix.tokens_held == 290
        tokens = list(range(800, 900))
        entry, left = manager.open_session(tokens, key_of(2), priority=2)
        entry.extend(TOKENS[:, :, :left], TOKENS[:, :, :left])
        manager.close_session(entry, tokens)
        assert key_of(1) not in manager
        assert key_of(0) in manager
        assert manager.get_stats().prefix.tokens_held <= 300
        manager.check_integrity()


def test_a_fork_has_the_priority_of_its_parent(backend: str) -> None:
    with KVCacheManager(1 << 20, backend, LAYOUT, receipts=False, elastic=False) as manager:
        parent = fill(manager, 1, priority=3)
        other = fill(manager, 2)
        fork = key_of(3)
        manager.fork_cache_entry(parent, fork)
        last = fill(manager, 4)
        manager.get_cache_entry(other)
        manager.get_cache_entry(last)
        for key in (other, last):
            assert manager.make_room(1 << 18) == [key]
            manager.allocate_entry(CacheKey("filler", key.id), 1 << 18)
            manager.pin(CacheKey("filler", key.id))
        assert len(manager.make_room(1 << 18)) == 1  # one of the two with a higher priority
