"""The errors of events."""

from __future__ import annotations

from kvpool.errors import KVPoolError

__all__ = ["EndpointError"]


class EndpointError(KVPoolError, OSError):
    """A socket cannot be bound or connected; the text names the endpoint and the reason."""
