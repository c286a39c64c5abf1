"""Where a fork has to be a copy: without the capability, near a limit, and refused."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from kvpool.arena import Arena
from kvpool.errors import ArenaError, ForkLimitError, PoolExhaustedError
from kvpool.fork_limits import ForkLimits
from kvpool.manager import KVCacheManager
from kvpool.stats import CopyReason
from tests.support.elastic_sessions import (
    CONTEXT,
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
from tests.support.sessions import key_of


def test_without_kernel_forks_it_is_a_copy() -> None:
    with KVCacheManager(1 << 22, "numpy", PAPER) as manager:
        parent, tokens = new_session(manager, 1, 10)
        child = parent.fork("two")
        more, others = more_tokens(child, 3, 4), more_tokens(parent, 3, 5)
        assert holds(child, tokens, more)
        assert holds(parent, tokens, others)
        stats = manager.get_stats()
        assert (stats.forks, stats.copied_forks) == (0, 1)
        assert counted(manager) == {CopyReason.WHOLE_BLOCK: 1}
        manager.check_integrity()


def test_a_copy_that_does_not_fit_changes_nothing() -> None:
    nbytes = PAPER.geometry(CONTEXT).nbytes
    with KVCacheManager(2 * nbytes, "numpy", PAPER) as manager:
        new_session(manager, 1, 10)
        other, _ = new_session(manager, 2, 10)
        lease = other.keys()
        with pytest.raises(PoolExhaustedError):
            new_fork(manager, 1, 3)
        assert session_ids(manager) == [1, 2]
        del lease
        new_fork(manager, 1, 3)
        assert session_ids(manager) == [1, 3]
        assert manager.get_stats().copied_forks == 1


def counted(manager: KVCacheManager) -> dict[CopyReason, int]:
    stats = manager.get_stats()
    assert sum(stats.copied_forks_by_reason.values()) == stats.copied_forks
    assert stats.copied_forks_by_reason == manager.pool.stats().copied_forks_by_reason
    return {reason: count for reason, count in stats.copied_forks_by_reason.items() if count}


REFUSALS = {
    CopyReason.MAPPINGS: ForkLimitError("no", "mappings"),
    CopyReason.DESCRIPTORS: ForkLimitError("no", "descriptors"),
    CopyReason.MEMORY: ForkLimitError("no", "memory"),
    CopyReason.ARENA: ArenaError("no"),
}


def refuse(error: ArenaError, _offset: int, _nbytes: int) -> NoReturn:
    raise error


@needs_pages
@elastic
def test_each_reason_is_logged_once_and_counted(
    backend: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with elastic_manager(1000, backend) as manager:
        _, tokens = new_session(manager, 0, 10)
        new_fork(manager, 0, 1)
        number = 1
        for error in (*REFUSALS.values(), ForkLimitError("no", "a backend's own reason")):
            monkeypatch.setattr(Arena, "fork", staticmethod(partial(refuse, error)))
            for _ in range(2):
                number += 1
                assert holds(new_fork(manager, 0, number), tokens)
        assert counted(manager) == dict.fromkeys(REFUSALS, 2) | {CopyReason.ARENA: 4}
        assert len(caplog.records) == len(REFUSALS)
        before = manager.get_stats()
        new_fork(manager, 0, number + 1)
        assert before.copied_forks == 10  # figures of one moment stay


@needs_pages
def test_an_arena_that_cannot_fork(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)  # as in some builds of Python
    with elastic_manager(1000, "mmap") as manager:
        _, tokens = new_session(manager, 0, 10)
        assert all(holds(new_fork(manager, 0, number), tokens) for number in (1, 2))
        assert counted(manager) == {CopyReason.ARENA: 2}
        assert [record.message for record in caplog.records] == [
            "forks are copies from now on: the mmap arena cannot fork"
        ]


NEAR_THE_LIMIT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
from tests.support.elastic_sessions import elastic_manager, holds, more_tokens
from tests.support.elastic_sessions import new_session, pages_in_use
from tests.support.sessions import key_of

with elastic_manager(4000, sys.argv[1]) as manager:
    limit = manager.pool.arena_info.fork_limit
    parent, tokens = new_session(manager, 0, 10)
    count = min(limit, 100) + 5
    children = [manager.fork_cache_entry(key_of(0), key_of(n)) for n in range(1, count + 1)]
    stats = manager.get_stats()
    parts = [more_tokens(child, 2, 50 + n) for n, child in enumerate(children)]
    assert all(holds(child, tokens, part) for child, part in zip(children, parts))
    assert holds(parent, tokens)
    pages_in_use(manager)
    print(limit, count, stats.forks, stats.copied_forks)
"""


