"""`remove_chunks`: empties a tier."""

from __future__ import annotations

from typing import Final

from kvpool.errors import TierError
from kvpool.tiers import CHUNK_PREFIX, Chunk, Level

__all__ = ["remove_chunks"]

_AT_ONCE: Final = 256


def remove_chunks(level: Level) -> bool:
    """Remove all chunks of a tier; return False if it does not answer, or still has some."""
    tier = level.breaker
    try:
        keys = list(tier.keys(CHUNK_PREFIX))
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            tier.remove(some)
            for key in some:
                level.forget(_named(key))
        return next(tier.keys(CHUNK_PREFIX), None) is None
    except TierError:
        return False


def _named(key: bytes) -> Chunk:
    """Return a chunk with the name that is in a key of a tier."""
    return Chunk("", 1, 1, 1, "int8", 0, 1, b"", key[len(CHUNK_PREFIX) :])
