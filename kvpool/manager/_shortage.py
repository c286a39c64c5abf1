"""Which sessions keep a pool from having room."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from kvpool.cache_key import CacheKey
from kvpool.errors import PoolExhaustedError
from kvpool.manager._session import Session
from kvpool.pool import MemoryBlock

__all__ = ["explained"]


def explained(
    shortage: PoolExhaustedError, sessions: Mapping[CacheKey, Session], capacity: int
) -> PoolExhaustedError:
    """Return a shortage that says which sessions could not be evicted."""
    leased: dict[CacheKey, MemoryBlock] = {}
    pinned: dict[CacheKey, MemoryBlock] = {}
    for key, session in sessions.items():
        block = session.entry.block
        if block.is_leased:
            leased[key] = block
        elif session.pins:
            pinned[key] = block
    detail = shortage.detail
    if shortage.requested <= capacity:
        detail += _held(leased, "leases (live views) keep")
        detail += _held(pinned, "pins keep")
    return type(shortage)(
        shortage.requested,
        shortage.free,
        shortage.largest_free,
        detail,
        capacity,
        sum(block.charged for block in leased.values()),
        sum(block.charged for block in pinned.values()),
    )


def _held(blocks: dict[CacheKey, MemoryBlock], what_keeps: str) -> str:
    """Say how many bytes are kept, and of which sessions; nothing if none are."""
    if not blocks:
        return ""
    names = [str(key) for key in itertools.islice(blocks, 5)]
    if len(blocks) > len(names):
        names.append(f"{len(blocks) - len(names)} others")
    total = sum(block.charged for block in blocks.values())
    return f"; {what_keeps} {total} bytes of {', '.join(names)}"
