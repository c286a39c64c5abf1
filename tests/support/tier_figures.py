"""A store of tiers that has done a bit of what its metrics count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kvpool import KVCacheEntry, MemoryPool
from kvpool.prefix import token_bytes
from kvpool.tiers import Tier, TierStore
from tests.support.stored_chunks import CHUNK_TOKENS, IDENTITY, chunks, fill

__all__ = ["LOADED", "busy_store"]

LOADED: Final = 4 * CHUNK_TOKENS
"""Tokens that the store has loaded."""


@contextmanager
def busy_store(*levels: str | Tier) -> Iterator[TierStore]:
    """Give a store that has loaded 4 of the 6 chunks it was asked for, from its last level."""
    tokens = 6 * CHUNK_TOKENS
    pool = MemoryPool(4 << 20, backend="numpy")
    with TierStore(levels, chunk_tokens=CHUNK_TOKENS) as store:
        fill(store.levels[-1].breaker, chunks(4))
        entry = KVCacheEntry.create(pool, IDENTITY.layout, tokens, "busy")
        assert store.load(IDENTITY, token_bytes(list(range(tokens))), entry).tokens == LOADED
        store.drain(60)
        yield store
