"""Forks of elastic pools: shared without a copy, private on write, and counted once."""

from __future__ import annotations

import contextlib

import pytest

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    ArenaError,
    EntryExistsError,
    EntryKindError,
    EntryNotFoundError,
    EntryRemovedError,
    InvalidTtlError,
    InvalidViewError,
)
from kvpool.pool import ElasticPool
from tests.support.elastic_sessions import (
    CONTEXT,
    PAGE,
    PAGES,
    PAPER,
    elastic_manager,
    holds,
    more_tokens,
    new_fork,
    new_session,
    pages_in_use,
    session_ids,
)
from tests.support.marks import elastic, needs_pages
from tests.support.page_counts import forks, private_bytes, smaps
from tests.support.sessions import key_of, random_tokens

pytestmark = needs_pages


# -- sharing -----------------------------------------------------------------------------


@elastic
def test_a_fork_shares_and_costs_nothing(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        parent, tokens = new_session(manager, 1, 10)
        child = new_fork(manager, 1, 2)
        assert holds(child, tokens)
        assert pages_in_use(manager) == 3 * PAGES
        assert child.committed_bytes == 0
        assert child.max_context_length == parent.max_context_length
        stats = manager.get_stats()
        assert (stats.forks, stats.copied_forks, stats.active_entries) == (1, 0, 2)
        assert stats.reserved_memory == parent.size_bytes
        assert child.key(0)[0].flags.c_contiguous


@elastic
def test_each_pays_for_what_it_writes(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        parent, tokens = new_session(manager, 1, 10)
        child = new_fork(manager, 1, 2)
        more = more_tokens(child, 3, 20)  # the boundary page and a new one
        assert child.committed_bytes == 2 * PAGES * PAGE
        assert pages_in_use(manager) == 5 * PAGES
        others = more_tokens(parent, 1, 21)
        assert pages_in_use(manager) == 5 * PAGES
        assert holds(parent, tokens, others)
        assert holds(child, tokens, more)
        child.truncate(10)
        assert pages_in_use(manager) == 3 * PAGES
        assert holds(child, tokens)


@elastic
def test_a_fork_pays_by_layer(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        _, tokens = new_session(manager, 1, 8)
        child = new_fork(manager, 1, 2)
        more = random_tokens(PAPER, 2, 9)
        child.append(1, *more.layer(1))
        assert child.committed_bytes == PAGES // 2 * PAGE
        pages_in_use(manager)
        child.append(0, *more.layer(0))
        assert pages_in_use(manager) == 3 * PAGES
        assert holds(child, tokens, more)


@elastic
def test_forks_of_forks(backend: str) -> None:
    with elastic_manager(400, backend) as manager:
        _, tokens = new_session(manager, 0, 6)
        parts = [tokens]
        for depth in range(1, 8):
            child = new_fork(manager, depth - 1, depth)
            parts.append(more_tokens(child, 3, depth))
            pages_in_use(manager)
        for depth in range(8):
            entry = manager.get_cache_entry(key_of(depth))
            assert isinstance(entry, KVCacheEntry)
            assert holds(entry, *parts[: depth + 1])
        assert manager.get_stats().copied_forks == 0
        for depth in (3, 0, 6, 1, 7, 2, 5):
            manager.remove_cache_entry(key_of(depth))
            pages_in_use(manager)
        last = manager.get_cache_entry(key_of(4))
        assert isinstance(last, KVCacheEntry)
        assert holds(last, *parts[:5])
        manager.remove_cache_entry(key_of(4))
        assert pages_in_use(manager) == 0
        assert manager.get_stats().reserved_memory == 0


@elastic
def test_a_fork_of_a_step_under_way_has_the_complete_tokens(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        parent, tokens = new_session(manager, 1, 5)
        more = random_tokens(PAPER, 4, 9)
        parent.append(0, *more.layer(0))
        child = new_fork(manager, 1, 2)
        assert holds(child, tokens)
        others = more_tokens(child, 4, 10)
        parent.append(1, *more.layer(1))
        assert holds(parent, tokens, more)
        assert holds(child, tokens, others)
        pages_in_use(manager)


@elastic
def test_a_fork_of_nothing(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        parent = manager.create_cache_entry(key_of(1), CONTEXT)
        child = new_fork(manager, 1, 2)
        mine, its = more_tokens(parent, 5, 1), more_tokens(child, 5, 2)
        assert holds(parent, mine)
        assert holds(child, its)
        assert pages_in_use(manager) == 4 * PAGES


# -- the kernel's figures ----------------------------------------------------------------


@elastic
def test_forks_cost_what_they_write(backend: str) -> None:
    """A hundred forks of a 4 MiB session: nothing at first, then the pages that were touched."""
    with elastic_manager(20_000, backend) as manager:
        parent = manager.create_cache_entry(key_of(0), 1024)
        more_tokens(parent, 514, 1)
        before = smaps(manager.pool, "Pss")
        children = [new_fork(manager, 0, number) for number in range(1, 101)]
        assert smaps(manager.pool, "Pss") - before < 1 << 20
        assert private_bytes(manager.pool) == 0
        for number, child in enumerate(children):
            more_tokens(child, 16, number)
        touched = 100 * 5 * PAGES * PAGE  # the boundary page, and four new ones, of every stripe
        assert sum(child.committed_bytes for child in children) == touched
        assert private_bytes(manager.pool) == smaps(manager.pool, "Anonymous") == touched
        assert abs(smaps(manager.pool, "Private_Dirty") - touched) < touched / 20
        assert pages_in_use(manager) == 129 * PAGES + touched // PAGE
        assert len(list(forks(manager.pool))) == manager.get_stats().forks == 100


# -- errors ------------------------------------------------------------------------------


@elastic
def test_what_cannot_be_forked_changes_nothing(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        new_session(manager, 1, 10)
        new_session(manager, 2, 1)
        manager.allocate_entry(key_of("raw"), 100)
        before = manager.get_stats()
        with pytest.raises(EntryExistsError, match="chat/2"):
            new_fork(manager, 1, 2)
        with pytest.raises(EntryExistsError, match="chat/1"):
            new_fork(manager, 1, 1)
        with pytest.raises(EntryNotFoundError, match="chat/9"):
            new_fork(manager, 9, 3)
        with pytest.raises(EntryKindError, match="raw"):
            manager.fork_cache_entry(key_of("raw"), key_of(3))
        with pytest.raises(InvalidTtlError, match="-1"):
            manager.fork_cache_entry(key_of(1), key_of(3), ttl=-1)
        assert manager.get_stats() == before
        manager.check_integrity()


@elastic
def test_a_stale_entry_cannot_be_forked(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        stale, _ = new_session(manager, 1, 10)
        manager.remove_cache_entry(key_of(1))
        with pytest.raises(EntryRemovedError):
            stale.fork("two")
        new_session(manager, 1, 3)  # the key is another session's now
        with pytest.raises(EntryRemovedError):
            stale.fork("two")
        assert session_ids(manager) == [1]


@elastic
def test_an_entry_of_no_manager_forks_too(backend: str) -> None:
    with ElasticPool(100 * PAGE, backend) as pool:
        parent = KVCacheEntry.create(pool, PAPER, CONTEXT, "one")
        tokens = more_tokens(parent, 5, 1)
        child = parent.fork("two")
        more = more_tokens(child, 5, 2)
        pool.deallocate(parent.block)
        assert holds(child, tokens, more)
        with contextlib.suppress(ArenaError), pytest.raises(InvalidViewError):
            pool.fork(child.block, child.block.size + 1)
        pool.check_integrity()
