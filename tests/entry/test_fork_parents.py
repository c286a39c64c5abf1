"""What happens to a session that has forks: no fork, and no view, ever sees it."""

from __future__ import annotations

import pytest

from kvpool.errors import (
    PoolExhaustedError,
)
from tests.support.elastic_sessions import (
    CONTEXT,
    PAGES,
    elastic_manager,
    holds,
    more_tokens,
    new_fork,
    new_session,
    pages_in_use,
)
from tests.support.marks import elastic, needs_pages
from tests.support.sessions import Tokens, key_of, same_bits

pytestmark = needs_pages


@elastic
def test_a_parent_may_leave(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        parent, tokens = new_session(manager, 1, 10)
        child = new_fork(manager, 1, 2)
        more_tokens(parent, 20, 3)
        manager.remove_cache_entry(key_of(1))
        assert pages_in_use(manager) == 3 * PAGES  # what the child reads
        assert manager.get_stats().parting_entries == 1
        new_session(manager, 3, 30)
        assert holds(child, tokens)
        manager.remove_cache_entry(key_of(3))
        manager.remove_cache_entry(key_of(2))
        assert pages_in_use(manager) == 0
        assert manager.get_stats().parting_entries == 0


@elastic
@pytest.mark.parametrize("kept", [0, 3, 4, 9])
@pytest.mark.parametrize("leased", [False, True])
def test_a_parent_that_rewrites_parts_from_its_forks(backend: str, kept: int, leased: bool) -> None:
    with elastic_manager(200, backend) as manager:
        parent, tokens = new_session(manager, 1, 10)
        child, other = new_fork(manager, 1, 2), new_fork(manager, 1, 3)
        view = parent.values() if leased else None
        parent.truncate(kept)
        more = more_tokens(parent, 12, 4)
        first = Tokens(tokens.keys[:, :, :kept], tokens.values[:, :, :kept])
        assert holds(parent, first, more)
        assert holds(child, tokens)
        assert holds(other, tokens)
        assert view is None or same_bits(view, tokens.values)
        pages_in_use(manager)
        grandchild = new_fork(manager, 1, 4)
        manager.remove_cache_entry(key_of(1))
        manager.remove_cache_entry(key_of(2))
        del view
        assert holds(grandchild, first, more)
        assert holds(other, tokens)
        pages_in_use(manager)
        manager.remove_cache_entry(key_of(3))
        manager.remove_cache_entry(key_of(4))
        assert pages_in_use(manager) == 0
        assert manager.get_stats().reserved_memory == 0


@elastic
def test_a_view_keeps_what_a_part_left_behind(backend: str) -> None:
    with elastic_manager(200, backend) as manager:
        parent, tokens = new_session(manager, 1, 10)
        new_fork(manager, 1, 2)
        view = parent.keys()
        parent.truncate(3)
        more_tokens(parent, 5, 4)
        for number in (2, 1):
            manager.remove_cache_entry(key_of(number))
            assert same_bits(view, tokens.keys)
        new_session(manager, 3, CONTEXT)
        assert same_bits(view, tokens.keys)
        manager.remove_cache_entry(key_of(3))
        assert pages_in_use(manager) == 3 * PAGES
        del view
        assert pages_in_use(manager) == 0
        assert manager.get_stats().reserved_memory == 0


@elastic
def test_a_part_that_cannot_be_served_changes_nothing(backend: str) -> None:
    with elastic_manager(4 * PAGES, backend) as manager:
        parent, tokens = new_session(manager, 1, 12)
        child = new_fork(manager, 1, 2)
        lease = child.keys()
        parent.truncate(2)
        before = manager.get_stats()
        with pytest.raises(PoolExhaustedError):
            more_tokens(parent, 8, 4)
        assert manager.get_stats() == before
        assert pages_in_use(manager) == 3 * PAGES
        assert same_bits(lease, tokens.keys)
        assert parent.token_count == 2
        more_tokens(parent, 2, 5)
        assert pages_in_use(manager) == 4 * PAGES


@elastic
def test_a_parent_may_grow(backend: str) -> None:
    with elastic_manager(400, backend) as manager:
        parent, tokens = new_session(manager, 1, 10)
        child = new_fork(manager, 1, 2)
        assert manager.get_or_create_cache(key_of(1), 10 * CONTEXT) is parent
        assert pages_in_use(manager) == 6 * PAGES
        more = more_tokens(parent, CONTEXT, 3)
        grown = manager.get_or_create_cache(key_of(2), 2 * CONTEXT)
        assert grown is child
        others = more_tokens(child, CONTEXT, 4)
        assert holds(parent, tokens, more)
        assert holds(child, tokens, others)
        pages_in_use(manager)


@elastic
def test_a_view_of_a_removed_fork_keeps_what_it_shows(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        _, tokens = new_session(manager, 1, 10)
        view = new_fork(manager, 1, 2).keys()
        for number in (2, 1):
            manager.remove_cache_entry(key_of(number))
        assert pages_in_use(manager) == 3 * PAGES
        new_session(manager, 3, 10)
        assert same_bits(view, tokens.keys)
        del view
        assert pages_in_use(manager) == 3 * PAGES
        assert manager.get_stats().parting_entries == 0


@elastic
def test_views_of_forks_outlive_the_manager(backend: str) -> None:
    with elastic_manager(100, backend) as manager:
        _, tokens = new_session(manager, 1, 10)
        child = new_fork(manager, 1, 2)
        more = more_tokens(child, 3, 3)
        views = child.keys(), child.values()
    assert same_bits(views[0][:, :, :10], tokens.keys)
    assert same_bits(views[1][:, :, 10:], more.values)
