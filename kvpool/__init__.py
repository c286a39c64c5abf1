"""One bounded pool for the KV cache of every session.

Start with `KVCacheEntry`, the keys and values of one session in a `MemoryPool`; arenas are plugins
(`kvpool.backends`).
"""

from __future__ import annotations

from kvpool.__about__ import __version__
from kvpool.arena import Arena, ArenaBackend, ArenaInfo, Capability
from kvpool.backends import create_arena
from kvpool.block import MemoryBlock
from kvpool.entry import KVCacheEntry
from kvpool.errors import KVPoolError
from kvpool.layout import KVLayout
from kvpool.memory_stats import MemoryStats
from kvpool.pool import MemoryPool
from kvpool.pool_entry import PoolEntry

__all__ = [
    "Arena",
    "ArenaBackend",
    "ArenaInfo",
    "Capability",
    "KVCacheEntry",
    "KVLayout",
    "KVPoolError",
    "MemoryBlock",
    "MemoryPool",
    "MemoryStats",
    "PoolEntry",
    "__version__",
    "create_arena",
]
