"""One bounded pool for the KV cache of every session.

Start with `MemoryPool`, which hands out zeroed blocks of an arena; arenas are plugins
(`kvpool.backends`).
"""

from __future__ import annotations

from kvpool.__about__ import __version__
from kvpool.arena import Arena, ArenaBackend, ArenaInfo, Capability
from kvpool.backends import create_arena
from kvpool.block import MemoryBlock
from kvpool.errors import KVPoolError
from kvpool.memory_stats import MemoryStats
from kvpool.pool import MemoryPool

__all__ = [
    "Arena",
    "ArenaBackend",
    "ArenaInfo",
    "Capability",
    "KVPoolError",
    "MemoryBlock",
    "MemoryPool",
    "MemoryStats",
    "__version__",
    "create_arena",
]
