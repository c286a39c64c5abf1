"""What happens to a session that has forks: no fork, and no view, ever sees it."""

from __future__ import annotations

import sys

import pytest

from kvpool.errors import (
    PoolExhaustedError,
)
from tests.support.elastic_sessions import (
    CONTEXT,
    PAGES,
    extended,
    forked,
    held_by,
    made,
    manager_of,
    shows,
)
from tests.support.sessions import Tokens, key_of, same_bits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")


elastic = pytest.mark.parametrize("backend", ["mmap", "ctypes"])


@elastic
def test_a_parent_may_leave(backend: str) -> None:
    with manager_of(100, backend) as manager:
        parent, tokens = made(manager, 1, 10)
        child = forked(manager, 1, 2)
        extended(parent, 20, 3)
        manager.remove_cache_entry(key_of(1))
        assert held_by(manager) == 3 * PAGES  # what the child reads
        assert manager.get_stats().parting_entries == 1
        made(manager, 3, 30)
        assert shows(child, tokens)
        manager.remove_cache_entry(key_of(3))
        manager.remove_cache_entry(key_of(2))
        assert held_by(manager) == 0
        assert manager.get_stats().parting_entries == 0


@elastic
@pytest.mark.parametrize("kept", [0, 3, 4, 9])
@pytest.mark.parametrize("leased", [False, True])
def test_a_parent_that_rewrites_parts_from_its_forks(backend: str, kept: int, leased: bool) -> None:
    with manager_of(200, backend) as manager:
        parent, tokens = made(manager, 1, 10)
        child, other = forked(manager, 1, 2), forked(manager, 1, 3)
        view = parent.values() if leased else None
        parent.truncate(kept)
        more = extended(parent, 12, 4)
        first = Tokens(tokens.keys[:, :, :kept], tokens.values[:, :, :kept])
        assert shows(parent, first, more)
        assert shows(child, tokens)
        assert shows(other, tokens)
        assert view is None or same_bits(view, tokens.values)
        held_by(manager)
        grandchild = forked(manager, 1, 4)
        manager.remove_cache_entry(key_of(1))
        manager.remove_cache_entry(key_of(2))
        del view
        assert shows(grandchild, first, more)
        assert shows(other, tokens)
        held_by(manager)
        manager.remove_cache_entry(key_of(3))
        manager.remove_cache_entry(key_of(4))
        assert held_by(manager) == 0
        assert manager.get_stats().reserved_memory == 0


@elastic
def test_a_view_keeps_what_a_part_left_behind(backend: str) -> None:
    with manager_of(200, backend) as manager:
        parent, tokens = made(manager, 1, 10)
        forked(manager, 1, 2)
        view = parent.keys()
        parent.truncate(3)
        extended(parent, 5, 4)
        for number in (2, 1):
            manager.remove_cache_entry(key_of(number))
            assert same_bits(view, tokens.keys)
        made(manager, 3, CONTEXT)
        assert same_bits(view, tokens.keys)
        manager.remove_cache_entry(key_of(3))
        assert held_by(manager) == 3 * PAGES
        del view
        assert held_by(manager) == 0
        assert manager.get_stats().reserved_memory == 0


@elastic
def test_a_part_that_cannot_be_served_changes_nothing(backend: str) -> None:
    with manager_of(4 * PAGES, backend) as manager:
        parent, tokens = made(manager, 1, 12)
        child = forked(manager, 1, 2)
        lease = child.keys()
        parent.truncate(2)
        before = manager.get_stats()
        with pytest.raises(PoolExhaustedError):
            extended(parent, 8, 4)
        assert manager.get_stats() == before
        assert held_by(manager) == 3 * PAGES
        assert same_bits(lease, tokens.keys)
        assert parent.token_count == 2
        extended(parent, 2, 5)
        assert held_by(manager) == 4 * PAGES


@elastic
def test_a_parent_may_grow(backend: str) -> None:
    with manager_of(400, backend) as manager:
        parent, tokens = made(manager, 1, 10)
        child = forked(manager, 1, 2)
        assert manager.get_or_create_cache(key_of(1), 10 * CONTEXT) is parent
        assert held_by(manager) == 6 * PAGES
        more = extended(parent, CONTEXT, 3)
        grown = manager.get_or_create_cache(key_of(2), 2 * CONTEXT)
        assert grown is child
        others = extended(child, CONTEXT, 4)
        assert shows(parent, tokens, more)
        assert shows(child, tokens, others)
        held_by(manager)


@elastic
def test_a_view_of_a_removed_fork_keeps_what_it_shows(backend: str) -> None:
    with manager_of(100, backend) as manager:
        _, tokens = made(manager, 1, 10)
        view = forked(manager, 1, 2).keys()
        for number in (2, 1):
            manager.remove_cache_entry(key_of(number))
        assert held_by(manager) == 3 * PAGES
        made(manager, 3, 10)
        assert same_bits(view, tokens.keys)
        del view
        assert held_by(manager) == 3 * PAGES
        assert manager.get_stats().parting_entries == 0


@elastic
def test_views_of_forks_outlive_the_manager(backend: str) -> None:
    with manager_of(100, backend) as manager:
        _, tokens = made(manager, 1, 10)
        child = forked(manager, 1, 2)
        more = extended(child, 3, 3)
        views = child.keys(), child.values()
    assert same_bits(views[0][:, :, :10], tokens.keys)
    assert same_bits(views[1][:, :, 10:], more.values)
