"""One bounded pool for the KV cache of every session.

Start with `KVCacheManager`, which keeps one `KVCacheEntry` per session and evicts when a new
one needs the bytes. Below it lie `MemoryPool`, which hands out blocks of an arena, and the
arenas themselves, which are plugins (`kvpool.backends`).
"""

from __future__ import annotations

from kvpool.__about__ import __version__
from kvpool.arena import Arena, ArenaBackend, ArenaInfo, Capability
from kvpool.backends import create_arena
from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry, PoolEntry
from kvpool.errors import KVPoolError
from kvpool.eviction.base import EvictionPolicy, EvictionReason
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.pool import ElasticPool, MemoryBlock, MemoryPool
from kvpool.stats import MemoryStats, PoolStats

__all__ = [
    "Arena",
    "ArenaBackend",
    "ArenaInfo",
    "CacheKey",
    "Capability",
    "ElasticPool",
    "EvictionPolicy",
    "EvictionReason",
    "KVCacheEntry",
    "KVCacheManager",
    "KVLayout",
    "KVPoolError",
    "MemoryBlock",
    "MemoryPool",
    "MemoryStats",
    "PoolEntry",
    "PoolStats",
    "__version__",
    "create_arena",
]
