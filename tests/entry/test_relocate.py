"""`KVCacheEntry.relocate`: tokens that move to another block."""

from __future__ import annotations

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.entry._keeper import PoolRoom
from kvpool.errors import PoolExhaustedError
from kvpool.pool import MemoryPool
from tests.support.sessions import LAYOUT, random_tokens, same_bits


def held(entry: KVCacheEntry, layer: int) -> int:
    return int(entry.key(layer).shape[1])


def test_tokens_move_to_another_block(pool: MemoryPool, entry: KVCacheEntry) -> None:
    tokens = random_tokens(LAYOUT, 30)
    entry.extend(tokens.keys[:, :, :10], tokens.values[:, :, :10])
    entry.append(0, tokens.keys[0, :, 10:16], tokens.values[0, :, 10:16])
    before, old_block = entry.key(0), entry.block
    geometry = LAYOUT.geometry(30)
    assert entry.relocate(geometry, PoolRoom(pool)) is old_block
    assert entry.block is not old_block
    assert entry.size_bytes == geometry.nbytes
    assert entry.max_context_length == 30
    assert (held(entry, 0), held(entry, 1), entry.token_count) == (16, 10, 10)
    assert same_bits(before, tokens.keys[0, :, :16])
    assert not np.shares_memory(before, entry.key(0))
    entry.append(1, tokens.keys[1, :, 10:16], tokens.values[1, :, 10:16])
    entry.extend(tokens.keys[:, :, 16:], tokens.values[:, :, 16:])
    assert same_bits(entry.keys(), tokens.keys)
    assert same_bits(entry.values(), tokens.values)


def test_a_move_that_does_not_fit_changes_nothing(pool: MemoryPool, entry: KVCacheEntry) -> None:
    tokens = random_tokens(LAYOUT, 10)
    entry.extend(*tokens)
    before, block = pool.stats(), entry.block
    with pytest.raises(PoolExhaustedError) as kept:
        entry.relocate(LAYOUT.geometry(10_000), PoolRoom(pool))
    assert pool.stats() == before
    assert entry.block is block
    assert not block.is_leased, kept  # its traceback holds the frames that were under way
    assert same_bits(entry.keys(), tokens.keys)
