"""How much room the entry of a session gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kvpool.entry import KVCacheEntry
from kvpool.errors import ContextOverflowError, PoolExhaustedError
from kvpool.layout import KVLayout
from kvpool.pool import MemoryPool

__all__ = ["FIRST_ROOM", "ROOM_STEP", "SPARSE_ROOM", "cost", "rooms_for", "with_room"]

FIRST_ROOM = 256
"""Tokens to reserve for a new session if no length is given."""

SPARSE_ROOM = 1 << 17
"""The same in an elastic pool, where a reservation costs only addresses."""

ROOM_STEP = 64
"""Tokens by which the least room for a session is rounded up."""


def rooms_for(tokens: int, limit: int | None, session: str, *, is_sparse: bool) -> list[int]:
    """Return the rooms to try for an entry, the best one first.

    Parameters
    ----------
    tokens : int
        To have room for, at least.
    limit : int or None
        Tokens that there may ever be: that is then the room.
    session : str
        Named in errors.
    is_sparse : bool
        Whether room costs nothing.

    Raises
    ------
    ContextOverflowError
        The tokens exceed the limit.
    """
    if limit is None:
        ample = max(SPARSE_ROOM if is_sparse else FIRST_ROOM, 1 << (tokens - 1).bit_length())
        return [ample, -(-tokens // ROOM_STEP) * ROOM_STEP]
    if tokens > limit:
        raise ContextOverflowError(
            f"session {session!r} is to hold {tokens} tokens, its max_context_length is {limit}"
        )
    return [limit]


def with_room(rooms: Sequence[int], act: Callable[[int], KVCacheEntry]) -> KVCacheEntry:
    """Make or grow an entry, with the first room that it can have.

    Raises
    ------
    PoolExhaustedError
        The pool has too little memory for the least of them.
    """
    *ample, least = rooms
    for room in ample:
        try:
            return act(room)
        except PoolExhaustedError:
            continue
    return act(least)


def cost(pool: MemoryPool, layout: KVLayout, room: int, tokens: int) -> int:
    """Return the bytes that a pool charges for an entry that holds some tokens."""
    return pool.cost(layout.geometry(room, pool.granule), tokens)
