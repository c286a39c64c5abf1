"""`KVCacheEntry.stage`: room for the next tokens of all layers, before they are there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvpool.entry import KVCacheEntry, StagedTokens
from kvpool.errors import (
    ContextOverflowError,
    EntryRemovedError,
    InvalidTokensError,
    LayerMismatchError,
    PoolExhaustedError,
)
from kvpool.manager import KVCacheManager
from tests.support.sessions import LAYOUT, Tokens, key_of, random_tokens, same_bits


@pytest.fixture
def entry(manager: KVCacheManager) -> KVCacheEntry:
    return manager.create_cache_entry(key_of(0), 8)


def write(staged: StagedTokens, tokens: Tokens) -> None:
    """Write tokens of all layers where they are staged."""
    place = staged.geometry.full_view(staged.root, staged.start, staged.count)
    place[0], place[1] = tokens


def test_tokens_count_when_they_are_counted(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    other = manager.create_cache_entry(key_of(1), 8)
    held = 0
    for count in (3, 1, 4):
        tokens = random_tokens(LAYOUT, count)
        staged = entry.stage(count)
        assert (staged.start, staged.count) == (held, count)
        write(staged, tokens)
        assert entry.token_count == held
        held += count
        assert entry.extend_staged(staged) == held == other.extend(*tokens)
        del staged
    assert same_bits(entry.keys(), other.keys())
    assert same_bits(entry.values(), other.values())


def test_what_is_given_up_leaves_no_trace(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    tokens = random_tokens(LAYOUT, 2)
    entry.extend(*tokens)
    before, committed = entry.keys().copy(), entry.committed_bytes
    staged = entry.stage(6)
    write(staged, random_tokens(LAYOUT, 6))
    del staged
    entry.unstage()
    assert entry.token_count == 2
    assert entry.committed_bytes == committed
    assert same_bits(entry.keys(), before)
    manager.check_integrity()


def test_staging_is_a_lease(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    staged = entry.stage(1)
    assert manager.pool.is_leased(entry.block)
    entry.extend_staged(staged)
    del staged
    assert not manager.pool.is_leased(entry.block)


def test_a_fork_stages_behind_what_it_shares(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    entry.extend(*random_tokens(LAYOUT, 3))
    before = entry.keys().copy()
    fork = manager.fork_cache_entry(key_of(0), key_of(1))
    theirs, mine = random_tokens(LAYOUT, 2), random_tokens(LAYOUT, 4)
    for one, tokens in ((fork, theirs), (entry, mine)):
        staged = one.stage(tokens.keys.shape[2])
        write(staged, tokens)
        one.extend_staged(staged)
        del staged
    assert same_bits(fork.keys(), np.concatenate([before, theirs.keys], axis=2))
    assert same_bits(entry.keys(), np.concatenate([before, mine.keys], axis=2))


def test_a_fork_may_be_made_while_tokens_are_staged(
    manager: KVCacheManager, entry: KVCacheEntry
) -> None:
    entry.extend(*random_tokens(LAYOUT, 3))
    before = entry.keys().copy()
    staged = entry.stage(2)
    fork = manager.fork_cache_entry(key_of(0), key_of(1))
    tokens = random_tokens(LAYOUT, 2)
    write(staged, tokens)
    entry.extend_staged(staged)
    del staged
    fork.extend(*random_tokens(LAYOUT, 1))
    assert same_bits(entry.keys(), np.concatenate([before, tokens.keys], axis=2))
    assert same_bits(fork.keys()[:, :, :3], before)


@pytest.mark.parametrize("change", ["append", "truncate", "relocate"])
def test_an_entry_that_changed_refuses_what_was_staged_before(
    manager: KVCacheManager, entry: KVCacheEntry, change: str
) -> None:
    entry.extend(*random_tokens(LAYOUT, 2))
    staged = entry.stage(1)
    if change == "append":
        entry.extend(*random_tokens(LAYOUT, 1))
    elif change == "truncate":
        entry.truncate(1)
    else:
        assert manager.get_or_create_cache(key_of(0), 16) is entry
    held = entry.token_count
    with pytest.raises(LayerMismatchError, match="when its next ones were staged"):
        entry.extend_staged(staged)
    assert entry.token_count == held


def test_a_removed_entry_says_so(manager: KVCacheManager, entry: KVCacheEntry) -> None:
    staged = entry.stage(1)
    manager.remove_cache_entry(key_of(0))
    with pytest.raises(EntryRemovedError):
        entry.extend_staged(staged)
    with pytest.raises(EntryRemovedError):
        entry.stage(1)
    with pytest.raises(EntryRemovedError):
        entry.unstage()


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", None])
def test_a_bad_count_is_refused(entry: KVCacheEntry, count: Any) -> None:
    with pytest.raises(InvalidTokensError, match="whole number of at least 1"):
        entry.stage(count)
    assert entry.token_count == 0


def test_a_step_of_single_layers_must_be_finished_first(entry: KVCacheEntry) -> None:
    entry.append(0, *random_tokens(LAYOUT, 1).layer(0))
    with pytest.raises(LayerMismatchError):
        entry.stage(1)


def test_more_than_the_context_is_refused(entry: KVCacheEntry) -> None:
    entry.extend(*random_tokens(LAYOUT, 6))
    with pytest.raises(ContextOverflowError, match="holds 6 tokens, 3 more"):
        entry.stage(3)
    assert entry.token_count == 6


def test_others_are_evicted_for_the_pages() -> None:
    with KVCacheManager(1 << 18, "mmap", LAYOUT) as manager:
        if not manager.pool.is_elastic:
            pytest.skip("a rigid pool takes all bytes when an entry is made")
        length = 1 << 14
        first = manager.create_cache_entry(key_of(0), length)
        second = manager.create_cache_entry(key_of(1), length)
        count = 1
        while second.committed_bytes <= manager.pool.capacity // 2:
            second.extend(*random_tokens(LAYOUT, count))
            count *= 2
        staged = first.stage(second.token_count)
        assert key_of(1) not in manager
        with pytest.raises(PoolExhaustedError):
            first.stage(length)
        del staged
        manager.check_integrity()
