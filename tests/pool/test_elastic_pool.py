"""Elastic pools: what counts are the pages of the tokens held, and the kernel says the same."""

from __future__ import annotations

import contextlib
import random

import pytest

from kvpool.errors import (
    InvalidViewError,
    PoolExhaustedError,
)
from kvpool.eviction.base import EvictionReason
from kvpool.pool._opening import ElasticPool
from tests.support.elastic_sessions import (
    CONTEXT,
    PAGE,
    PAGES,
    PAPER,
    elastic_manager,
    holds,
    more_tokens,
    new_session,
    pages_in_use,
)
from tests.support.marks import elastic, needs_pages
from tests.support.sessions import key_of, random_tokens, same_bits

pytestmark = needs_pages


# -- what counts -------------------------------------------------------------------------


@elastic
def test_a_long_context_costs_its_tokens(backend: str) -> None:
    with elastic_manager(1000, backend) as manager:
        entry = manager.create_cache_entry(key_of(1), 131_072)
        assert pages_in_use(manager) == 0
        more_tokens(entry, 300, 1)
        assert pages_in_use(manager) == 75 * PAGES == entry.committed_bytes // PAGE
        stats = manager.get_stats()
        assert stats.reserved_memory == entry.size_bytes > 100 * stats.total_capacity
        assert stats.address_space > stats.reserved_memory


@elastic
def test_pages_come_by_layer(backend: str) -> None:
    with elastic_manager(1000, backend) as manager:
        entry, _ = new_session(manager, 1, 4)
        tokens = random_tokens(PAPER, 1, 7)
        entry.append(1, *tokens.layer(1))
        assert pages_in_use(manager) == PAGES + PAGES // 2
        entry.append(0, *tokens.layer(0))
        assert pages_in_use(manager) == 2 * PAGES


@elastic
def test_pages_go_with_the_tokens(backend: str) -> None:
    with elastic_manager(1000, backend) as manager:
        entry, tokens = new_session(manager, 1, 10)
        new_session(manager, 2, 5)
        for kept, pages in ((9, 3), (8, 2), (5, 2), (4, 1), (0, 0)):
            entry.truncate(kept)
            assert pages_in_use(manager) == (pages + 2) * PAGES
            assert same_bits(entry.keys(), tokens.keys[:, :, :kept])
        assert manager.get_stats().bytes_trimmed == 3 * PAGES * PAGE
        manager.remove_cache_entry(key_of(2))
        assert pages_in_use(manager) == 0
        again = more_tokens(entry, 10, 3)
        assert holds(entry, again)


@elastic
def test_a_raw_entry_counts_as_a_whole(backend: str) -> None:
    with elastic_manager(8, backend) as manager:
        manager.allocate_entry(key_of(1), 3 * PAGE + 1)
        manager.check_integrity()
        assert manager.get_stats().used_memory == 4 * PAGE
        with pytest.raises(PoolExhaustedError):
            manager.pool.allocate(5 * PAGE)
        manager.remove_cache_entry(key_of(1))
        assert pages_in_use(manager) == 0


@elastic
def test_trim_gives_back_what_a_view_kept(backend: str) -> None:
    with elastic_manager(1000, backend) as manager:
        entry, tokens = new_session(manager, 1, 10)
        view = entry.keys()
        entry.truncate(1)
        assert pages_in_use(manager) == 3 * PAGES
        assert same_bits(view, tokens.keys)
        entry.trim()
        assert pages_in_use(manager) == 3 * PAGES
        assert same_bits(view, tokens.keys)
        del view
        entry.trim()
        assert pages_in_use(manager) == PAGES


@elastic
def test_trim_keeps_the_tokens_of_layers_that_are_ahead(backend: str) -> None:
    with elastic_manager(1000, backend) as manager:
        entry, _ = new_session(manager, 1, 4)
        tokens = random_tokens(PAPER, 5, 7)
        entry.append(0, *tokens.layer(0))
        entry.trim()
        assert same_bits(entry.key(0)[:, 4:], tokens.keys[0])
        entry.append(1, *tokens.layer(1))
        assert same_bits(entry.keys()[:, :, 4:], tokens.keys)
        assert pages_in_use(manager) == 3 * PAGES


@elastic
@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_agrees_after_every_step(backend: str, seed: int) -> None:
    draws = random.Random(seed)
    with elastic_manager(60, backend, policy="lru") as manager:
        for step in range(150):
            key = key_of(draws.randrange(6))
            try:
                entry = manager.get_or_create_cache(key, draws.choice([16, CONTEXT]))
            except PoolExhaustedError:  # it cannot be twice, while it moves
                entry = manager.get_or_create_cache(key, 16)
            action = draws.choice(["extend", "extend", "truncate", "remove", "layer"])
            free = entry.max_context_length - entry.token_count
            if action == "extend" and free:
                entry.truncate(entry.token_count)  # no layer is ahead
                with contextlib.suppress(PoolExhaustedError):
                    more_tokens(entry, draws.randint(1, min(free, 9)), step)
            elif action == "layer" and free:
                entry.truncate(entry.token_count)
                with contextlib.suppress(PoolExhaustedError):
                    entry.append(1, *random_tokens(PAPER, 1, step).layer(1))
            elif action == "truncate":
                entry.truncate(draws.randint(0, entry.token_count))
            elif action == "remove":
                manager.remove_cache_entry(key)
            del entry
            pages_in_use(manager)
        assert manager.get_stats().evictions_by_reason[EvictionReason.LRU] > 0


# -- bytes -------------------------------------------------------------------------------


@elastic
def test_zero_range_gives_whole_pages_back(backend: str) -> None:
    with ElasticPool(8 * PAGE, backend, address_space=64 * PAGE) as pool:
        filler = [pool.reserve(PAPER.geometry(1, PAGE)) for _ in range(2)]
        block = pool.allocate(4 * PAGE)
        assert block.offset == 16 * PAGE > pool.capacity
        content = pool.lease(block)
        content[:] = 1
        with pytest.raises(InvalidViewError, match=rf"\[0, {64 * PAGE}\)"):
            pool.zero_range(block.offset, 64 * PAGE)
        assert content.all()
        pool.zero_range(block.offset + 10, 3 * PAGE)
        assert pool.committed_bytes() == 2 * PAGE  # until they are read
        assert content.sum() == PAGE
        content[:] = 1
        pool.zero_range(block.offset + 10, 20)
        assert content.sum() == 4 * PAGE - 20
        assert block.charged == pool.stats().used == 4 * PAGE
        assert [one.charged for one in filler] == [0, 0]
