"""Arena, pool, entries, eviction and receipts together: every byte is accounted for."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from kvpool import CacheKey, KVCacheManager
from kvpool.ledger import LedgerSink
from kvpool.receipts import MemorySink
from tests.support.accounts import LedgerAccount, verified
from tests.support.ledgers import PRIVATE
from tests.support.observer import Witness, check_account
from tests.support.serving import CONTEXTS, LAYOUT, Held, Server, ticks
from tests.support.workers import run_all

THREADS, STEPS = 4, 500
CAPACITY = 12 * LAYOUT.geometry(CONTEXTS[-1]).nbytes


@pytest.mark.no_cover
@pytest.mark.usefixtures("frequent_switches")
def test_threads_serve_and_the_ledger_accounts_for_every_byte(backend: str, tmp_path: Path) -> None:
    ledger, memory = tmp_path / "pool.jsonl", MemorySink()
    sink = LedgerSink(ledger, key=PRIVATE, checkpoint_every=100, rotate_at=80_000)
    witness, held = Witness(), Held()
    with KVCacheManager(
        *(CAPACITY, backend, LAYOUT),
        clock=ticks(),
        receipts=[sink, memory],
        snapshot_interval=200,
        elastic=False,
    ) as manager:
        done = run_all([Server(manager, witness, n, STEPS, held) for n in range(THREADS)])
        held.clear()
        gc.collect()  # a traceback may have held a view
        manager.check_integrity()
        manager.pool.check_integrity()
        stats = manager.get_stats()  # the last call: at each of them some may expire
        assert stats.parting_entries == 0
    report, account = verified(ledger), LedgerAccount(ledger)
    check_account(account, witness, stats)
    assert account.freed == account.allocated
    assert len(report.files) > 1
    assert account.receipts == [msgspec.to_builtins(one) for one in memory.receipts]
    # All of it took place: every reason, late and early ends, growth, batches, refusals.
    reasons = Counter(one.reason for one in account.departures)
    assert reasons.keys() == {"manual", "lru", "ttl", "close"}
    assert account.moved
    assert account.batches
    assert any(one.pending for one in account.departures)
    assert done.keys() >= {"converse", "share", "keep_raw", "remove", "work_pinned", "press"}


def test_leases_that_outlive_the_manager_stay_on_the_books(backend: str, tmp_path: Path) -> None:
    ledger = tmp_path / "pool.jsonl"
    with KVCacheManager(
        CAPACITY, backend, LAYOUT, receipts=LedgerSink(ledger, key=PRIVATE), elastic=False
    ) as manager:
        views = []
        for number in range(4):
            entry = manager.allocate_entry(CacheKey("raw", number), 1000)
            entry.data()[:] = number
            if number % 2:
                views.append(entry.data())
    verified(ledger)
    account = LedgerAccount(ledger)
    assert [(one.session, one.freed, one.pending) for one in account.departures] == [
        ("raw/0", 1024, 0), ("raw/1", 0, 1024), ("raw/2", 1024, 0), ("raw/3", 0, 1024),
    ]  # fmt: skip
    assert account.allocated - account.freed == 2048 == account.receipts[-1]["pool_used"]
    assert [set(view.tolist()) for view in views] == [{1}, {3}]


def test_a_ledger_goes_on_with_the_next_manager(backend: str, tmp_path: Path) -> None:
    """Two managers after each other write one ledger; each one's account is balanced."""
    ledger = tmp_path / "pool.jsonl"
    witnesses, figures = [Witness(), Witness()], []
    for witness in witnesses:
        sink = LedgerSink(ledger, key=PRIVATE)
        with KVCacheManager(
            CAPACITY, backend, LAYOUT, clock=ticks(), receipts=sink, elastic=False
        ) as manager:
            held = Held()
            run_all([Server(manager, witness, n, 60, held) for n in range(2)])
            held.clear()
            gc.collect()
            figures.append(manager.get_stats())
    assert verified(ledger).segments == 2
    for index, (witness, stats) in enumerate(zip(witnesses, figures, strict=True)):
        account = LedgerAccount(ledger, pool=index)
        check_account(account, witness, stats)
