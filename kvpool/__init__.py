"""One bounded pool for the KV cache of every session.

Start with `KVCacheManager`, which keeps one `KVCacheEntry` per session and evicts when a new
one needs the bytes. Below it lie `MemoryPool`, which hands out blocks of an arena, and the
arenas themselves, which are plugins (`kvpool.backends`).

A name is imported when it is first used: Ctrl-C ends a command at once, also while NumPy is loaded.
"""

from __future__ import annotations

from kvpool import _first_use
from kvpool.__about__ import __version__
from kvpool._first_use import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOMES = {
    "Arena": "arena",
    "ArenaBackend": "arena",
    "ArenaInfo": "arena",
    "CacheKey": "cache_key",
    "Capability": "arena",
    "ElasticPool": "pool",
    "EvictionPolicy": "eviction.base",
    "EvictionReason": "eviction.base",
    "KVCacheEntry": "entry",
    "KVCacheManager": "manager",
    "KVLayout": "layout",
    "KVPoolError": "errors",
    "MemoryBlock": "pool",
    "MemoryPool": "pool",
    "MemoryStats": "stats",
    "PoolEntry": "entry",
    "PoolStats": "stats",
    "create_arena": "backends",
}

_MODULES = (
    "arena",
    "backends",
    "cache_key",
    "entry",
    "errors",
    "events",
    "eviction",
    "fork_limits",
    "hookspecs",
    "layout",
    "manager",
    "plugins",
    "pool",
    "prefix",
    "receipts",
    "stats",
)

if not TYPE_CHECKING:  # a type checker knows the names from above, and no others
    __getattr__, __dir__ = _first_use.on_first_use(
        __name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()}, _MODULES
    )
