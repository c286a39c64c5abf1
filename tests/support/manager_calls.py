"""Every call of a manager, for tests of what all of them do."""

from __future__ import annotations

from collections.abc import Callable

from kvpool.manager import KVCacheManager
from tests.support.sessions import LAYOUT, key_of, random_tokens

__all__ = ["CALLS", "CONTEXT"]

CONTEXT = 8

CALLS: dict[str, Callable[[KVCacheManager], object]] = {
    "create_cache_entry": lambda manager: manager.create_cache_entry(key_of(2), CONTEXT),
    "get_cache_entry": lambda manager: manager.get_cache_entry(key_of(1)),
    "get_or_create_cache": lambda manager: manager.get_or_create_cache(key_of(2), CONTEXT),
    "allocate_entry": lambda manager: manager.allocate_entry(key_of(2), 64),
    "update_cache": lambda manager: manager.update_cache(key_of(1), *random_tokens(LAYOUT, 1)),
    "remove_cache_entry": lambda manager: manager.remove_cache_entry(key_of(1)),
    "evict_lru_entries": lambda manager: manager.evict_lru_entries(64),
    "evict_expired": KVCacheManager.evict_expired,
    "pin": lambda manager: manager.pin(key_of(1)),
    "set_priority": lambda manager: manager.set_priority(key_of(1), 1),
    "unpin": lambda manager: manager.unpin(key_of(1)),
    "in": lambda manager: key_of(1) in manager,
    "len": len,
    "session_keys": KVCacheManager.session_keys,
    "get_stats": KVCacheManager.get_stats,
    "emit_pool_snapshot": KVCacheManager.emit_pool_snapshot,
    "check_integrity": KVCacheManager.check_integrity,
}
