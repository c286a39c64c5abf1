from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kvpool.entry._entry import KVCacheEntry
from kvpool.layout import DTYPES, KVLayout
from kvpool.pool import MemoryPool
from tests.support.sessions import LAYOUT, Clock, random_tokens, same_bits


@pytest.fixture
def pool(backend: str) -> Iterator[MemoryPool]:
    with MemoryPool(1 << 18, backend) as pool:
        yield pool


@pytest.fixture
def entry(pool: MemoryPool) -> KVCacheEntry:
    return KVCacheEntry.create(pool, LAYOUT, 16, "chat/42")


def held(entry: KVCacheEntry, layer: int) -> int:
    return int(entry.key(layer).shape[1])


# -- what it is --------------------------------------------------------------------------


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


# -- writing -----------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_layers_are_appended_in_any_order(entry: KVCacheEntry, order: tuple[int, ...]) -> None:
    tokens = random_tokens(LAYOUT, 16)
    at = 0
    for count in (5, 1, 1, 3, 6):
        step = slice(at, at + count)
        at += count
        for layer in order:
            keys, values = tokens.layer(layer)
            assert entry.append(layer, keys[:, step], values[:, step]) == at
            assert same_bits(entry.key(layer), keys[:, :at])
            assert same_bits(entry.value(layer), values[:, :at])
        assert entry.token_count == at
        assert same_bits(entry.keys(), tokens.keys[:, :, :at])
        assert same_bits(entry.values(), tokens.values[:, :, :at])
    assert at == entry.max_context_length


def test_one_token_needs_no_token_axis(entry: KVCacheEntry) -> None:
    tokens = random_tokens(LAYOUT, 3)
    for layer in range(2):
        keys, values = tokens.layer(layer)
        assert entry.append(layer, keys[:, 0], values[:, 0]) == 1
    for layer in range(2):
        keys, values = tokens.layer(layer)
        assert entry.append(layer, keys[:, 1], values[:, 1:2]) == 2
    assert entry.extend(tokens.keys[:, :, 2], tokens.values[:, :, 2]) == 3
    assert same_bits(entry.keys(), tokens.keys)
    assert same_bits(entry.values(), tokens.values)


def test_extending_is_appending_to_every_layer(pool: MemoryPool) -> None:
    one, other = (KVCacheEntry.create(pool, LAYOUT, 16, "s") for _ in range(2))
    for count in (4, 1, 7):
        tokens = random_tokens(LAYOUT, count)
        total = one.extend(*tokens)
        for layer in range(2):
            assert other.append(layer, *tokens.layer(layer)) == total
    assert one.token_count == other.token_count == 12
    assert same_bits(one.data(), other.data())


def test_a_step_shows_in_the_layers_that_took_it(entry: KVCacheEntry) -> None:
    tokens = random_tokens(LAYOUT, 5)
    entry.extend(tokens.keys[:, :, :2], tokens.values[:, :, :2])
    entry.append(1, tokens.keys[1, :, 2:], tokens.values[1, :, 2:])
    assert (held(entry, 0), held(entry, 1), entry.token_count) == (2, 5, 2)
    assert same_bits(entry.key(1), tokens.keys[1])
    assert same_bits(entry.keys(), tokens.keys[:, :, :2])
    entry.append(0, tokens.keys[0, :, 2:], tokens.values[0, :, 2:])
    assert same_bits(entry.keys(), tokens.keys)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_bit_of_every_dtype_comes_back(pool: MemoryPool, dtype: str) -> None:
    layout = KVLayout(2, 2, 64, dtype)
    entry = KVCacheEntry.create(pool, layout, 70, "s")
    tokens = random_tokens(layout, 70)
    if dtype != "int8":
        with np.errstate(invalid="ignore"):  # some of them are signalling
            assert np.isnan(tokens.keys).any()
        tokens.keys[0, :, 3] = (np.inf, -np.inf) * 32
        tokens.values[1, :, 4] = (-0.0, np.nan) * 32
    entry.extend(*tokens)
    assert same_bits(entry.keys(), tokens.keys)
    assert same_bits(entry.values(), tokens.values)


def test_what_was_appended_is_a_copy(entry: KVCacheEntry) -> None:
    tokens, again = random_tokens(LAYOUT, 4), random_tokens(LAYOUT, 4)
    entry.extend(*tokens)
    tokens.keys[...] = 0
    assert same_bits(entry.keys(), again.keys)


def test_tokens_may_lie_in_memory_as_they_like(entry: KVCacheEntry) -> None:
    tokens = random_tokens(LAYOUT, 6)
    by_token = np.ascontiguousarray(tokens.keys.transpose(2, 1, 0, 3)).transpose(2, 1, 0, 3)
    backwards = np.ascontiguousarray(tokens.values[:, ::-1, :, ::-1])[:, ::-1, :, ::-1]
    assert not by_token.flags.c_contiguous
    entry.extend(by_token, backwards)
    assert same_bits(entry.keys(), tokens.keys)
    assert same_bits(entry.values(), tokens.values)


