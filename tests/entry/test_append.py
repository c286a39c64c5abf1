"""`KVCacheEntry.append`: the next tokens of one layer."""

from __future__ import annotations

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    ContextOverflowError,
    InvalidTokensError,
    LayerMismatchError,
)
from kvpool.layout import DTYPES, KVLayout
from kvpool.pool import MemoryPool
from tests.support.entry_calls import GOOD, Call, array, check_refused
from tests.support.sessions import LAYOUT, random_tokens, same_bits


def held(entry: KVCacheEntry, layer: int) -> int:
    return int(entry.key(layer).shape[1])


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


BAD_ARRAYS = {
    "another dtype": (array(3, 2, 5, dtype="float64"), "are float64, the layout is float32"),
    "a narrower dtype": (array(3, 2, 5, dtype="float16"), "are float16, the layout is float32"),
    "other byte order": (array(3, 2, 5, dtype=">f4"), "are >f4, the layout is float32"),
    "a list of numbers": ([[[1.0] * 5] * 2] * 3, "are float64"),
    "too few heads": (array(2, 2, 5), r"shape \(2, 2, 5\), not \(3, tokens, 5\)"),
    "another head_dim": (array(3, 2, 4), r"shape \(3, 2, 4\)"),
    "tokens before heads": (array(2, 3, 5), r"shape \(2, 3, 5\)"),
    "too few dimensions": (array(5), r"shape \(5,\)"),
    "no dimension": (array(), r"shape \(\)"),
    "a batch dimension": (array(1, 3, 2, 5), r"shape \(1, 3, 2, 5\)"),
    "no tokens": (array(3, 0, 5), "have no tokens"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
@pytest.mark.parametrize("what", ["keys", "values"])
def test_wrong_tokens(started: KVCacheEntry, name: str, what: str) -> None:
    bad, text = BAD_ARRAYS[name]
    pair = (bad, GOOD) if what == "keys" else (GOOD, bad)
    check_refused(started, lambda e: e.append(0, *pair), InvalidTokensError, f"^{what} .*{text}")


def test_past_the_context_length(started: KVCacheEntry) -> None:
    text = "holds 3 tokens, 6 more would exceed its max_context_length of 8"
    tokens = random_tokens(LAYOUT, 6)
    check_refused(started, lambda e: e.append(1, *tokens.layer(1)), ContextOverflowError, text)
    check_refused(started, lambda e: e.extend(*tokens), ContextOverflowError, text)
    started.extend(*random_tokens(LAYOUT, 5))
    text = "holds 8 tokens, 1 more"
    check_refused(started, lambda e: e.append(0, *[array(3, 5)] * 2), ContextOverflowError, text)


def test_counts_that_disagree_between_layers(started: KVCacheEntry) -> None:
    started.append(1, GOOD, GOOD)
    wrong: list[tuple[Call, str]] = [
        (lambda e: e.append(1, GOOD, GOOD), "layer 1 .* already holds 5 .* layer 0 still 3"),
        (lambda e: e.append(0, *[array(3, 1, 5)] * 2), "layer 0 .* appends 1 .* layer 1 .* 2"),
        (lambda e: e.extend(*[array(2, 3, 2, 5)] * 2), "layer 1 .* holds 5 tokens, others 3"),
    ]
    for call, text in wrong:
        check_refused(started, call, LayerMismatchError, text)
    assert started.append(0, GOOD, GOOD) == started.token_count == 5
