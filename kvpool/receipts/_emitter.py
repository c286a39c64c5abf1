"""`ReceiptEmitter`: turns what happened to a pool into receipts, in order."""

from __future__ import annotations

import secrets
from typing import Any

from kvpool.eviction.base import EvictionReason
from kvpool.receipts._stream import ReceiptStream
from kvpool.receipts.types import (
    BaseReceipt,
    KvEvictionBatchReceipt,
    KvEvictionReceipt,
    KvPoolSnapshotReceipt,
    KvTierEvictionReceipt,
    KvTierLoadReceipt,
    KvTierRefusalReceipt,
    timestamp,
)
from kvpool.stats import MemoryStats, PoolStats

__all__ = ["ReceiptEmitter"]


class ReceiptEmitter:
    """Makes the receipts of one manager, and queues them in a stream.

    Parameters
    ----------
    stream : ReceiptStream
        Where they go. What is emitted is only queued: `ReceiptStream.deliver` hands it to
        the sinks, once the manager has released its lock.
    pool_id : str, optional
        32 hexadecimal digits; by default random.

    Notes
    -----
    Not thread-safe: the manager holds its lock around every call, so sequence, timestamps and
    totals have one order. Figures before and after an eviction are both taken under one lock
    of the pool, so that nothing but the eviction lies between them.

    A receipt is made once it is queued, by one step. Sequence and totals go on from the last
    receipt that was queued, so a call that was interrupted has made its receipt or has not.
    """

    def __init__(self, stream: ReceiptStream, pool_id: str | None = None) -> None:
        self.stream = stream
        self.pool_id = pool_id or secrets.token_hex(16)
        self._bytes_moved = 0

    def note_moved(self, nbytes: int) -> None:
        """Note that an entry left a block of `nbytes` bytes, as charged, for a larger one."""
        self._bytes_moved += nbytes

    def note_unexplained(self, stats: MemoryStats) -> None:
        """Note bytes that the pool got back and that no receipt tells of, as moved.

        For a manager that was interrupted after it gave memory back and before it noted why.

        Parameters
        ----------
        stats : MemoryStats
            Of the pool, now.
        """
        explained = self._bytes_evicted() + stats.bytes_trimmed
        self._bytes_moved = max(self._bytes_moved, stats.bytes_freed - explained)

    def has_told_of(self, session_number: int) -> bool:
        """Tell whether the last receipt is that of the eviction of a session."""
        last = self.stream.last
        return isinstance(last, KvEvictionReceipt) and last.session_number == session_number

    def _bytes_evicted(self) -> int:
        last = self.stream.last
        return 0 if last is None else last.bytes_evicted_total

    def emit_eviction_receipt(
        self,
        session_id: str,
        session_number: int,
        reason: EvictionReason,
        *,
        charged: int,
        before: MemoryStats,
        after: MemoryStats,
        sessions_before: int,
    ) -> KvEvictionReceipt:
        """Record that one entry left.

        Parameters
        ----------
        session_id : str
        session_number : int
            Which entry of the manager it was: 1 for the first one made.
        reason : EvictionReason
        charged : int
            Bytes that its block is charged with. Those that are not back yet are pending.
        before, after : MemoryStats
            Of the pool, right before and after its block was deallocated.
        sessions_before : int
            Entries, this one included.
        """
        freed = before.used - after.used
        receipt = KvEvictionReceipt(
            **self._common(after, after.capacity, freed),
            session_id=_printable(session_id),
            session_number=session_number,
            bytes_freed=freed,
            bytes_pending=max(charged - freed, 0),  # the last fork frees its base's pages too
            pool_used_before=before.used,
            pool_used_after=after.used,
            fragmentation_before=_fragmentation(before),
            fragmentation_after=_fragmentation(after),
            sessions_before=sessions_before,
            sessions_after=sessions_before - 1,
            eviction_reason=reason,
        )
        self.stream.put(receipt)
        return receipt

    def emit_batch_eviction_receipt(
        self,
        count: int,
        total_bytes_freed: int,
        *,
        before: MemoryStats,
        after: MemoryStats,
        seconds: float,
    ) -> KvEvictionBatchReceipt:
        """Record that the last `count` evictions were one step.

        Parameters
        ----------
        count : int
            Their receipts were emitted right before this one.
        total_bytes_freed : int
            What they gave back at once.
        before, after : MemoryStats
            Of the pool, before the first of them and after the last.
        seconds : float
            How long the step took.
        """
        receipt = KvEvictionBatchReceipt(
            **self._common(after, after.capacity),
            count=count,
            total_bytes_freed=total_bytes_freed,
            pool_used_before=before.used,
            pool_used_after=after.used,
            fragmentation_before=_fragmentation(before),
            fragmentation_after=_fragmentation(after),
            duration_ms=_exact(round(seconds * 1e3, 6)),
        )
        self.stream.put(receipt)
        return receipt

    def emit_pool_snapshot(self, stats: PoolStats) -> KvPoolSnapshotReceipt:
        """Record the state of the pool.

        Parameters
        ----------
        stats : PoolStats
            All figures of one moment.
        """
        receipt = KvPoolSnapshotReceipt(
            **self._common(stats, stats.total_capacity),
            pool_used=stats.used_memory,
            utilization=_exact(stats.utilization),
            fragmentation=_fragmentation(stats),
            active_sessions=stats.active_entries,
            total_sessions_created=stats.allocations,
            total_evictions=stats.evictions,
            cache_hits=stats.hits,
            cache_misses=stats.misses,
        )
        self.stream.put(receipt)
        return receipt

    # -- beyond the pool -----------------------------------------------------------------

    # These only make a receipt: who calls them notes it before it is queued, so that it is told
    # once if the call is interrupted.

    def tier_load(
        self,
        stats: MemoryStats | None,
        tier: str,
        session_id: str,
        session_number: int,
        *,
        tokens: int,
        nbytes: int,
        seconds: float,
    ) -> KvTierLoadReceipt:
        """Return a receipt of tokens that came from a tier into an entry.

        Parameters
        ----------
        stats : MemoryStats or None
            Of the pool, now; None if it is closed.
        tier : str
        session_id : str
        session_number : int
        tokens : int
        nbytes : int
            Of the chunks that were read.
        seconds : float
        """
        return KvTierLoadReceipt(
            **self._beyond(stats, tier, KvTierLoadReceipt),
            session_id=_printable(session_id),
            session_number=session_number,
            tokens=tokens,
            bytes_loaded=nbytes,
            duration_ms=_exact(round(seconds * 1e3, 6)),
        )

    def tier_refusal(
        self,
        stats: MemoryStats | None,
        tier: str,
        session_id: str,
        session_number: int,
        *,
        chunk: str,
        tokens: int,
        reason: str,
    ) -> KvTierRefusalReceipt:
        """Return a receipt of a chunk of a tier that was wrong; see `tier_load`."""
        return KvTierRefusalReceipt(
            **self._beyond(stats, tier, KvTierRefusalReceipt),
            session_id=_printable(session_id),
            session_number=session_number,
            chunk=chunk,
            tokens=tokens,
            refusal_reason=reason,
        )

    def tier_eviction(
        self, stats: MemoryStats | None, tier: str, count: int
    ) -> KvTierEvictionReceipt:
        """Return a receipt of values that a tier has evicted; see `tier_load`."""
        return KvTierEvictionReceipt(
            **self._beyond(stats, tier, KvTierEvictionReceipt), count=count
        )

    def _beyond(
        self, stats: MemoryStats | None, tier: str, kind: type[BaseReceipt]
    ) -> dict[str, Any]:
        """Return what every receipt of a tier has."""
        last = self.stream.last
        if stats is not None:
            common = self._common(stats, stats.capacity)
        elif last is not None:  # the books of a pool that is closed do not change any more
            common = {name: getattr(last, name) for name in BaseReceipt.__struct_fields__}
            common |= {"sequence": last.sequence + 1, "timestamp": timestamp()}
        else:
            raise AssertionError("a manager that is closed has made a receipt of that")
        return {**common, "tier": _printable(tier), "schema_version": kind.since}

    def _common(
        self, stats: MemoryStats | PoolStats, pool_total: int, evicted: int = 0
    ) -> dict[str, Any]:
        """Return what every receipt has; the figures are of one moment, the number is the next."""
        last = self.stream.last
        if last is None:
            sequence = 0
        else:
            sequence = last.sequence + 1
            evicted += last.bytes_evicted_total
        return {
            "pool_id": self.pool_id,
            "sequence": sequence,
            "timestamp": timestamp(),
            "pool_total": pool_total,
            "bytes_allocated_total": stats.bytes_allocated,
            "bytes_freed_total": stats.bytes_freed,
            "bytes_evicted_total": evicted,
            "bytes_moved_total": self._bytes_moved + stats.bytes_trimmed,
            "schema_version": BaseReceipt.since,
        }


def _fragmentation(stats: MemoryStats | PoolStats) -> float:
    return _exact(round(stats.fragmentation, 5))


def _exact(number: float) -> float:
    """Return a whole number as an int: canonical JSON writes it so, and fast."""
    return int(number) if number.is_integer() else number


def _printable(text: str) -> str:
    """Return a text that is Unicode: lone surrogates, which JSON cannot carry, escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
