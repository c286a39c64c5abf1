"""The backend ``numpy``: memory of a NumPy array, on every system."""

from __future__ import annotations

from kvpool.arena import ArenaBackend, Capability
from kvpool.hookspecs import hookimpl
from kvpool_numpy.arena import NumpyArena, create

__all__ = ["NumpyArena", "kvpool_arena_backend"]


@hookimpl
def kvpool_arena_backend() -> ArenaBackend:
    """Describe the backend."""
    return ArenaBackend(
        name="numpy",
        factory=create,
        capabilities=Capability.NONE,
        summary="memory of a NumPy array; on every system, without options",
    )
