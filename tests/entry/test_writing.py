"""`KVCacheEntry.writing`: the caller writes the tokens in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    ContextOverflowError,
    EntryRemovedError,
    InvalidTokensError,
    LayerIndexError,
    LayerMismatchError,
    PoolExhaustedError,
)
from kvpool.manager import KVCacheManager
from tests.support.sessions import LAYOUT, Tokens, key_of, random_tokens, same_bits


@pytest.fixture
def entry(manager: KVCacheManager) -> KVCacheEntry:
    return manager.create_cache_entry(key_of(0), 8)


def write(entry: KVCacheEntry, layer: int, tokens: Tokens) -> int:
    """Write tokens of one layer; return the position of the first."""
    with entry.writing(layer, tokens.keys.shape[2]) as place:
        keys, values = place
        keys[:], values[:] = tokens.layer(layer)
        return place.start


def test_tokens_are_where_append_would_have_put_them(
    manager: KVCacheManager, entry: KVCacheEntry
) -> None:
    other = manager.create_cache_entry(key_of(1), 8)
    for count in (3, 1, 4):
        tokens = random_tokens(LAYOUT, count)
        for layer in range(2):
            start = write(entry, layer, tokens)
            assert entry.held(layer) == other.append(layer, *tokens.layer(layer)) == start + count
    assert entry.token_count == 8
    assert same_bits(entry.keys(), other.keys())
    assert same_bits(entry.values(), other.values())


def test_the_place_says_where_it_is(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    lease = manager.pool.lease(entry.block)
    for layer in range(2):
        with entry.writing(layer, 1) as place:
            assert place.root is lease
            assert (place.layer, place.start, place.count) == (layer, 0, 1)
            assert place.geometry.max_context_length == 8
            keys, values = place
            assert keys.shape == values.shape == (LAYOUT.kv_heads, 1, LAYOUT.head_dim)
            assert np.shares_memory(keys, lease)
    manager.get_or_create_cache(key_of(0), 16)
    with entry.writing(0, 1) as place:
        assert place.root is not lease
        assert (place.geometry.max_context_length, place.start) == (16, 1)


def test_the_place_is_not_a_lease_afterwards(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    with entry.writing(0, 1) as place:
        assert manager.pool.is_leased(entry.block)
    assert not manager.pool.is_leased(entry.block)
    assert not hasattr(place, "root")


@pytest.mark.parametrize(
    ("layer", "count", "error"),
    [
        (0, 0, InvalidTokensError),
        (0, -1, InvalidTokensError),
        (0, 1.0, InvalidTokensError),
        (0, float("nan"), InvalidTokensError),
        (0, "3", InvalidTokensError),
        (0, None, InvalidTokensError),
        (2, 1, LayerIndexError),
        (-1, 1, LayerIndexError),
        (0.0, 1, LayerIndexError),
        ("0", 1, LayerIndexError),
        (None, 1, LayerIndexError),
        (0, 2, LayerMismatchError),
        (1, 2, LayerMismatchError),
        (1, 9, LayerMismatchError),
    ],
)
def test_bad_arguments_write_nothing(
    entry: KVCacheEntry, layer: Any, count: Any, error: type[Exception]
) -> None:
    entry.append(0, *random_tokens(LAYOUT, 3).layer(0))
    with pytest.raises(error) as caught, entry.writing(layer, count):
        pytest.fail("the block must not run")
    if error in {InvalidTokensError, LayerIndexError}:
        wrong = count if error is InvalidTokensError else layer
        assert repr(wrong) in str(caught.value)
    assert (entry.held(0), entry.held(1)) == (3, 0)


def test_a_count_of_numpy_is_a_count(entry: KVCacheEntry) -> None:
    layer, count = np.array([0, 3], dtype="int64")  # elements are not ints of Python
    with entry.writing(layer, count):
        pass
    assert entry.held(0) == 3
    assert type(entry.held(0)) is int


def test_more_than_there_is_room_for_is_not_written(entry: KVCacheEntry) -> None:
    with pytest.raises(ContextOverflowError, match="holds 0 tokens, 9 more"), entry.writing(0, 9):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("error", [RuntimeError, PoolExhaustedError, EntryRemovedError])
def test_tokens_that_were_not_written_do_not_count(
    entry: KVCacheEntry, error: type[Exception]
) -> None:
    entry.append(0, *random_tokens(LAYOUT, 3).layer(0))
    raised = error(1, 2, 3) if error is PoolExhaustedError else error("torch has no memory")
    last_use = entry.last_use

    def fail() -> None:
        with entry.writing(1, 3):
            raise raised

    with pytest.raises(error) as caught:
        fail()
    assert caught.value is raised
    assert entry.last_use == last_use
    assert entry.key(1).shape[1] == 0
    assert entry.append(1, *random_tokens(LAYOUT, 3).layer(1)) == 3


def test_an_entry_that_has_gone_is_not_written(
    manager: KVCacheManager, entry: KVCacheEntry
) -> None:
    manager.remove_cache_entry(key_of(0))
    with pytest.raises(EntryRemovedError), entry.writing(0, 1):
        pytest.fail("the block must not run")


def test_it_is_a_use(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    other = manager.create_cache_entry(key_of(1), 8)
    before = other.last_use
    write(entry, 0, random_tokens(LAYOUT, 1))
    assert entry.last_use > before
