"""`Replay`: serves the requests of a trace from one pool, with real bytes."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from kvpool._closing import Closing
from kvpool._sizes import as_capacity
from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import InvalidSizeError, PoolExhaustedError
from kvpool.eviction.registry import registry as policies
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.receipts import Receipts
from kvpool.replay._content import Span, TokenTape, request_spans, split
from kvpool.replay._report import ReplayReport, Tally, UtilizationMeter
from kvpool.replay._request import TraceRequest
from kvpool.replay._reservation import Reservation
from kvpool.replay._sessions import ReplaySession, ReplaySessions

__all__ = ["NAMESPACE", "Replay", "TraceClock"]

NAMESPACE = "replay"
"""Namespace of the keys of all sessions, whose ids are numbers from 0 on."""


class TraceClock:
    """A clock that shows the latest arrival of a request; it never goes back."""

    def __init__(self) -> None:
        self.now = -math.inf

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now

    def advance(self, arrival: float) -> None:
        """Advance to an arrival; an earlier one changes nothing."""
        self.now = max(self.now, arrival)


class Replay(Closing):
    """Serves requests one by one: writes each token, reads it back and compares it.

    Parameters
    ----------
    layout : KVLayout
    capacity : int or str
        Bytes of the pool, or a text like ``"4GiB"``.
    backend : str, optional
        Name of the backend. By default ``$KVPOOL_BACKEND``, else ``"mmap"`` on Linux and
        ``"numpy"`` on other systems.
    ttl : float, optional
        Seconds, in the time of the arrivals, after which an idle session expires; by default never.
    policy : str, optional
        Name of the eviction policy; by default ``"lru"``.
    hash_block_tokens : int, optional
        Tokens per block, if requests list ids of blocks; by default they do not, and each
        request is its own session.
    receipts : bool, sink, or name of a sink, default True
    elastic : bool, optional
        Whether to account by committed page; by default if the backend can.
    max_context_length : int, optional
        Tokens to reserve for every entry; by default those of its request.
    write : bool, default True
        Whether to write and check bytes. If False, memory is allocated for the tokens, but
        nothing is written or checked.

    Attributes
    ----------
    manager : KVCacheManager

    Raises
    ------
    InvalidSizeError
        `capacity` is not an integer of at least 1.
    InvalidTtlError
        `ttl` is not a positive number of seconds.
    PluginError
        The backend or the policy is unknown or cannot be used.
    ArenaError
        The operating system refused to create the arena.
    UnsupportedError
        `elastic` is True, and the backend cannot return pages.
    InvalidLayoutError
        `max_context_length` is less than 1.

    Notes
    -----
    The prompt of a request is written at once, and its generated tokens one by one. Then the
    whole session is read through views of its entry and compared with what was written: at once,
    again when a later request continues it, and at the end if it was not evicted.

    With ``write=False`` all tokens of a request are appended at once, layer after layer.

    Not thread-safe.
    """

    def __init__(
        self,
        layout: KVLayout,
        capacity: int | str,
        backend: str | None = None,
        *,
        ttl: float | None = None,
        policy: str | None = None,
        hash_block_tokens: int | None = None,
        receipts: Receipts = True,
        elastic: bool | None = None,
        max_context_length: int | None = None,
        write: bool = True,
    ) -> None:
        if max_context_length is not None:
            layout.geometry(max_context_length)  # refuses what is no length
        capacity = as_capacity("capacity", capacity)
        if layout.bytes_per_token > capacity:
            raise InvalidSizeError(
                f"one token of the layout {layout} takes {layout.bytes_per_token} bytes, more than "
                f"the whole pool with its {capacity}: give a larger capacity or a smaller layout"
            )
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
        self._hash_block_tokens = hash_block_tokens
        self._tape = TokenTape(layout) if write else None
        self._sessions = ReplaySessions(hash_block_tokens)
        self._evictions = 0  # those that the table of sessions has seen
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

    def branch(self, session: ReplaySession, kept: int) -> ReplaySession:
        """Fork a session; the fork keeps its first tokens and gets others up to the same length.

        Parameters
        ----------
        session : ReplaySession
            A session that is in the pool.
        kept : int
            How many tokens the fork keeps.

        Returns
        -------
        ReplaySession
            The fork. It is read and compared like other sessions, but never continued.

        Raises
        ------
        EntryNotFoundError, PoolExhaustedError
        """
        key = CacheKey(NAMESPACE, self._next_id)
        entry = self.manager.fork_cache_entry(session.key, key)
        self._next_id += 1
        entry.truncate(kept)
        other = TraceRequest(0, 0, session.request.tokens - kept)
        said = request_spans(other, self._tally.requests + self._next_id, None)[1]
        self._write(entry, [], said)
        self._tally.generated_tokens += other.tokens
        request = replace(session.request, hash_blocks=())
        fork = ReplaySession(key, entry, [*split(session.spans, kept)[0], *said], request)
        self._sessions.put(fork)
        self._verify(fork)
        self._look()
        return fork

    def finish(self) -> None:
        """Read every session in the pool again, and check the integrity of the manager.

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

    # -- results ------------------------------------------------------------------------

    def report(self) -> ReplayReport:
        """Return the figures so far."""
        pool = self.manager.pool
        is_elastic = pool.is_elastic
        return ReplayReport(
            backend=pool.arena_info.backend,
            policy=self._policy,
            layout=str(self._layout),
            ttl=self._ttl,
            complete=self._complete,
            names_sessions=self._hash_block_tokens is not None,
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

    def sessions(self) -> list[ReplaySession]:
        """Return the sessions that are in the pool."""
        return list(self._sessions)

    def close(self) -> None:
        """Close the pool."""
        self.manager.close()

    # -- one request ---------------------------------------------------------------------

    def _serve(self, request: TraceRequest) -> CacheKey:
        resident = self._sessions.resident_prefix(request)
        key, entry, shared = self._continued(request) or self._opened(request)
        entry.truncate(shared)
        prompt, generated = request_spans(request, self._tally.requests, self._hash_block_tokens)
        self._write(entry, split(prompt, shared)[1], generated)
        session = ReplaySession(key, entry, [*prompt, *generated], request)
        self._sessions.put(session)
        self._verify(session)
        tally = self._tally
        tally.prompt_tokens += request.prompt_tokens
        tally.generated_tokens += request.generated_tokens
        tally.reused_tokens += shared
        tally.forkable_tokens += max(resident - shared, 0)
        return key

    def _continued(self, request: TraceRequest) -> tuple[CacheKey, KVCacheEntry, int] | None:
        """Find the session that a request continues, and make its entry long enough."""
        match = self._sessions.continued_by(request)
        if match is None:
            return None
        session, shared = match
        self._verify(session)
        try:
            entry = self.manager.get_or_create_cache(
                session.key, self._reservation.length(request.tokens)
            )
        except PoolExhaustedError:  # too little memory for the larger entry next to the present one
            self.manager.remove_cache_entry(session.key)
            return None
        return session.key, entry, shared

    def _opened(self, request: TraceRequest) -> tuple[CacheKey, KVCacheEntry, int]:
        key = CacheKey(NAMESPACE, self._next_id)
        self._next_id += 1
        length = self._reservation.length(request.tokens)
        return key, self.manager.get_or_create_cache(key, length), 0

    def _write(self, entry: KVCacheEntry, prompt: list[Span], generated: list[Span]) -> None:
        before = entry.token_count
        lease = (
            entry.lease()
        )  # as an engine does while it works; this also saves one lease per token
        if self._tape is None:
            _count_only(entry, sum(span.length for span in (*prompt, *generated)))
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

    def _verify(self, session: ReplaySession) -> None:
        if self._tape is None:
            return
        faults = self._tape.faults(session.entry, session.spans)
        self._tally.verified_bytes += session.request.tokens * self._layout.bytes_per_token
        self._tally.note_failures([f"{session.key}: {fault}" for fault in faults])

    def _look(self) -> None:
        """Remove evicted sessions from the table, then record the figures of this moment."""
        stats = self.manager.get_stats()
        if stats.evictions != self._evictions:
            self._sessions.keep_only(self.manager.session_keys())
            self._evictions = stats.evictions
        size = self._layout.bytes_per_token
        live, paged = self._sessions.live_tokens * size, self._sessions.paged_tokens * size
        self._meter.look(self._clock(), live, paged, stats)


def _count_only(entry: KVCacheEntry, count: int) -> None:
    """Append tokens to an entry without writing their bytes."""
    for layer in range(entry.layout.layers if count else 0):
        with entry.writing(layer, count):
            pass
