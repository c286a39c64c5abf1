"""What receipts say of a real manager, and in which order they come."""

from __future__ import annotations

from typing import TypeVar

import pytest

from kvpool import EvictionReason, PoolStats
from kvpool.receipts import (
    KvEvictionBatchReceipt,
    KvEvictionReceipt,
    KvPoolSnapshotReceipt,
    MemorySink,
    Receipt,
)
from tests.support.recorder import LAYOUT, Recorder

R = TypeVar("R", bound=Receipt)


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def recorder(sink: MemorySink) -> Recorder:
    return Recorder([sink], capacity=10_240)


def last(sink: MemorySink, kind: type[R]) -> R:
    receipt = sink.receipts[-1]
    assert isinstance(receipt, kind)
    return receipt


def test_eviction_says_what_happened(recorder: Recorder, sink: MemorySink) -> None:
    recorder.make("a", 1000)  # charged 1,024
    recorder.make("b", 2048)
    recorder.remove("a")
    receipt = last(sink, KvEvictionReceipt)
    assert receipt == KvEvictionReceipt(
        pool_id=recorder.emitter.pool_id,
        sequence=0,
        timestamp=receipt.timestamp,
        pool_total=10_240,
        bytes_allocated_total=3072,
        bytes_freed_total=1024,
        bytes_evicted_total=1024,
        bytes_moved_total=0,
        schema_version=KvEvictionReceipt.since,
        session_id="chat/a",
        session_number=1,
        bytes_freed=1024,
        bytes_pending=0,
        pool_used_before=3072,
        pool_used_after=2048,
        fragmentation_before=0,
        fragmentation_after=1 - 7168 / 8192,
        sessions_before=2,
        sessions_after=1,
        eviction_reason=EvictionReason.MANUAL,
    )


def test_bytes_of_a_leased_entry_are_pending(recorder: Recorder, sink: MemorySink) -> None:
    view = recorder.make("a", 1000).data()
    recorder.remove("a")
    receipt = last(sink, KvEvictionReceipt)
    assert (receipt.bytes_freed, receipt.bytes_pending) == (0, 1024)
    assert receipt.pool_used_before == receipt.pool_used_after == 1024
    assert receipt.sessions_after == 0
    del view
    recorder.snapshot()
    snapshot = last(sink, KvPoolSnapshotReceipt)
    assert (snapshot.pool_used, snapshot.bytes_freed_total) == (0, 1024)
    assert snapshot.bytes_evicted_total == 0


def test_moved_entry_is_no_eviction(recorder: Recorder, sink: MemorySink) -> None:
    recorder.make_tokens("a", 8)
    recorder.make_tokens("a", 16)
    recorder.snapshot()
    snapshot = last(sink, KvPoolSnapshotReceipt)
    assert snapshot.bytes_moved_total == snapshot.bytes_freed_total == LAYOUT.geometry(8).nbytes
    assert snapshot.bytes_evicted_total == snapshot.total_evictions == 0
    assert snapshot.total_sessions_created == snapshot.active_sessions == 1


def test_batch_follows_its_members(recorder: Recorder, sink: MemorySink) -> None:
    for name in "abc":
        recorder.make(name, 3000)
    recorder.make("large", 6000)
    *_, first, second, batch = sink.receipts
    assert isinstance(first, KvEvictionReceipt)
    assert isinstance(second, KvEvictionReceipt)
    assert isinstance(batch, KvEvictionBatchReceipt)
    assert [first.session_id, second.session_id] == ["chat/a", "chat/b"]
    assert batch.count == 2
    assert batch.total_bytes_freed == first.bytes_freed + second.bytes_freed == 2 * 3008
    assert batch.pool_used_before == first.pool_used_before
    assert batch.pool_used_after == second.pool_used_after == first.pool_used_after - 3008
    assert batch.fragmentation_before == first.fragmentation_before
    assert batch.fragmentation_after == second.fragmentation_after
    assert batch.duration_ms > 0


def test_snapshot_is_that_of_the_manager(recorder: Recorder, sink: MemorySink) -> None:
    recorder.make("a", 1000)
    recorder.make("b", 1000)
    recorder.remove("a")
    recorder.make_tokens("c", 8)  # a miss
    recorder.make_tokens("c", 8)  # two hits
    recorder.snapshot()
    receipt, stats = last(sink, KvPoolSnapshotReceipt), recorder.manager.get_stats()
    assert_figures(receipt, stats)
    assert (receipt.active_sessions, receipt.total_sessions_created) == (2, 3)


def assert_figures(receipt: KvPoolSnapshotReceipt, stats: PoolStats) -> None:
    assert (
        receipt.pool_used,
        receipt.pool_total,
        receipt.utilization,
        receipt.fragmentation,
        receipt.active_sessions,
        receipt.total_sessions_created,
        receipt.total_evictions,
        receipt.cache_hits,
        receipt.cache_misses,
        receipt.bytes_allocated_total,
        receipt.bytes_freed_total,
    ) == (
        stats.used_memory,
        stats.total_capacity,
        stats.utilization,
        round(stats.fragmentation, 5),
        stats.active_entries,
        stats.allocations,
        stats.evictions,
        stats.hits,
        stats.misses,
        stats.bytes_allocated,
        stats.bytes_freed,
    )


def test_sequence_has_no_gap_and_totals_add_up(recorder: Recorder, sink: MemorySink) -> None:
    for number in range(50):
        recorder.make(number, 500 * (1 + number % 7))
    recorder.close()
    assert [receipt.sequence for receipt in sink.receipts] == list(range(len(sink.receipts)))
    assert len({receipt.pool_id for receipt in sink.receipts}) == 1
    evictions = [one for one in sink.receipts if isinstance(one, KvEvictionReceipt)]
    assert len(evictions) == 50
    assert sum(one.bytes_freed for one in evictions) == sink.receipts[-1].bytes_evicted_total
    snapshot = last(sink, KvPoolSnapshotReceipt)
    assert snapshot.bytes_evicted_total == snapshot.bytes_freed_total
    assert snapshot.bytes_freed_total == snapshot.bytes_allocated_total > 10_240
    assert (snapshot.pool_used, snapshot.active_sessions) == (0, 0)
    assert sink.closed


def test_pools_have_different_names() -> None:
    first, second = Recorder([]), Recorder([])
    assert first.emitter.pool_id != second.emitter.pool_id
    assert len(first.emitter.pool_id) == 32


def test_session_id_that_is_not_unicode_is_escaped(recorder: Recorder, sink: MemorySink) -> None:
    recorder.make("\udcff é", 64)
    recorder.remove("\udcff é")
    assert last(sink, KvEvictionReceipt).session_id == "chat/\\udcff é"
