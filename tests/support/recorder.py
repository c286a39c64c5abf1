"""A real manager with sinks, and a few words for what tests do with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kvpool import CacheKey, KVCacheManager, KVLayout
from kvpool.receipts import ReceiptSink

if TYPE_CHECKING:
    from kvpool import PoolEntry

__all__ = ["LAYOUT", "Recorder"]

LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=16, dtype="float32")  # 128 bytes a token


class Recorder:
    """A manager whose receipts go to sinks, with a clock that stands still.

    Parameters
    ----------
    sinks : iterable of ReceiptSink
    capacity : int
        Bytes.
    """

    def __init__(
        self, sinks: Iterable[ReceiptSink], capacity: int = 1 << 16, *, backend: str = "numpy"
    ) -> None:
        self._now = 0.0
        self.manager = KVCacheManager(
            capacity, backend=backend, layout=LAYOUT, clock=lambda: self._now, receipts=list(sinks)
        )
        assert self.manager.receipts is not None
        self.emitter = self.manager.receipts
        self.stream = self.emitter.stream

    def make(self, name: int | str, size: int, ttl: float | None = None) -> PoolEntry:
        """Make a raw entry; the oldest ones go where they are in the way."""
        return self.manager.allocate_entry(CacheKey("chat", name), size, ttl=ttl)

    def make_tokens(self, name: int | str, tokens: int) -> None:
        """Make an entry with room for tokens, or let it grow."""
        self.manager.get_or_create_cache(CacheKey("chat", name), tokens)

    def remove(self, name: int | str) -> None:
        """Take an entry out by hand."""
        assert self.manager.remove_cache_entry(CacheKey("chat", name)) is not None

    def expire(self) -> None:
        """Let all time pass: who has a time to live goes, unless it is leased."""
        self._now += 1e9
        self.manager.evict_expired()

    def use_tiers(self, name: str = "1") -> None:
        """Tell of a load, of a chunk that was refused and of an eviction, in a tier."""
        stats, whose = self.manager.pool.stats(), ("disk:/kv", f"chat/{name}", 1)
        emitter, put = self.emitter, self.stream.put
        put(emitter.tier_load(stats, *whose, tokens=64, nbytes=8192, seconds=0.25))
        chunk = "ab" * 32
        put(emitter.tier_refusal(stats, *whose, chunk=chunk, tokens=64, reason="digest"))
        put(emitter.tier_eviction(stats, "disk:/kv", 3))

    def snapshot(self) -> None:
        self.manager.emit_pool_snapshot()

    def close(self) -> None:
        """Let all entries go, and the sinks."""
        self.manager.close()
