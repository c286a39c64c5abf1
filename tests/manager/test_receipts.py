"""What a manager records of the entries that leave it, on the way from its lock to the sinks."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import InvalidTtlError, PluginError, PoolExhaustedError
from kvpool.eviction.base import EvictionReason
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.receipts import (
    KvEvictionBatchReceipt,
    KvEvictionReceipt,
    KvPoolSnapshotReceipt,
    MemorySink,
    Receipt,
    ReceiptSink,
)
from kvpool.receipts.types import TierReceipt
from tests.support.sessions import Clock

PAGE = 4096


def key(number: int) -> CacheKey:
    return CacheKey("chat", number)


def filled(count: int, *sinks: ReceiptSink) -> KVCacheManager:
    """Return a manager that has just room for `count` entries of a page, and has them."""
    manager = KVCacheManager(count * PAGE, "numpy", receipts=sinks)
    for number in range(count):
        manager.allocate_entry(key(number), PAGE)
    return manager


def evictions(sink: MemorySink) -> list[KvEvictionReceipt]:
    return [one for one in sink.receipts if isinstance(one, KvEvictionReceipt)]


def test_removal_by_hand_is_recorded_with_what_was_before_and_after() -> None:
    sink = MemorySink()
    with filled(4, sink) as manager:
        manager.remove_cache_entry(key(1))
        (receipt,) = evictions(sink)
    assert receipt.session_id == "chat/1"
    assert receipt.session_number == 2
    assert receipt.eviction_reason is EvictionReason.MANUAL
    assert (receipt.pool_used_before, receipt.pool_used_after) == (4 * PAGE, 3 * PAGE)
    assert (receipt.bytes_freed, receipt.bytes_pending) == (PAGE, 0)
    assert (receipt.sessions_before, receipt.sessions_after) == (4, 3)
    assert (receipt.bytes_allocated_total, receipt.bytes_freed_total) == (4 * PAGE, PAGE)
    assert receipt.pool_total == 4 * PAGE


def test_bytes_under_a_view_are_pending() -> None:
    sink = MemorySink()
    with filled(2, sink) as manager:
        entry = manager.get_cache_entry(key(0))
        assert entry is not None
        view = entry.data()
        manager.remove_cache_entry(key(0))
        manager.emit_pool_snapshot()
        del view
        manager.emit_pool_snapshot()
    (receipt, *_), before, after = evictions(sink), *snapshots(sink)[:2]
    assert (receipt.bytes_freed, receipt.bytes_pending) == (0, PAGE)
    assert (before.pool_used, before.active_sessions) == (2 * PAGE, 1)
    assert (after.pool_used, after.bytes_freed_total) == (PAGE, PAGE)


def snapshots(sink: MemorySink) -> list[KvPoolSnapshotReceipt]:
    return [one for one in sink.receipts if isinstance(one, KvPoolSnapshotReceipt)]


def test_one_step_that_evicts_several_ends_with_a_batch() -> None:
    sink = MemorySink()
    with filled(4, sink) as manager:
        manager.evict_lru_entries(3 * PAGE)
        *members, batch = sink.receipts
    assert [one.session_id for one in evictions(sink)[:3]] == ["chat/0", "chat/1", "chat/2"]
    assert all(one.eviction_reason is EvictionReason.LRU for one in evictions(sink)[:3])
    assert len(members) == 3
    assert isinstance(batch, KvEvictionBatchReceipt)
    assert (batch.count, batch.total_bytes_freed) == (3, 3 * PAGE)
    assert (batch.pool_used_before, batch.pool_used_after) == (4 * PAGE, PAGE)


def test_a_request_that_cannot_fit_leaves_no_receipt() -> None:
    sink = MemorySink()
    with filled(2, sink) as manager:
        manager.pin(key(0))
        with pytest.raises(PoolExhaustedError):
            manager.allocate_entry(key(2), 2 * PAGE)
        assert not sink.receipts
        manager.allocate_entry(key(3), PAGE)
        assert [one.session_id for one in evictions(sink)] == ["chat/1"]


def test_the_expired_are_recorded_as_such() -> None:
    sink, clock = MemorySink(), Clock()
    with KVCacheManager(2 * PAGE, "numpy", ttl=10, clock=clock, receipts=sink) as manager:
        manager.allocate_entry(key(0), PAGE)
        clock.now += 11
        assert key(0) not in manager
        assert [one.eviction_reason for one in evictions(sink)] == [EvictionReason.TTL]


def test_closing_records_every_entry_and_the_end() -> None:
    sink = MemorySink()
    filled(3, sink).close()
    assert [one.eviction_reason for one in evictions(sink)] == [EvictionReason.CLOSE] * 3
    assert evictions(sink)[-1].sessions_after == 0
    last = sink.receipts[-1]
    assert isinstance(last, KvPoolSnapshotReceipt)
    assert (last.pool_used, last.active_sessions, last.total_evictions) == (0, 0, 3)
    assert last.bytes_allocated_total == last.bytes_freed_total == last.bytes_evicted_total
    assert sink.closed


def test_sequence_has_no_gap_and_totals_always_add_up() -> None:
    sink = MemorySink()
    layout = KVLayout(layers=1, kv_heads=1, head_dim=16, dtype="float32")
    with KVCacheManager(64 * PAGE, "numpy", layout, receipts=sink) as manager:
        for number in range(200):
            manager.get_or_create_cache(key(number % 7), max_context_length=64 + number)
            if number % 5 == 0:
                manager.remove_cache_entry(key(number % 3))
    assert [one.sequence for one in sink.receipts] == list(range(len(sink.receipts)))
    for one in sink.receipts:
        assert not isinstance(one, TierReceipt)
        used = one.pool_used if isinstance(one, KvPoolSnapshotReceipt) else one.pool_used_after
        assert used == one.bytes_allocated_total - one.bytes_freed_total
        assert one.bytes_freed_total == one.bytes_evicted_total + one.bytes_moved_total


def test_snapshots_come_at_the_first_call_after_each_interval() -> None:
    sink, clock = MemorySink(), Clock()
    manager = KVCacheManager(PAGE, "numpy", clock=clock, receipts=sink, snapshot_interval=60)
    for seconds in (30, 29, 1, 59, 1, 600):
        clock.now += seconds
        manager.session_keys()
    assert len(snapshots(sink)) == 3
    manager.close()


@pytest.mark.parametrize("interval", [0, -1.0, float("nan")])
def test_an_interval_must_be_above_zero(interval: float) -> None:
    with pytest.raises(InvalidTtlError, match=str(interval)):
        KVCacheManager(PAGE, "numpy", snapshot_interval=interval)


def test_receipts_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert filled(1).receipts is not None
    with KVCacheManager(PAGE, "numpy", receipts=False) as manager:
        manager.allocate_entry(key(0), PAGE)
        assert manager.receipts is None
        manager.emit_pool_snapshot()
    monkeypatch.setenv("KVPOOL_RECEIPTS", "0")
    with KVCacheManager(PAGE, "numpy", receipts=MemorySink()) as manager:
        assert manager.receipts is None


def test_an_unknown_sink_leaves_nothing_open() -> None:
    with pytest.raises(PluginError, match="ledgre"):
        KVCacheManager(PAGE, "numpy", receipts="ledgre")


class Meddling(MemorySink):
    """Does something at each receipt."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def emit(self, receipt: Receipt, /) -> None:
        super().emit(receipt)
        self.act()


