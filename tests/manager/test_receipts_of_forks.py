"""Receipts of an elastic pool: a ledger over forks, parts and evictions holds."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import PoolExhaustedError
from kvpool.ledger import LedgerSink, verify
from kvpool.receipts import MemorySink
from kvpool.receipts.types import KvEvictionReceipt
from tests.support.elastic_sessions import (
    CONTEXT,
    PAGE,
    elastic_manager,
    more_tokens,
    new_fork,
    new_session,
)
from tests.support.marks import elastic, needs_pages
from tests.support.sessions import key_of

pytestmark = needs_pages


@pytest.mark.no_cover
@elastic
@pytest.mark.parametrize("seed", range(3))
def test_a_ledger_of_forks_holds(backend: str, seed: int, tmp_path: Path) -> None:
    draws, path = random.Random(seed), tmp_path / "ledger"
    with elastic_manager(
        120, backend, receipts=LedgerSink(path), snapshot_interval=1e-3
    ) as manager:
        for step in range(200):
            key, new_key = (key_of(draws.randrange(6)) for _ in range(2))
            entry = manager.get_or_create_cache(key, CONTEXT)
            view = entry.keys() if draws.random() < 0.2 else None
            with contextlib.suppress(PoolExhaustedError):
                entry.truncate(draws.randint(0, entry.token_count))
                if room := CONTEXT - entry.token_count:
                    more_tokens(entry, draws.randint(1, room), step)
                if new_key not in manager:
                    manager.fork_cache_entry(key, new_key)
            if draws.random() < 0.2:
                manager.remove_cache_entry(new_key)
            del view
        last = manager.get_stats()
        assert last.bytes_allocated - last.bytes_freed == last.used_memory
    report = verify(path)
    assert report.ok
    assert report.receipts > 50


def test_what_a_removed_parent_leaves_to_its_fork_is_pending() -> None:
    sink = MemorySink()
    with elastic_manager(100, "mmap", receipts=sink) as manager:
        new_session(manager, 1, 16)
        new_fork(manager, 1, 2).truncate(8)
        manager.remove_cache_entry(key_of(1))
        manager.remove_cache_entry(key_of(2))
        assert len(manager) == 0
    gone = [receipt for receipt in sink.receipts if isinstance(receipt, KvEvictionReceipt)]
    assert [(receipt.bytes_freed, receipt.bytes_pending) for receipt in gone] == [
        (16 * PAGE, 16 * PAGE),
        (16 * PAGE, 0),
    ]


def test_a_fork_by_an_entry_has_the_namespace_of_its_parent() -> None:
    with elastic_manager(100, "mmap") as manager:
        parent, _ = new_session(manager, 1, 3)
        child = parent.fork("two")
        assert manager.get_cache_entry(CacheKey("chat", "two")) is child
