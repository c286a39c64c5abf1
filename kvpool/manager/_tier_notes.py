"""`TierNotes`: what happened between a manager and its tiers, of which it makes receipts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvpool.errors import PoolClosedError
from kvpool.manager._keeper import SessionKeeper
from kvpool.pool import MemoryPool
from kvpool.stats import MemoryStats

if TYPE_CHECKING:
    from kvpool.entry import KVCacheEntry
    from kvpool.receipts import Receipt, ReceiptEmitter
    from kvpool.tiers import TierEvent

__all__ = ["TierNotes"]


@dataclass(slots=True)
class _Note:
    """Something of which there is no receipt yet.

    An eviction has no `event`. The `receipt` is set right before it is queued.
    """

    tier: str
    count: int
    event: TierEvent | None = None
    session_id: str = ""
    session_number: int = 0
    receipt: Receipt | None = None


class TierNotes:
    """Takes notes in any thread, of which the next call of the manager makes receipts.

    Parameters
    ----------
    pool : MemoryPool
    receipts : ReceiptEmitter
    """

    # A note leaves after its receipt was queued. A call that is interrupted between the two has
    # queued that receipt last, and no call of the manager makes another one before `settle`.

    def __init__(self, pool: MemoryPool, receipts: ReceiptEmitter) -> None:
        self._pool = pool
        self._receipts = receipts
        self._waiting: deque[_Note] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def evicted(self, tier: str, count: int) -> None:
        """Note that a tier has evicted values; in any thread."""
        if self._receipts.stream.is_listening:
            self._waiting.append(_Note(tier, count))

    def loaded(self, entry: KVCacheEntry, events: Sequence[TierEvent]) -> None:
        """Note what happened in one load; in any thread. A tier has one note of its tokens."""
        keeper = entry.keeper
        if not self._receipts.stream.is_listening or not isinstance(keeper, SessionKeeper):
            return
        for event in _merged(events):
            note = _Note(event.level, event.tokens, event, entry.session_id, keeper.number)
            self._waiting.append(note)

    def settle(self) -> None:
        """Forget a note whose receipt was queued by a call that was interrupted then.

        The manager calls this before it makes any receipt.
        """
        if self._waiting and self._waiting[0].receipt is not None:
            if self._receipts.stream.last is self._waiting[0].receipt:
                self._waiting.popleft()
            else:
                self._waiting[0].receipt = None

    def emit(self) -> None:
        """Make receipts of what is noted; under the lock of the manager."""
        try:
            stats: MemoryStats | None = self._pool.stats()
        except PoolClosedError:
            stats = None
        for _ in range(len(self._waiting)):
            note = self._waiting[0]
            note.receipt = receipt = self._made(note, stats)
            self._receipts.stream.put(receipt)
            self._waiting.popleft()

    def _made(self, note: _Note, stats: MemoryStats | None) -> Receipt:
        receipts, event = self._receipts, note.event
        if event is None:
            return receipts.tier_eviction(stats, note.tier, note.count)
        whose = note.tier, note.session_id, note.session_number
        if event.kind == "loaded":
            return receipts.tier_load(
                stats, *whose, tokens=event.tokens, nbytes=event.nbytes, seconds=event.seconds
            )
        return receipts.tier_refusal(
            stats, *whose, chunk=event.name, tokens=event.tokens, reason=event.reason
        )


def _merged(events: Sequence[TierEvent]) -> list[TierEvent]:
    """Return the events of a load, with one for all batches of tokens of a tier."""
    merged: dict[tuple[str, str], TierEvent] = {}
    for event in events:
        place = event.level, "" if event.kind == "loaded" else event.name
        before = merged.get(place)
        if before is None or event.kind != "loaded":
            merged[place] = event
        else:
            merged[place] = before.with_more(event)
    return list(merged.values())
