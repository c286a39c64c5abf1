"""`key`, `value`, `keys` and `values`: what views show."""

from __future__ import annotations

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    LayerIndexError,
)
from tests.support.entry_calls import GOOD, Call, check_refused
from tests.support.sessions import LAYOUT, random_tokens, same_bits


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


@pytest.mark.parametrize("layer", [2, -1, 100])
def test_no_such_layer(started: KVCacheEntry, layer: int) -> None:
    calls: list[Call] = [
        lambda e: e.append(layer, GOOD, GOOD),
        lambda e: e.key(layer),
        lambda e: e.value(layer, writeable=True),
    ]
    for call in calls:
        check_refused(started, call, LayerIndexError, f"no layer {layer}: it has 2")