def broken() -> None:
    raise OSError("the disk is full")


def test_a_sink_that_raises_harms_nobody() -> None:
    good = MemorySink()
    with filled(3, Meddling(broken), good) as manager:
        assert len(manager.evict_lru_entries(2 * PAGE)) == 2
        assert manager.receipts is not None
        assert manager.receipts.stream.failures["memory"] == 3
        manager.check_integrity()
    assert len(evictions(good)) == 3


def test_a_sink_may_call_the_manager() -> None:
    seen: list[int] = []
    with filled(2, Meddling(lambda: seen.append(manager.get_stats().evictions))) as manager:
        manager.remove_cache_entry(key(0))
        assert seen == [1]


def test_a_slow_sink_does_not_hold_the_lock() -> None:
    entered, leave = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert leave.wait(60)

    slow = Meddling(wait)
    manager = filled(2, slow)
    remover = threading.Thread(target=manager.remove_cache_entry, args=(key(0),))
    remover.start()
    assert entered.wait(60)
    # The sink is still at the first receipt: the manager works on, and queues the second.
    manager.remove_cache_entry(key(1))
    assert manager.get_stats().evictions == 2
    assert len(slow.receipts) == 1
    leave.set()
    remover.join()
    manager.close()
    assert [one.session_id for one in evictions(slow)] == ["chat/0", "chat/1"]
