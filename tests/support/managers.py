"""What the tests of integrations share that needs no torch."""

from __future__ import annotations

from collections.abc import Callable

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.manager import KVCacheManager

__all__ = ["MakeManager", "entry_of"]

MakeManager = Callable[..., KVCacheManager]


def entry_of(manager: KVCacheManager, key: CacheKey) -> KVCacheEntry:
    """Return the entry of a session."""
    entry = manager.get_cache_entry(key)
    assert isinstance(entry, KVCacheEntry)
    return entry
