"""Ctrl-C at every place of a call of a store, of its breaker and of the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kvpool import KVCacheEntry, KVLayout, MemoryPool
from kvpool.errors import TierError
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import Breaker, BreakerState, Level, TierStore
from kvpool.tiers.disk import DiskTier
from kvpool.tiers.memory import MemoryTier
from tests.support.injection import Injection, every_place
from tests.support.kv import kv_like
from tests.support.sessions import Clock

pytestmark = pytest.mark.no_cover

LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=8, dtype="float32")
IDENTITY = Identity("model@1", "", LAYOUT)
TOKENS = token_bytes(list(range(32)))  # two chunks
COMPUTED = kv_like(1, 1, 32, 8)
KEYS, VALUES = COMPUTED[:, 0], COMPUTED[:, 1]


class FaultyTier(MemoryTier):
    """Cannot tell what it has while `is_broken`."""

    is_broken = False

    def contains(self, keys: Sequence[bytes], /) -> int:
        if self.is_broken:
            raise TierError("out of order")
        return super().contains(keys)


def new_entry() -> KVCacheEntry:
    return KVCacheEntry.create(MemoryPool(1 << 20, backend="numpy"), LAYOUT, 32, "test")


def new_store(tier: MemoryTier) -> TierStore:
    """Return a store whose calls are made in this thread, which is the one that is interrupted."""
    return TierStore([Level(tier, budget=None)], chunk_tokens=16)


def interrupt(injection: Injection, call: Callable[[], object]) -> None:
    """Make a call that is interrupted at one place."""
    try:
        with injection:
            call()
    except KeyboardInterrupt:
        pass


def in_time(call: Callable[[], object]) -> Any:
    """Return what a call returns, or `TimeoutError` if it waits for ever."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(60)
    return results[0] if results else TimeoutError


def test_an_interrupt_of_a_probe_keeps_no_breaker_open() -> None:
    for injection in every_place("interrupt"):
        tier, clock = FaultyTier(), Clock()
        breaker = Breaker(tier, None, failures=1, clock=clock)
        tier.is_broken = True
        breaker.contains([b"a"])
        tier.is_broken = False
        clock.now += 1
        interrupt(injection, partial(breaker.contains, [b"a"]))
        clock.now += 60
        assert breaker.write([(b"a", [b"value"])]) == 1, injection.where
        assert breaker.state is BreakerState.CLOSED


def test_an_interrupt_of_a_store_of_chunks_loses_at_most_those() -> None:
    for injection in every_place("interrupt"):
        tier = MemoryTier()
        with new_store(tier) as store:
            interrupt(injection, partial(store.put, IDENTITY, TOKENS, KEYS, VALUES))
            store.put(IDENTITY, TOKENS, KEYS, VALUES)
            assert in_time(partial(store.drain, 60.0)) == 0, injection.where
            assert store.stats().levels[0].queued_nbytes == 0, injection.where
            assert tier.stats().values == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a lease's end
def test_an_interrupt_of_a_load_leaves_whole_tokens_and_no_claim() -> None:
    tier = MemoryTier()
    with new_store(tier) as store:
        store.put(IDENTITY, TOKENS, KEYS, VALUES)
        store.drain(60)
        for injection in every_place("interrupt"):
            entry = new_entry()
            interrupt(injection, partial(store.load, IDENTITY, TOKENS, entry))
            held = entry.token_count
            assert entry.keys().tobytes() == KEYS[:, :, :held].tobytes(), injection.where
            assert entry.held(0) == held
            loaded = store.load(IDENTITY, TOKENS, new_entry())
            assert (loaded.tokens, loaded.waited) == (32, False), injection.where


def test_closing_goes_on_after_an_interrupt() -> None:
    for injection in every_place("interrupt"):
        tiers = [MemoryTier(), MemoryTier()]
        store = TierStore([Level(tier, budget=None) for tier in tiers], chunk_tokens=16)
        store.put(IDENTITY, TOKENS, KEYS, VALUES)
        interrupt(injection, store.close)
        assert in_time(store.close) is None, injection.where
        for tier in tiers:
            with pytest.raises(TierError, match="closed"):
                tier.stats()


@pytest.mark.parametrize("call", ["read", "write", "contains", "keys", "stats", "remove"])
def test_a_disk_can_be_closed_after_an_interrupt(tmp_path: Path, call: str) -> None:
    path = tmp_path / "kv"

    def act(tier: DiskTier) -> object:
        if call == "read":
            with tier.read([b"a", b"b"]) as views:
                return [bytes(view) for view in views if view is not None]
        calls: dict[str, Callable[[], object]] = {
            "write": lambda: tier.write([(b"b", [b"value"])]),
            "contains": lambda: tier.contains([b"a", b"b"]),
            "keys": lambda: list(tier.keys()),
            "stats": tier.stats,
            "remove": lambda: tier.remove([b"b"]),
        }
        return calls[call]()

    for injection in every_place("interrupt"):
        tier = DiskTier(path, 1 << 20, check=False)
        tier.write([(b"a", [b"value"])])
        interrupt(injection, partial(act, tier))
        assert tier.contains([b"a"]) == 1
        assert in_time(tier.close) is None, injection.where
