"""`Departures`: how sessions leave a manager, and what is told of it."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING

from kvpool.cache_key import CacheKey
from kvpool.eviction import EvictionReason
from kvpool.manager._expiry import ExpiryQueue
from kvpool.manager._session import Session
from kvpool.pool import Deallocation, MemoryPool
from kvpool.prefix import Ranking

if TYPE_CHECKING:
    from kvpool.receipts import ReceiptEmitter

__all__ = ["Departures"]

_log = logging.getLogger(__name__)


class Departures:
    """Takes sessions whose blocks have ended out of the books, and makes their receipts.

    `begin` comes before the blocks end and says why they do; `finish` comes after. Not
    thread-safe: the manager holds its lock around every call.

    Parameters
    ----------
    pool : MemoryPool
    sessions : dict of CacheKey to Session
        The sessions that are there. Those that leave are taken out.
    ranking : Ranking
    expiry : ExpiryQueue
    receipts : ReceiptEmitter or None
        Makes a receipt of every session that leaves.

    Attributes
    ----------
    by_reason : dict of EvictionReason to int
        How many sessions have left.
    ranked : deque of CacheKey
        Sessions that have left and that the policy still ranks, because it raised.
    """

    # A session leaves by one store, and its receipt is queued before: the receipt tells by its
    # number that it was. So nothing is told twice or not at all if a call is interrupted.

    def __init__(
        self,
        pool: MemoryPool,
        sessions: dict[CacheKey, Session],
        ranking: Ranking,
        expiry: ExpiryQueue,
        receipts: ReceiptEmitter | None,
    ) -> None:
        self.by_reason = dict.fromkeys(EvictionReason, 0)
        self.ranked: deque[CacheKey] = deque()
        self._pool = pool
        self._sessions = sessions
        self._ranking = ranking
        self._expiry = expiry
        self._receipts = receipts
        self._reason = EvictionReason.MANUAL  # of the call under way
        self._figures: list[Deallocation] | None = None
        self._started = 0.0

    @property
    def total(self) -> int:
        """How many sessions have left, for any reason."""
        return sum(self.by_reason.values())

    def begin(self, reason: EvictionReason) -> list[Deallocation] | None:
        """Note why blocks are about to end; return where the pool puts the figures of it.

        Returns
        -------
        list of Deallocation or None
            None if no sink listens.
        """
        receipts = self._receipts
        self._reason = reason
        listens = receipts is not None and receipts.stream.is_listening
        self._figures = [] if listens else None
        self._started = time.perf_counter()
        return self._figures

    def without_figures(self) -> None:
        """Note that there are no figures, because the blocks ended in another way."""
        self._figures = None

    def finish(self, keys: list[CacheKey]) -> None:
        """Forget sessions whose blocks were deallocated, and make their receipts."""
        reason, figures, receipts = self._reason, self._figures, self._receipts
        for index, key in enumerate(keys):
            session = self._sessions[key]
            self.ranked.append(key)
            if session.ttl < math.inf:
                self._expiry.discard(key)
            if figures is not None and receipts is not None:
                self._tell(receipts, session, figures[index])
            del self._sessions[key]
        self.by_reason[reason] += len(keys)
        if figures and len(figures) > 1 and receipts is not None:
            receipts.emit_batch_eviction_receipt(
                len(figures),
                # A sum: between two members, other threads append tokens and commit pages.
                sum(one.before.used - one.after.used for one in figures),
                before=figures[0].before,
                after=figures[-1].after,
                seconds=time.perf_counter() - self._started,
            )
        while self.ranked:  # last, because a policy is not ours, and may raise
            self._ranking.remove(self.ranked[0])
            self.ranked.popleft()

    def _tell(self, receipts: ReceiptEmitter, session: Session, figures: Deallocation) -> None:
        receipts.emit_eviction_receipt(
            session.entry.session_id,
            session.number,
            self._reason,
            charged=figures.charged,
            before=figures.before,
            after=figures.after,
            sessions_before=len(self._sessions),
        )

    def forget_again(self) -> None:
        """Have the policy forget those at which it raised; if it raises again, leave it so.

        Then it ranks a session that is gone: `check_integrity` says so, and so does an eviction.
        """
        while self.ranked:
            with contextlib.suppress(Exception):
                self._ranking.remove(self.ranked[0])
            self.ranked.popleft()

    # -- after an interrupt --------------------------------------------------------------

    def finish_interrupted(self) -> None:
        """Forget the sessions whose blocks have ended; make the receipts that are not queued."""
        pool, figures = self._pool, {one.block: one for one in self._figures or ()}
        ended = {
            session.entry.block: key
            for key, session in self._sessions.items()
            if not pool.is_live(session.entry.block)
        }
        pending = {usage.block: usage.committed for usage in pool.usage() if not usage.is_live}
        # In the order in which the blocks ended; those without figures were the last.
        for block in [*(one for one in figures if one in ended), *(ended.keys() - figures.keys())]:
            self._finish_one(ended[block], figures.get(block), pending.get(block, 0))
        self._rank_again()

    def _finish_one(self, key: CacheKey, figures: Deallocation | None, pending: int) -> None:
        """Forget one session. Without figures, what is still charged is said to be pending."""
        session, receipts = self._sessions[key], self._receipts
        is_told = receipts is None or receipts.has_told_of(session.number)
        if receipts is not None and self._figures is not None and not is_told:
            if figures is None:
                now = self._pool.stats()
                receipts.note_unexplained(now)
                figures = Deallocation(session.entry.block, pending, now, now)
            self._tell(receipts, session, figures)
        del self._sessions[key]

    def _rank_again(self) -> None:
        """Have the policy rank the sessions that are there, and no others, unless it raises."""
        self.ranked.clear()
        try:
            unranked = [
                key for key, one in self._sessions.items() if one.is_open and one.held is None
            ]
            ranked = [
                (key, one.entry.block.size, one.held)
                for key, one in sorted(self._sessions.items(), key=_last_use)
                if not (one.is_open and one.held is None)
            ]
            self._ranking.restore(ranked, unranked)
        except MemoryError:
            raise  # the next call does it again
        except Exception:  # from the policy, which is not ours; `check_integrity` tells
            _log.exception("the eviction policy %s failed", type(self._ranking.policy).__name__)

    def recount(self, made: int) -> None:
        """Count those that have left: all that were made and are not there.

        Parameters
        ----------
        made : int
            Sessions that the manager has made.
        """
        self.by_reason[self._reason] += made - len(self._sessions) - self.total
        if self._receipts is not None:
            self._receipts.note_unexplained(self._pool.stats())


def _last_use(item: tuple[CacheKey, Session]) -> tuple[float, int]:
    entry = item[1].entry
    return entry.last_accessed, entry.last_use
