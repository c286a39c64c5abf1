"""`Replay`: serves the requests of a trace out of one pool, with real bytes."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from kvpool._closing import Closing
from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import PoolExhaustedError
from kvpool.eviction.registry import registry as policies
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.pool import ElasticPool
from kvpool.receipts import Receipts
from kvpool.replay._content import Run, TokenTape, request_runs, split
from kvpool.replay._report import ReplayReport, Tally, UtilizationMeter
from kvpool.replay._request import TraceRequest
from kvpool.replay._reservation import Reservation
from kvpool.replay._sessions import Session, SessionTable

__all__ = ["NAMESPACE", "Replay", "TraceClock"]

NAMESPACE = "replay"
"""Of the keys of all sessions; their ids are numbers from 0 on."""


class TraceClock:
    """A clock that stands at the arrival of the latest request; it never goes back."""

    def __init__(self) -> None:
        self.now = -math.inf

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now

    def advance(self, arrival: float) -> None:
        """Go on to an arrival; one that lies in the past changes nothing."""
        self.now = max(self.now, arrival)


class Replay(Closing):
    """Serves requests one after the other: writes each token, reads it back, compares.

    Parameters
    ----------
    layout : KVLayout
    capacity : int
        Bytes of the pool.
    backend : str, optional
        As for `MemoryPool`.
    ttl : float, optional
        Seconds between two arrivals after which an idle session goes. By default never.
    policy : str, optional
        By default ``"lru"``.
    block_tokens : int, optional
        Tokens of the blocks that requests name; by default they name none, and each
        request is a session of its own.
    receipts : bool, sink, or name of a sink, default True
    elastic : bool, optional
        As for `KVCacheManager`.
    max_context_length : int, optional
        Tokens that every entry is reserved for. By default just those of its request.
    write : bool, default True
        False to count only: the pool is charged as for tokens that are written, but no byte
        is written, and so none is checked.

    Attributes
    ----------
    manager : KVCacheManager

    Raises
    ------
    InvalidSizeError, InvalidTtlError, PluginError, ArenaError, UnsupportedError
        As for `KVCacheManager`.
    InvalidLayoutError
        `max_context_length` is less than 1.

    Notes
    -----
    A request's prompt is written at once, what it generates token by token. Then all of the
    session is read through the views of its entry and compared with what was written: at
    once, again when a later request continues it, and in the end if it is still there.

    Where bytes are only counted, the tokens of a request come layer after layer, all at once.

    Not thread-safe.
    """

    def __init__(
        self,
        layout: KVLayout,
        capacity: int,
        backend: str | None = None,
        *,
        ttl: float | None = None,
        policy: str | None = None,
        block_tokens: int | None = None,
        receipts: Receipts = True,
        elastic: bool | None = None,
        max_context_length: int | None = None,
        write: bool = True,
    ) -> None:
        if max_context_length is not None:
            layout.geometry(max_context_length)  # refuses what is no length
        self._clock = TraceClock()
        self._layout, self._ttl = layout, ttl
        self._policy = policies.chosen_name(policy)
        self.manager = KVCacheManager(
            *(capacity, backend, layout, ttl, self._policy),
            clock=self._clock,
            receipts=receipts,
            elastic=elastic,
        )
        self._reservation = Reservation(self.manager.pool, layout, max_context_length)
        self._block_tokens = block_tokens
        self._tape = TokenTape(layout) if write else None
        self._sessions = SessionTable(block_tokens)
        self._evictions = 0  # those that the table of sessions knows of
        self._meter = UtilizationMeter()
        self._tally = Tally()
        self._next_id = 0
        self._complete = False

    # -- serving -------------------------------------------------------------------------

    def serve(self, request: TraceRequest) -> CacheKey | None:
        """Serve a request; its session is idle afterwards.

        Returns
        -------
        CacheKey or None
            The session; None if the request was rejected: it is longer than an entry, or
            larger than the pool.
        """
        started = time.perf_counter()
        self._clock.advance(request.arrival)
        self._sessions.forget(self.manager.evict_expired())
        self._tally.requests += 1
        key = None
        if self._reservation.fits(request.tokens):
            key = self._serve(request)
        else:
            self._tally.rejected += 1
        self._look()
        self._tally.seconds += time.perf_counter() - started
        return key

    def branch(self, session: Session, kept: int) -> Session:
        """Fork a session; the fork keeps some tokens, and goes on with others, to its length.

        Parameters
        ----------
        session : Session
            One that is in the pool.
        kept : int
            Tokens.

        Returns
        -------
        Session
            The fork. It is read and compared as all are, but no request continues it.

        Raises
        ------
        EntryNotFoundError, PoolExhaustedError
        """
        key = CacheKey(NAMESPACE, self._next_id)
        entry = self.manager.fork_cache_entry(session.key, key)
        self._next_id += 1
        entry.truncate(kept)
        other = TraceRequest(0, 0, session.request.tokens - kept)
        said = request_runs(other, self._tally.requests + self._next_id, None)[1]
        self._write(entry, [], said)
        self._tally.generated_tokens += other.tokens
        request = replace(session.request, blocks=())
        fork = Session(key, entry, [*split(session.runs, kept)[0], *said], request)
        self._sessions.put(fork)
        self._verify(fork)
        self._look()
        return fork

    def finish(self) -> None:
        """Read every session again that is still there, and check all books.

        Raises
        ------
        IntegrityError
            The books disagree.
        """
        started = time.perf_counter()
        for session in self._sessions:
            self._verify(session)
        self.manager.check_integrity()
        self._tally.seconds += time.perf_counter() - started
        self._complete = True

    # -- what came of it -----------------------------------------------------------------

    def report(self) -> ReplayReport:
        """Return the figures up to now."""
        pool = self.manager.pool
        is_elastic = isinstance(pool, ElasticPool)
        return ReplayReport(
            backend=pool.arena_info.backend,
            policy=self._policy,
            layout=str(self._layout),
            ttl=self._ttl,
            complete=self._complete,
            names_sessions=self._block_tokens is not None,
            tally=self._tally.copy(),
            utilization=self._meter.result(),
            stats=self.manager.get_stats(),
            elastic=is_elastic,
            max_context_length=self._reservation.max_context_length,
            written=self._tape is not None,
            committed_by_system=(
                pool.committed_bytes() if is_elastic and self._tape is not None else None
            ),
            used_in_arena=sum(one.committed for one in pool.usage() if not one.is_fork),
        )

    def sessions(self) -> list[Session]:
        """Return the sessions that are in the pool."""
        return list(self._sessions)

    def close(self) -> None:
        """Give the pool up."""
        self.manager.close()

    # -- one request ---------------------------------------------------------------------

    def _serve(self, request: TraceRequest) -> CacheKey:
        resident = self._sessions.resident_prefix(request)
        key, entry, shared = self._continued(request) or self._opened(request)
        entry.truncate(shared)
        prompt, generated = request_runs(request, self._tally.requests, self._block_tokens)
        self._write(entry, split(prompt, shared)[1], generated)
        session = Session(key, entry, [*prompt, *generated], request)
        self._sessions.put(session)
        self._verify(session)
        tally = self._tally
        tally.prompt_tokens += request.prompt_tokens
        tally.generated_tokens += request.generated_tokens
        tally.reused_tokens += shared
        tally.forkable_tokens += max(resident - shared, 0)
        return key

    def _continued(self, request: TraceRequest) -> tuple[CacheKey, KVCacheEntry, int] | None:
        """Find the session that a request continues, with room for it and tokens to keep."""
        match = self._sessions.continued_by(request)
        if match is None:
            return None
        session, shared = match
        self._verify(session)
        try:
            entry = self.manager.get_or_create_cache(
                session.key, self._reservation.length(request.tokens)
            )
        except PoolExhaustedError:  # no room for the larger entry beside the present one
            self.manager.remove_cache_entry(session.key)
            return None
        return session.key, entry, shared

    def _opened(self, request: TraceRequest) -> tuple[CacheKey, KVCacheEntry, int]:
        key = CacheKey(NAMESPACE, self._next_id)
        self._next_id += 1
        length = self._reservation.length(request.tokens)
        return key, self.manager.get_or_create_cache(key, length), 0

    def _write(self, entry: KVCacheEntry, prompt: list[Run], generated: list[Run]) -> None:
        before = entry.token_count
        lease = entry.data()  # as an engine holds one while it works; it spares one per token
        if self._tape is None:
            _count_only(entry, sum(run.length for run in (*prompt, *generated)))
        else:
            extend = entry.extend
            if prompt:
                extend(*self._tape.tokens(prompt))
            for keys, values in self._tape.singles(generated):
                extend(keys, values)
        del lease
        written = entry.token_count - before
        self._tally.written_tokens += written
        if self._tape is not None:
            self._tally.written_bytes += written * self._layout.bytes_per_token

    def _verify(self, session: Session) -> None:
        if self._tape is None:
            return
        faults = self._tape.faults(session.entry, session.runs)
        self._tally.verified_bytes += session.request.tokens * self._layout.bytes_per_token
        self._tally.note_failures([f"{session.key}: {fault}" for fault in faults])

    def _look(self) -> None:
        """Learn who was evicted, then take the figures of this moment."""
        stats = self.manager.get_stats()
        if stats.evictions != self._evictions:
            self._sessions.keep_only(self.manager.session_keys())
            self._evictions = stats.evictions
        size = self._layout.bytes_per_token
        live, paged = self._sessions.live_tokens * size, self._sessions.paged_tokens * size
        self._meter.look(self._clock(), live, paged, stats)


def _count_only(entry: KVCacheEntry, count: int) -> None:
    """Have an entry hold tokens that nobody writes."""
    for layer in range(entry.layout.layers if count else 0):
        with entry.writing(layer, count):
            pass
