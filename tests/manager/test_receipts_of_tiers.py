"""Receipts of what a manager loads from tiers, of what it refuses, and of what tiers evict."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from kvpool.cache_key import CacheKey
from kvpool.ledger import LedgerSink
from kvpool.manager import KVCacheManager
from kvpool.receipts import (
    KvEvictionReceipt,
    KvTierEvictionReceipt,
    KvTierLoadReceipt,
    KvTierRefusalReceipt,
    MemorySink,
    Receipt,
    ReceiptSink,
    verify,
)
from kvpool.tiers import Level, TierStore
from kvpool.tiers.memory import MemoryTier
from tests.manager.test_tiers import LAYOUT, serve
from tests.support.injection import every_place, injected

CHUNK = 16
R = TypeVar("R", bound=Receipt)


def opened(store: TierStore | str, *sinks: ReceiptSink, capacity: int = 1 << 20) -> KVCacheManager:
    return KVCacheManager(
        capacity, "numpy", LAYOUT, receipts=list(sinks), chunk_tokens=CHUNK, tiers=store
    )


def of_kind(sink: MemorySink, kind: type[R]) -> list[R]:
    return [receipt for receipt in sink.receipts if isinstance(receipt, kind)]


def filled(tier: MemoryTier, *prompts: range) -> TierStore:
    """Return a store that has the tokens of some prompts."""
    store = TierStore([Level(tier, budget=None)], chunk_tokens=CHUNK)
    with opened(store, MemorySink()) as manager:
        for prompt in prompts:
            serve(manager, prompt)
    return store


def test_a_load_has_a_receipt(tmp_path: Path) -> None:
    sink, ledger = MemorySink(), LedgerSink(tmp_path / "a.jsonl")
    tiers = filled(MemoryTier(1 << 24), range(100))
    with tiers as store, opened(store, sink, ledger) as manager:
        assert serve(manager, range(120), CacheKey("chat", "x")) == 96
        assert serve(manager, range(120), CacheKey("chat", "x")) == 0
        (load,) = of_kind(sink, KvTierLoadReceipt)
        assert (load.tier, load.session_id, load.tokens) == ("memory:", "chat/x", 96)
        assert load.bytes_loaded == 96 * LAYOUT.bytes_per_token
        assert load.duration_ms > 0
    gone = of_kind(sink, KvEvictionReceipt)
    assert load.session_number in {receipt.session_number for receipt in gone}
    assert not of_kind(sink, KvTierRefusalReceipt)
    report = verify(tmp_path / "a.jsonl")
    assert report.findings == []
    assert report.events["kv_tier_load"] == 1


def test_a_wrong_chunk_has_a_receipt_and_is_removed(tmp_path: Path) -> None:
    tier, sink, ledger = MemoryTier(1 << 24), MemorySink(), LedgerSink(tmp_path / "a.jsonl")
    with filled(tier, range(64)) as store:
        keys = list(tier.keys(b"c/"))
        with tier.read(keys) as values:
            damaged = [bytes(value or b"")[:-1] + b"\xff" for value in values]
        tier.remove(keys)
        tier.write([(key, [value]) for key, value in zip(keys, damaged, strict=True)])
        with opened(store, sink, ledger) as manager:
            assert serve(manager, range(70)) == 0
            manager.check_integrity()
        (refusal,) = of_kind(sink, KvTierRefusalReceipt)
        assert (refusal.refusal_reason, refusal.tokens) == ("digest", CHUNK)
        assert bytes.fromhex(refusal.chunk) in {key.removeprefix(b"c/") for key in keys}
        assert refusal.session_id.startswith("prefix/")
    assert verify(tmp_path / "a.jsonl").ok


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_evictions_of_a_tier_have_receipts_also_those_at_the_end(tmp_path: Path, kind: str) -> None:
    url = {"disk": f"disk:{tmp_path}/kv?capacity=1MiB", "memory": "memory:?capacity=64KiB"}[kind]
    sink, ledger = MemorySink(), LedgerSink(tmp_path / "a.jsonl")
    with TierStore([url], chunk_tokens=CHUNK) as store:
        (level,) = store.levels
        with opened(store, sink, ledger) as manager:
            for number in range(120 if kind == "disk" else 12):
                serve(manager, range(number * 1000, number * 1000 + 64))
    evicted = level.breaker.evictions
    receipts = of_kind(sink, KvTierEvictionReceipt)
    assert sum(receipt.count for receipt in receipts) == evicted > 0
    assert {receipt.tier for receipt in receipts} == {level.name}
    assert verify(tmp_path / "a.jsonl").findings == []


def test_nothing_is_noted_if_no_sink_listens() -> None:
    with filled(MemoryTier(1 << 24), range(100)) as store:
        manager = KVCacheManager(
            1 << 20, "numpy", LAYOUT, receipts="logging", chunk_tokens=CHUNK, tiers=store
        )
        with manager:
            assert serve(manager, range(120)) == 96
            assert manager.receipts is not None
            assert manager.receipts.stream.last is None


def test_a_manager_that_is_gone_is_not_told() -> None:
    tier = MemoryTier(1 << 14)
    with TierStore([Level(tier, budget=None)], chunk_tokens=CHUNK) as store:
        opened(store, MemorySink()).close()
        sink = MemorySink()
        with opened(store, sink) as manager:
            for number in range(12):
                serve(manager, range(number * 1000, number * 1000 + 64))
        assert sum(receipt.count for receipt in of_kind(sink, KvTierEvictionReceipt)) > 0


def open_to(ended: list[object], manager: KVCacheManager) -> None:
    ended.append(manager.open_session(range(48)))


@pytest.mark.no_cover
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a lease's end
def test_an_interrupt_leaves_no_session_open_and_tells_of_nothing_twice(tmp_path: Path) -> None:
    with filled(MemoryTier(1 << 24), range(64)) as store:
        store.drain(60)
        for number, injection in enumerate(every_place("interrupt")):
            sink, path = MemorySink(), tmp_path / f"{number}.jsonl"
            ledger = LedgerSink(path, fsync="never")
            with opened(store, sink, ledger, capacity=1 << 17) as manager:
                ended: list[object] = []  # an interrupt in a finalizer ends no call
                injected(partial(open_to, ended, manager), injection)
                manager.check_integrity()
                is_left = any(map(manager.is_open, manager.keys()))
                assert is_left == bool(ended), injection.where
                loads = [load.tokens for load in of_kind(sink, KvTierLoadReceipt)]
                assert loads in ([47], [] if not ended else [47]), injection.where
                serve(manager, range(48))
                manager.emit_pool_snapshot()
            report = verify(path)
            assert report.findings == [], injection.where
            path.unlink()