def test_entries_do_not_touch_each_other(pool: MemoryPool) -> None:
    count = pool.capacity // LAYOUT.geometry(16).nbytes
    entries = [KVCacheEntry.create(pool, LAYOUT, 16, f"s{n}") for n in range(count)]
    for number, entry in enumerate(entries):
        entry.extend(*random_tokens(LAYOUT, 16, number))
    for number, entry in enumerate(entries):
        tokens = random_tokens(LAYOUT, 16, number)
        assert same_bits(entry.keys(), tokens.keys)
        assert same_bits(entry.values(), tokens.values)


# -- truncating --------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 7, 12])
def test_tokens_after_a_truncation_take_the_place_of_those_dropped(
    entry: KVCacheEntry, kept: int
) -> None:
    first, second = random_tokens(LAYOUT, 12, 1), random_tokens(LAYOUT, 16 - kept, 2)
    entry.extend(*first)
    entry.truncate(kept)
    assert entry.token_count == kept
    assert same_bits(entry.keys(), first.keys[:, :, :kept])
    assert entry.extend(*second) == 16
    assert same_bits(entry.keys(), np.concatenate((first.keys[:, :, :kept], second.keys), axis=2))
    assert same_bits(entry.value(1)[:, kept:], second.values[1])


def test_a_half_done_step_is_rolled_back(entry: KVCacheEntry) -> None:
    first, lost, second = (random_tokens(LAYOUT, 4, seed) for seed in range(3))
    entry.extend(*first)
    entry.append(1, *lost.layer(1))
    entry.truncate(entry.token_count)
    assert (held(entry, 0), held(entry, 1)) == (4, 4)
    for layer in range(2):
        entry.append(layer, *second.layer(layer))
    assert same_bits(entry.keys(), np.concatenate((first.keys, second.keys), axis=2))


def test_truncating_counts_in_ints(entry: KVCacheEntry) -> None:
    entry.extend(*random_tokens(LAYOUT, 5))
    three: Any = np.int64(3)
    entry.truncate(three)
    assert type(entry.token_count) is int


# -- reading -----------------------------------------------------------------------------


def test_views_are_zero_copy_and_contiguous_per_head(entry: KVCacheEntry) -> None:
    entry.extend(*random_tokens(LAYOUT, 9))
    data = entry.data()
    assert data.shape == (entry.size_bytes,)
    for layer in range(2):
        for view in (entry.key(layer), entry.value(layer), entry.keys()[layer]):
            assert view.shape == (3, 9, 5)
            assert np.shares_memory(view, data)
            for head in range(3):
                assert view[head].flags.c_contiguous
                assert view[head].ctypes.data % 64 == 0
    assert not np.shares_memory(entry.key(0), entry.value(0))
    assert not np.shares_memory(entry.key(0), entry.key(1))


def test_views_are_read_only(entry: KVCacheEntry) -> None:
    entry.extend(*random_tokens(LAYOUT, 2))
    for view in (entry.key(0), entry.value(0), entry.keys(), entry.values()):
        assert not view.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0


def test_views_are_writeable_on_demand(entry: KVCacheEntry) -> None:
    tokens = random_tokens(LAYOUT, 2)
    entry.extend(*tokens)
    entry.key(1, writeable=True)[:, 1] = tokens.keys[1, :, 1] = 7
    entry.value(0, writeable=True)[2] = tokens.values[0, 2] = -1
    assert same_bits(entry.keys(), tokens.keys)
    assert same_bits(entry.values(), tokens.values)


def test_a_view_covers_the_tokens_of_its_time(entry: KVCacheEntry) -> None:
    first, second = random_tokens(LAYOUT, 3, 1), random_tokens(LAYOUT, 5, 2)
    entry.extend(*first)
    before = entry.key(0)
    entry.extend(*second)
    assert same_bits(before, first.keys[0])
    assert np.shares_memory(before, entry.key(0))
    assert entry.key(0).ctypes.data == before.ctypes.data


# -- moving ------------------------------------------------------------------------------


def test_tokens_move_to_another_block(pool: MemoryPool, entry: KVCacheEntry) -> None:
    tokens = random_tokens(LAYOUT, 30)
    entry.extend(tokens.keys[:, :, :10], tokens.values[:, :, :10])
    entry.append(0, tokens.keys[0, :, 10:16], tokens.values[0, :, 10:16])
    before, old_block = entry.key(0), entry.block
    geometry = LAYOUT.geometry(30)
    block = pool.allocate(geometry.nbytes)
    assert entry.relocate(block, geometry) is old_block
    assert entry.block is block
    assert entry.max_context_length == 30
    assert (held(entry, 0), held(entry, 1), entry.token_count) == (16, 10, 10)
    assert same_bits(before, tokens.keys[0, :, :16])
    assert not np.shares_memory(before, entry.key(0))
    entry.append(1, tokens.keys[1, :, 10:16], tokens.values[1, :, 10:16])
    entry.extend(tokens.keys[:, :, 16:], tokens.values[:, :, 16:])
    assert same_bits(entry.keys(), tokens.keys)
    assert same_bits(entry.values(), tokens.values)
