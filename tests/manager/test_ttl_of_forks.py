"""A session with a time to live that was forked: it expires, and its forks stay."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.manager import KVCacheManager
from tests.support.sessions import LAYOUT, Clock, random_tokens


@pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
def test_session_with_a_fork_expires_once() -> None:
    clock = Clock()
    parent, child = CacheKey("chat", "parent"), CacheKey("chat", "child")
    with KVCacheManager(1 << 22, "mmap", LAYOUT, clock=clock) as manager:
        tokens = random_tokens(LAYOUT, 100)
        manager.create_cache_entry(parent, 256, ttl=1).extend(*tokens)
        manager.fork_cache_entry(parent, child)
        clock.now += 2
        assert manager.evict_expired() == [parent]
        assert manager.evict_expired() == []
        entry = manager.get_cache_entry(child)
        assert isinstance(entry, KVCacheEntry)
        assert np.array_equal(entry.keys(), tokens.keys, equal_nan=True)
        manager.check_integrity()
