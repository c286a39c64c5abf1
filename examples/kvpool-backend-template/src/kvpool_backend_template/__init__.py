"""The backend ``template``: memory of a bytearray."""

from __future__ import annotations

from kvpool.arena import ArenaBackend, Capability
from kvpool.hookspecs import hookimpl
from kvpool_backend_template.arena import BytearrayArena, create

__all__ = ["BytearrayArena", "kvpool_arena_backend"]


@hookimpl
def kvpool_arena_backend() -> ArenaBackend:
    """Describe the backend; this must be cheap."""
    return ArenaBackend(
        name="template",
        factory=create,
        # What an arena can do on this system; Capability.ELASTIC needs Arena._decommit.
        capabilities=Capability.NONE,
        summary="memory of a bytearray",
        # kvpool refuses an option that is not here before it calls `create`.
        options={"alignment": "power of two that divides the base address (default: 64)"},
    )