@needs_pages
@elastic
def test_near_the_limit_of_descriptors_it_is_a_copy(backend: str) -> None:
    limit, count, shared, copied = in_another_process(NEAR_THE_LIMIT, backend)
    if backend == "mmap" and sys.version_info < (3, 13):  # each mapping keeps a descriptor
        assert limit == 40
    assert (shared, copied) == (min(limit, count), max(count - limit, 0))


REFUSED = """
import resource, sys
from tests.support.elastic_sessions import elastic_manager, holds, more_tokens
from tests.support.elastic_sessions import new_session, pages_in_use
from tests.support.sessions import key_of

with elastic_manager(1000, sys.argv[1], address_space=1 << 30) as manager:
    parent, tokens = new_session(manager, 0, 10)
    first = manager.fork_cache_entry(key_of(0), key_of(1))
    parent.truncate(4)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 32))
    child = manager.fork_cache_entry(key_of(1), key_of(2))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
    stats = manager.get_stats()
    part = more_tokens(child, 2, 5)
    assert holds(child, tokens, part) and holds(first, tokens)
    pages_in_use(manager)
    print(stats.forks, stats.copied_forks)
"""


@needs_pages
@elastic
def test_where_the_kernel_refuses_it_is_a_copy(backend: str) -> None:
    assert in_another_process(REFUSED, backend) == [1, 1]


PART_REFUSED = """
import resource, sys
from kvpool.errors import ArenaError
from tests.support.elastic_sessions import elastic_manager, holds, more_tokens
from tests.support.elastic_sessions import new_session, pages_in_use
from tests.support.sessions import key_of

with elastic_manager(1000, sys.argv[1], address_space=1 << 30) as manager:
    parent, tokens = new_session(manager, 0, 10)
    child = manager.fork_cache_entry(key_of(0), key_of(1))
    parent.truncate(4)
    before = manager.get_stats()
    from tests.support.elastic_sessions import PAPER
    from tests.support.sessions import random_tokens
    more = random_tokens(PAPER, 2, 5)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 32))
    try:
        parent.extend(*more)
    except ArenaError:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
        assert manager.get_stats() == before
        assert holds(child, tokens) and parent.token_count == 4
        parent.extend(*more)
        assert holds(child, tokens) and parent.token_count == 6
        pages_in_use(manager)
        print(1)
"""


@needs_pages
@elastic
def test_where_the_kernel_refuses_a_part_nothing_has_changed(backend: str) -> None:
    assert in_another_process(PART_REFUSED, backend) == [1]


def in_another_process(script: str, backend: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", script, backend],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    return [int(word) for word in done.stdout.split()]


@needs_pages
@elastic
def test_beyond_the_limit_of_the_arena_it_is_a_copy(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ForkLimits, "limit", lambda **_machine: 2)
    with elastic_manager(1000, backend) as manager:
        assert manager.pool.arena_info.fork_limit == 2
        _, tokens = new_session(manager, 0, 10)
        children = [new_fork(manager, 0, number) for number in range(1, 5)]
        assert (manager.get_stats().forks, manager.get_stats().copied_forks) == (2, 2)
        assert pages_in_use(manager) == 9 * PAGES
        manager.remove_cache_entry(key_of(1))
        children[0] = new_fork(manager, 0, 5)  # there is room for one again
        assert (manager.get_stats().forks, manager.get_stats().copied_forks) == (2, 2)
        assert counted(manager) == {CopyReason.ARENA_LIMIT: 2}
        assert all(holds(child, tokens) for child in children)


@needs_pages
@elastic
def test_a_copy_that_lacks_pages_evicts_or_changes_nothing(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ForkLimits, "limit", lambda **_machine: 0)
    with elastic_manager(6 * PAGES, backend) as manager:
        assert manager.pool.arena_info.fork_limit == 0
        _, tokens = new_session(manager, 1, 12)
        new_session(manager, 2, 8)
        child = new_fork(manager, 1, 3)
        assert session_ids(manager) == [1, 3]
        assert holds(child, tokens)
        before = manager.get_stats()
        lease = child.keys()
        with pytest.raises(PoolExhaustedError):
            new_fork(manager, 1, 4)
        assert manager.get_stats() == before
        assert pages_in_use(manager) == 6 * PAGES
        del lease
