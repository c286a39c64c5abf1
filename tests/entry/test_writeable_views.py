"""Writing in place: what it costs in an elastic pool, and what forks see of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvpool.entry import STANDALONE, KVCacheEntry
from kvpool.errors import EntryRemovedError, PoolExhaustedError, SharedTokensError
from kvpool.manager import KVCacheManager
from kvpool.pool import ElasticPool
from kvpool.stats import CopyReason
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
from tests.support.page_counts import kernel_bytes
from tests.support.sessions import key_of, same_bits

pytestmark = needs_pages
WHOLE = PAPER.geometry(CONTEXT, PAGE).nbytes // PAGE

WRITERS: dict[str, Callable[[KVCacheEntry], Any]] = {
    "key": lambda entry: entry.key(1, writeable=True),
    "value": lambda entry: entry.value(0, writeable=True),
    "data": lambda entry: entry.data(),
    "a slice of a slice": lambda entry: entry.key(0, writeable=True)[1:][..., ::2],
    "no element of it": lambda entry: entry.key(0, writeable=True)[:0],
    "bytes of data": lambda entry: entry.data().data[:9],
    "both": lambda entry: (entry.key(0, writeable=True), entry.key(1))[0],
}


# -- the budget --------------------------------------------------------------------------


@elastic
@pytest.mark.parametrize("write", [False, True])
def test_all_bytes_are_charged_before_they_are_shown(backend: str, write: bool) -> None:
    with elastic_manager(WHOLE + PAGES, backend) as manager:
        entry, tokens = new_session(manager, 1, 10)
        data = entry.data()
        assert data.nbytes == entry.size_bytes == entry.committed_bytes == WHOLE * PAGE
        if write:
            stripe = entry.size_bytes // PAGES
            data.reshape(PAGES, stripe)[:, -1] = 1
        else:
            bytes(data[::PAGE])  # a look at each page
        assert kernel_bytes(manager.pool) <= manager.pool.capacity
        manager.check_integrity()
        assert holds(entry, tokens)
        del data
        entry.trim()
        assert pages_in_use(manager) == 3 * PAGES
        assert holds(entry, tokens)


@elastic
def test_all_bytes_take_the_room_of_others_or_nothing(backend: str) -> None:
    with elastic_manager(WHOLE, backend) as manager:
        entry, _ = new_session(manager, 1, 10)
        other, tokens = new_session(manager, 2, 10)
        before, view = manager.get_stats(), other.key(0)
        with pytest.raises(PoolExhaustedError):
            entry.data()
        assert manager.get_stats() == before
        assert holds(other, tokens)
        del view
        assert entry.data().nbytes == WHOLE * PAGE
        assert session_ids(manager) == [1]


@pytest.mark.parametrize("backend", ["numpy", "mmap", "ctypes"])
def test_a_lease_keeps_the_entry_and_costs_nothing(backend: str) -> None:
    with KVCacheManager(2 * WHOLE * PAGE, backend, PAPER) as manager:
        entry, tokens = new_session(manager, 1, 10)
        used, before = manager.get_stats().used_memory, entry.last_use
        lease = entry.lease()
        assert manager.get_stats().used_memory == used
        assert entry.last_use > before
        assert manager.evict_lru_entries(2 * WHOLE * PAGE - used) == []
        with pytest.raises(PoolExhaustedError):
            manager.evict_lru_entries(2 * WHOLE * PAGE)
        assert holds(entry, tokens)
        del lease
        manager.evict_lru_entries(2 * WHOLE * PAGE)
        with pytest.raises(EntryRemovedError, match="chat/1"):
            entry.lease()


def test_a_lease_ends_with_its_block_or_when_it_is_released() -> None:
    with KVCacheManager(2 * WHOLE * PAGE, "numpy", PAPER) as manager:
        entry, _ = new_session(manager, 1, 10)
        seen = []
        with entry.lease() as lease:
            seen.append(entry.block.is_leased)
        seen.append(entry.block.is_leased)
        lease.release()  # once more does nothing
        other = entry.lease()
        seen.append(entry.block.is_leased)
        other.release()
        seen.append(entry.block.is_leased)
        assert seen == [True, False, True, False]


# -- forks -------------------------------------------------------------------------------


@elastic
@pytest.mark.parametrize("name", WRITERS)
def test_a_fork_does_not_show_what_an_earlier_view_writes(backend: str, name: str) -> None:
    with elastic_manager(100 * PAGES, backend) as manager:
        parent, tokens = new_session(manager, 1, 10)
        writer = WRITERS[name](parent)
        child = new_fork(manager, 1, 2)
        key, value = parent.key(1, writeable=True), parent.value(0, writeable=True)
        key[...], value[...] = 7, 7
        assert holds(child, tokens)
        assert not holds(parent, tokens)
        del key, value
        third = new_fork(manager, 1, 3)
        stats = manager.get_stats()
        assert (stats.forks, stats.copied_forks) == (0, 2)
        assert stats.copied_forks_by_reason[CopyReason.WRITEABLE_VIEW] == 2
        assert not holds(third, tokens)
        del writer
        new_fork(manager, 1, 4)
        assert (manager.get_stats().forks, manager.get_stats().copied_forks) == (1, 2)
        manager.check_integrity()


@elastic
def test_a_view_that_only_reads_makes_no_copy(backend: str) -> None:
    with elastic_manager(100 * PAGES, backend) as manager:
        parent, _ = new_session(manager, 1, 10)
        views = parent.key(0), parent.values(), parent.lease()
        new_fork(manager, 1, 2)
        assert (manager.get_stats().forks, manager.get_stats().copied_forks) == (1, 0)
        assert len(views) == 3


@elastic
def test_a_writer_of_the_block_before_a_move_makes_no_copy(backend: str) -> None:
    with elastic_manager(100 * PAGES, backend) as manager:
        parent, tokens = new_session(manager, 1, 10)
        view = parent.key(0, writeable=True)
        manager.get_or_create_cache(key_of(1), 2 * CONTEXT)
        child = new_fork(manager, 1, 2)
        view[...] = 7
        assert holds(child, tokens)
        assert (manager.get_stats().forks, manager.get_stats().copied_forks) == (1, 0)


@elastic
def test_a_writer_is_known_to_the_entry_that_takes_the_block_over(backend: str) -> None:
    with ElasticPool(100 * PAGES * PAGE, backend) as pool:
        before = KVCacheEntry.create(pool, PAPER, CONTEXT, "before")
        tokens = more_tokens(before, 10, 1)
        view = before.key(0, writeable=True)
        after = before.passed_to("after", STANDALONE)
        before.end()
        child = after.fork("child")
        view[...] = 7
        assert holds(child, tokens)
        assert pool.stats().copied_forks_by_reason[CopyReason.WRITEABLE_VIEW] == 1


@elastic
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("number", [1, 2])
def test_shared_tokens_are_not_shown_for_writing(backend: str, name: str, number: int) -> None:
    with elastic_manager(100 * PAGES, backend) as manager:
        parent, tokens = new_session(manager, 1, 10)
        child = new_fork(manager, 1, 2)
        entry, other = (parent, child) if number == 1 else (child, parent)
        assert entry.is_shared
        before, used = manager.get_stats(), entry.last_use
        with pytest.raises(SharedTokensError, match=f"chat/{number}.* shares pages") as caught:
            WRITERS[name](entry)
        assert (manager.get_stats(), entry.last_use) == (before, used)
        assert not manager.pool.is_leased(entry.block), caught
        assert holds(parent, tokens)
        assert holds(child, tokens)
        manager.remove_cache_entry(key_of(3 - number))
        with pytest.raises(EntryRemovedError):
            WRITERS[name](other)
        if entry is parent:  # shared with nobody now
            assert WRITERS[name](entry) is not None
        manager.check_integrity()


@elastic
def test_a_fork_that_wrote_all_of_its_tokens_may_be_changed(backend: str) -> None:
    with elastic_manager(100 * PAGES, backend) as manager:
        parent, tokens = new_session(manager, 1, 10)
        child = new_fork(manager, 1, 2)
        child.truncate(0)
        child.extend(*tokens)
        assert not child.is_shared
        child.key(0, writeable=True)[...] = 7
        assert holds(parent, tokens)
        assert not same_bits(child.key(0), tokens.keys[0])
        assert pages_in_use(manager) == 6 * PAGES


def test_without_pages_a_copy_may_always_be_changed() -> None:
    with KVCacheManager(1 << 22, "numpy", PAPER) as manager:
        parent, tokens = new_session(manager, 1, 10)
        view = parent.key(0, writeable=True)
        child = new_fork(manager, 1, 2)
        view[...] = 7
        assert holds(child, tokens)
        child.data()[:] = 0
        assert manager.get_stats().copied_forks_by_reason[CopyReason.WHOLE_BLOCK] == 1
