"""`KVCacheEntry.truncate` and `trim`: tokens that are dropped, and their pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    InvalidTokensError,
)
from tests.support.elastic_sessions import (
    PAGES,
    elastic_manager,
    holds,
    more_tokens,
    new_fork,
    new_session,
    pages_in_use,
)
from tests.support.entry_calls import GOOD, check_refused
from tests.support.marks import elastic, needs_pages
from tests.support.sessions import LAYOUT, Tokens, key_of, random_tokens, same_bits


def held(entry: KVCacheEntry, layer: int) -> int:
    return int(entry.key(layer).shape[1])


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


@pytest.mark.parametrize("count", [-1, 4, 1.0, 2.5, "2", None])
def test_truncating_to_what_is_not_there(started: KVCacheEntry, count: Any) -> None:
    text = f"to {count!r} tokens: it holds 3$"
    check_refused(started, lambda e: e.truncate(count), InvalidTokensError, text)
    started.append(0, GOOD, GOOD)
    check_refused(started, lambda e: e.truncate(count), InvalidTokensError, text)


@needs_pages
@elastic
def test_a_fork_that_drops_tokens_frees_what_its_parent_left(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        _, tokens = new_session(manager, 1, 10)
        child, other = new_fork(manager, 1, 2), new_fork(manager, 1, 3)
        manager.remove_cache_entry(key_of(1))
        for entry, kept, pages in ((child, 5, 3), (other, 4, 2), (child, 4, 1), (child, 0, 1)):
            entry.truncate(kept)
            assert pages_in_use(manager) == pages * PAGES
            assert same_bits(entry.keys(), tokens.keys[:, :, :kept])


@needs_pages
@elastic
def test_a_parent_may_drop_tokens(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        parent, tokens = new_session(manager, 1, 10)
        child = new_fork(manager, 1, 2)
        more_tokens(parent, 10, 3)
        parent.truncate(0)
        assert pages_in_use(manager) == 3 * PAGES
        assert holds(child, tokens)


@needs_pages
@elastic
def test_a_fork_that_wrote_under_a_lease_keeps_its_tokens_when_trimmed(backend: str) -> None:
    with elastic_manager(200, backend) as manager:
        _, tokens = new_session(manager, 1, 32)
        child = new_fork(manager, 1, 2)
        view = child.keys()
        child.truncate(10)
        more = more_tokens(child, 30, 3)
        del view
        child.truncate(20)
        first, second = (
            Tokens(part.keys[:, :, :10], part.values[:, :, :10]) for part in (tokens, more)
        )
        assert holds(child, first, second)
        child.truncate(10)
        assert holds(child, first)
        assert pages_in_use(manager) == 8 * PAGES
