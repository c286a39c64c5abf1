"""The errors of sizing."""

from __future__ import annotations

from kvpool.errors import KVPoolError

__all__ = ["SizingError"]


class SizingError(KVPoolError, ValueError):
    """A trace cannot be used to size a pool, or an argument is not accepted; the text says why."""
