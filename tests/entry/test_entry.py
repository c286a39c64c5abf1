"""What an entry is, when it is new."""

from __future__ import annotations

import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    InvalidLayoutError,
    PoolExhaustedError,
)
from kvpool.pool import MemoryPool
from tests.support.sessions import LAYOUT, Clock, random_tokens, same_bits


def test_an_entry_says_what_it_is(pool: MemoryPool) -> None:
    clock = Clock()
    entry = KVCacheEntry.create(pool, LAYOUT, 16, "chat/42", clock)
    assert (entry.session_id, entry.token_count, entry.max_context_length) == ("chat/42", 0, 16)
    assert entry.layout == LAYOUT
    assert entry.size_bytes == LAYOUT.geometry(16).nbytes == entry.block.size
    clock.now += 5
    entry.key(0)
    assert (entry.created_at, entry.last_accessed) == (100.0, 105.0)
    assert "chat/42" in repr(entry)
    assert str(entry.size_bytes) in repr(entry)


def test_a_new_entry_holds_no_tokens_and_only_zeros(pool: MemoryPool) -> None:
    for _ in range(2):  # the second one gets the bytes of the first
        entry = KVCacheEntry.create(pool, LAYOUT, 16, "s")
        assert entry.key(1).shape == entry.value(1).shape == (3, 0, 5)
        assert entry.keys().shape == entry.values().shape == (2, 3, 0, 5)
        assert not entry.data().any()
        entry.data()[:] = 255
        pool.deallocate(entry.block)


def test_entries_do_not_touch_each_other(pool: MemoryPool) -> None:
    count = pool.capacity // LAYOUT.geometry(16).nbytes
    entries = [KVCacheEntry.create(pool, LAYOUT, 16, f"s{n}") for n in range(count)]
    for number, entry in enumerate(entries):
        entry.extend(*random_tokens(LAYOUT, 16, number))
    for number, entry in enumerate(entries):
        tokens = random_tokens(LAYOUT, 16, number)
        assert same_bits(entry.keys(), tokens.keys)
        assert same_bits(entry.values(), tokens.values)


def test_an_entry_that_cannot_be_made(pool: MemoryPool) -> None:
    before = pool.stats()
    with pytest.raises(PoolExhaustedError, match=f"largest free range has {pool.capacity}"):
        KVCacheEntry.create(pool, LAYOUT, 1 << 20, "s")
    with pytest.raises(InvalidLayoutError, match="max_context_length must be at least 1, not 0"):
        KVCacheEntry.create(pool, LAYOUT, 0, "s")
    assert pool.stats() == before
