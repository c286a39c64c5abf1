"""An arena that fails in the middle of an eviction: what has ended has a receipt, and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kvpool.arena import Arena
from kvpool.entry import KVCacheEntry
from kvpool.errors import ArenaError
from kvpool.manager import KVCacheManager
from kvpool.receipts.sinks.memory import MemorySink
from kvpool.receipts.types import KvEvictionReceipt
from kvpool_mmap.arena import MmapArena
from tests.support.elastic_sessions import (
    CONTEXT,
    PAGE,
    PAGES,
    PAPER,
    elastic_manager,
    holds,
    new_session,
    session_ids,
)
from tests.support.marks import elastic, needs_pages
from tests.support.sessions import Tokens, key_of, random_tokens

CALLS: dict[str, Callable[[KVCacheManager, KVCacheEntry], object]] = {
    "evict": lambda manager, _: manager.evict_lru_entries(4 * PAGES * PAGE),
    "remove": lambda manager, _: manager.remove_cache_entry(key_of(0)),
    "extend": lambda _, entry: entry.extend(*random_tokens(PAPER, 8)),
}

pytestmark = needs_pages


def fail(_arena: Arena, _offset: int, _nbytes: int) -> NoReturn:
    raise ArenaError("the disk is gone")


@elastic
@pytest.mark.parametrize("call", CALLS)
def test_an_arena_that_gives_no_page_back(
    backend: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = MemorySink()
    with elastic_manager(6 * PAGES, backend, receipts=sink) as manager:
        sessions = [new_session(manager, number, 8) for number in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(Arena, "decommit", fail)
            with pytest.raises(ArenaError, match="the disk is gone"):
                CALLS[call](manager, sessions[2][0])
        check_what_is_left(manager, sessions, sink)


@pytest.mark.parametrize("elastic", [False, True])
def test_an_arena_that_finds_no_room_after_the_eviction(
    tmp_path: Path, elastic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The victims went first, because the room on a disk may have to come from their pages."""
    sink = MemorySink()
    options: dict[str, Any] = {"path": tmp_path / "arena", "elastic": elastic, "receipts": sink}
    nbytes = PAPER.geometry(CONTEXT).nbytes
    with KVCacheManager(3 * nbytes, "mmap", PAPER, **options) as manager:
        sessions = [new_session(manager, number, 8) for number in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(MmapArena, "_commit", fail)
            with pytest.raises(ArenaError, match="the disk is gone"):
                manager.allocate_entry(key_of(9), 3 * nbytes - 2 * PAGES * PAGE)
        assert len(session_ids(manager)) < 3
        assert key_of(9) not in manager
        check_what_is_left(manager, sessions, sink)
        assert manager.allocate_entry(key_of(9), nbytes).data().any() == 0


def check_what_is_left(
    manager: KVCacheManager, sessions: Sequence[tuple[KVCacheEntry, Tokens]], sink: MemorySink
) -> None:
    manager.check_integrity()
    left = session_ids(manager)
    for number in left:
        assert holds(*sessions[int(str(number))])
    stats = manager.get_stats()
    assert stats.used_memory == sum(sessions[int(str(one))][0].committed_bytes for one in left)
    assert stats.allocations - stats.evictions == len(left)
    gone = [one.session_id for one in sink.receipts if isinstance(one, KvEvictionReceipt)]
    assert sorted(gone) == sorted(str(key_of(n)) for n in range(3) if n not in left)
