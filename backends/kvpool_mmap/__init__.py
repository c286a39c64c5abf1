"""The backend ``mmap``: the standard library's mmap, over a file or over none."""

from __future__ import annotations

import sys

from kvpool.arena import ArenaBackend, Capability
from kvpool.hookspecs import hookimpl
from kvpool_mmap.arena import MmapArena
from kvpool_mmap.create import create, sparse_size

__all__ = ["MmapArena", "kvpool_arena_backend"]


@hookimpl
def kvpool_arena_backend() -> ArenaBackend:
    """Describe the backend."""
    is_linux = sys.platform == "linux"
    elastic = Capability.ELASTIC | Capability.FORK if is_linux else Capability.NONE
    return ArenaBackend(
        name="mmap",
        factory=create,
        capabilities=Capability.PERSISTENT | elastic,
        summary="the standard library's mmap: memory, or a file that outlasts the process",
        options={
            "path": "file that holds the bytes, created if it is missing (default: memory)",
            "reuse": "whether the file may have content, which is kept (default: False)",
        },
        sparse=sparse_size,
    )
