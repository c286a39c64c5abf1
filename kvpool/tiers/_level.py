"""`Level`: one tier of a store, with its codec, its queue of chunks to write, and its figures."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from numpy.typing import NDArray

from kvpool.errors import KVPoolError, TierError
from kvpool.tiers._base import Item, Tier, TierStats
from kvpool.tiers._breaker import Breaker, BreakerState
from kvpool.tiers._chunk import Chunk, encode_chunk
from kvpool.tiers._codec import PLAIN, CodecChain
from kvpool.tiers._fetched import Fetched, fetch_run, let_go
from kvpool.tiers._helpers import Helpers, TooManyCallsError
from kvpool.tiers._job import Job
from kvpool.tiers._session import (
    StoredSession,
    encode_session,
    find_session,
    place_for,
    remove_session,
    stored_sessions,
    write_session,
)
from kvpool.tiers._write_queue import DEFAULT_QUEUE_BYTES, Batch, WriteQueue

__all__ = [
    "EvictionListener",
    "Level",
    "LevelStats",
]

WRITE_BUDGET: Final = 60.0
"""Seconds that a write behind may take, because no caller waits for it."""

EvictionListener: TypeAlias = Callable[[str, int], object]
"""Takes the name of a tier, and how many values it has evicted."""

_log = logging.getLogger("kvpool.tiers")

_AHEAD: Final = 16  # fetches under way at the same time, beside those that callers wait for
_KNOWN: Final = 1 << 16
_KNOWN_FOR: Final = 300.0
_SMOOTHING: Final = 0.25


@dataclass(frozen=True, slots=True)
class LevelStats:
    """What one level of a store has done.

    Parameters
    ----------
    name : str
        Of the tier.
    state : BreakerState
        Whether the tier is asked.
    codec : str
    hits : int
        Chunks that were loaded.
    misses : mapping of str to int
        Chunks that were not, by the reason: ``"absent"``, ``"unreachable"``, ``"late"`` (the budget
        of the load was used up), ``"cancelled"`` (no caller wanted the session any more),
        ``"declined"`` (computing is faster), ``"room"`` (the entry had none), a reason of
        `ChunkError`, or ``"behind"`` (a chunk that was not loaded).
    tokens, nbytes, seconds
        Tokens that were loaded, the bytes of their keys and values, and how long that took.
    bandwidth : float or None
        Bytes of keys and values per second of the last loads; None before the first.
    stored, stored_nbytes : int
        Chunks that were written or were there already, and bytes after the codec.
    dropped : int
        Chunks that were not written because the queue was full, the tier did not answer, or the
        store was closed.
    refused : int
        Chunks that the tier had no room for.
    failed : int
        Chunks and sessions that the codec could not encode.
    queued_nbytes : int
        Bytes of keys and values that wait to be written.
    sessions : int
        Records of named sessions that were written.
    """

    name: str
    state: BreakerState
    codec: str
    hits: int
    misses: Mapping[str, int]
    tokens: int
    nbytes: int
    seconds: float
    bandwidth: float | None
    stored: int
    stored_nbytes: int
    dropped: int
    refused: int
    failed: int
    queued_nbytes: int
    sessions: int = 0


class Level:
    """One tier of a store.

    Parameters
    ----------
    tier : Tier
        Belongs to the level from now on, which closes it. It is asked through a `Breaker`, unless
        it is one.
    codec : CodecChain, optional
        [default: keys and values are stored as they are]
    budget : float or None, default 1.0
        Seconds that one call of the tier may take; see `Breaker`.
    queue_bytes : int, default 256 MiB
        Bytes of keys and values that may wait to be written; further chunks are dropped.
    may_decline : bool, default True
        Whether chunks are computed anew that would take longer to load.
    """

    def __init__(
        self,
        tier: Tier,
        codec: CodecChain = PLAIN,
        budget: float | None = 1.0,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        *,
        may_decline: bool = True,
    ) -> None:
        self.breaker = tier if isinstance(tier, Breaker) else Breaker(tier, budget)
        self.codec = codec
        self._may_decline = may_decline
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()
        self._seconds = 0.0
        self._bandwidth: float | None = None
        self._declined = 0
        self._evictions = 0  # of which the listeners were told
        self._listeners: list[weakref.WeakMethod[EvictionListener]] = []
        self._lock = threading.RLock()  # guards all of the above
        self._ahead = Helpers(_AHEAD, f"kvpool loads {self.name}")
        self._queue = WriteQueue(self.name, queue_bytes)  # has a lock of its own

    @property
    def name(self) -> str:
        """The name of the tier."""
        return self.breaker.name

    @property
    def bandwidth(self) -> float | None:
        """Bytes of keys and values per second of the last loads."""
        return self._bandwidth

    @property
    def queued(self) -> int:
        """Bytes of keys and values that wait to be written, or are being written."""
        return self._queue.nbytes

    def stats(self) -> LevelStats:
        """Return the figures."""
        with self._lock:
            counts = self._counts
            return LevelStats(
                name=self.name,
                state=self.breaker.state,
                codec=self.codec.name,
                hits=counts["hits"],
                misses=dict(self._misses),
                tokens=counts["tokens"],
                nbytes=counts["nbytes"],
                seconds=self._seconds,
                bandwidth=self._bandwidth,
                stored=counts["stored"],
                stored_nbytes=counts["stored_nbytes"],
                dropped=counts["dropped"] + self._queue.dropped,
                refused=counts["refused"],
                failed=counts["failed"],
                queued_nbytes=self._queue.nbytes,
                sessions=counts["sessions"],
            )

    def tier_stats(self) -> TierStats | None:
        """Return what the tier holds; None if it does not answer."""
        try:
            return self.breaker.stats()
        except TierError:
            return None

    # -- loading -----------------------------------------------------------------------------

    def fetch(self, chunks: Sequence[Chunk]) -> Fetched | None:
        """Return the leading run of some chunks; None if the tier does not answer.

        What is wrong is removed, so that it can be written again.
        """
        fetched = self._fetch(chunks)
        if fetched is not None and fetched.error is not None:
            self.remove_wrong(chunks[len(fetched.arrays)], fetched.error.reason)
        return fetched

    def fetch_ahead(self, chunks: Sequence[Chunk]) -> list[Future[Fetched | None]]:
        """Begin to fetch chunks in another thread; an empty list if too many do that already.

        What is wrong stays; see `remove_wrong`. Who does not wait for the result gives
        `close_fetched` to the future.
        """
        try:
            return [self._ahead.start(lambda: self._fetch(chunks))]
        except TooManyCallsError:
            return []

    def _fetch(self, chunks: Sequence[Chunk]) -> Fetched | None:
        queued = self._queue.chunks()  # first: from there they go to the tier
        fetched: Fetched | None = Fetched()
        if not all(chunk.name in queued for chunk in chunks):
            fetched = self.breaker.call(
                lambda tier: fetch_run(tier, chunks, self.codec), None, let_go
            )
        if fetched is not None:
            fetched.add_queued(chunks, queued)
        return fetched

    def remove_wrong(self, chunk: Chunk, reason: str) -> None:
        """Remove a chunk that is wrong, by the reason of its error, if the tier answers."""
        if reason != "version":  # another version of kvpool can read it
            self.remove([chunk])

    def remove(self, chunks: Sequence[Chunk]) -> int | None:
        """Remove chunks; return how many were there, None if the tier does not answer."""
        keys = [chunk.key for chunk in chunks]
        return self.breaker.count(lambda tier: tier.remove(keys), len(keys))

    def run(self, chunks: Sequence[Chunk]) -> int | None:
        """Return how many chunks can be fetched, from the first on.

        None if the tier does not answer.
        """
        queued = self._queue.chunks()  # first: from there they go to the tier
        run = self._stored_run(chunks)
        if run is not None:
            while run < len(chunks) and chunks[run].name in queued:
                run += 1
        return run

    def _stored_run(self, chunks: Sequence[Chunk]) -> int | None:
        """Return how many chunks the tier has, from the first on; None if it does not answer."""
        keys = [chunk.key for chunk in chunks]
        return self.breaker.count(lambda tier: tier.contains(keys), len(keys))

    def declines(self, nbytes: int, seconds: float) -> bool:
        """Return whether to load this many bytes takes longer than to compute them anew.

        Parameters
        ----------
        nbytes : int
            Of keys and values.
        seconds : float
            What computing them takes.

        Notes
        -----
        Every 16th time it is tried all the same, because a store may have become faster.
        """
        with self._lock:
            if not self._may_decline or self._bandwidth is None:
                return False
            if nbytes / self._bandwidth <= seconds:
                return False
            self._declined += 1
            return self._declined % 16 != 0

    def note_loads(
        self, chunks: Sequence[Chunk], tokens: int, seconds: float, queued: int = 0
    ) -> None:
        """Count chunks that were loaded, of which the last ones may have been queued still."""
        nbytes = sum(chunk.nbytes for chunk in chunks)
        with self._lock:
            self._counts.update(hits=len(chunks), tokens=tokens, nbytes=nbytes)
            self._seconds += seconds
            if not queued:  # what was queued tells nothing of the tier
                rate = nbytes / max(seconds, 1e-9)
                before = rate if self._bandwidth is None else self._bandwidth
                self._bandwidth = before + _SMOOTHING * (rate - before)
            self._note_known(chunks[: len(chunks) - queued])

    def note_misses(self, reason: str, count: int = 1) -> None:
        """Count chunks that were not loaded."""
        if count:
            with self._lock:
                self._misses[reason] += count

    # -- what is there already ---------------------------------------------------------------

    def knows(self, chunk: Chunk) -> bool:
        """Return whether the tier had a chunk not long ago, so that it need not be written."""
        with self._lock:
            noted = self._known.get(chunk.name)
            return noted is not None and time.monotonic() - noted < _KNOWN_FOR

    def forget(self, chunk: Chunk) -> None:
        """Note that the tier does not have a chunk."""
        with self._lock:
            self._known.pop(chunk.name, None)

    def _note_known(self, chunks: Sequence[Chunk]) -> None:
        now = time.monotonic()
        for chunk in chunks:
            self._known.pop(chunk.name, None)
            self._known[chunk.name] = now
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    # -- writing behind ----------------------------------------------------------------------

    def put(self, job: Job | StoredSession) -> bool:
        """Have a chunk or a session written behind; return False if it is dropped."""
        if self._is_asked():
            return self._queue.put(job, self._write_jobs)
        self.note_dropped()
        return False

    def note_dropped(self) -> None:
        """Count a chunk that was not put because there is no room for it."""
        with self._lock:
            self._counts["dropped"] += 1

    def store(self, chunk: Chunk, data: NDArray[Any]) -> bool:
        """Have a chunk written behind; return False if it is dropped.

        Parameters
        ----------
        chunk : Chunk
        data : ndarray, shape `Chunk.shape`
            Keys and values, contiguous. The level keeps the array until it is written.
        """
        return self.put(Job.of(chunk, data))

    def takes(self, chunk: Chunk) -> bool:
        """Return whether a chunk would be written that is put now."""
        return self.has_room(chunk.nbytes) and not self.knows(chunk)

    def has_room(self, nbytes: int) -> bool:
        """Return whether the queue has room for this many bytes, and the tier may be asked."""
        return self._queue.has_room(nbytes) and self._is_asked()

    def _is_asked(self) -> bool:
        """Return whether the breaker would let a call of the tier through."""
        return self.breaker.state is not BreakerState.OPEN or self.breaker.is_due

    def _write_jobs(self, batch: Batch) -> None:
        """Write chunks, and then the session that follows them."""
        self._write([job for job in batch if isinstance(job, Job)])
        for job in batch:
            if isinstance(job, StoredSession):
                self._write_session(job)

    def _write(self, batch: Sequence[Job]) -> None:
        """Encode and write chunks, and count what became of them."""
        if not batch:
            return
        counts: Counter[str] = Counter()
        items: list[Item] = []
        chunks: list[Chunk] = []
        if not self._is_asked():
            counts["dropped"] = len(batch)
        else:
            for job in self._lacking(batch, counts):
                try:
                    parts = encode_chunk(job.chunk, job.data(), self.codec)
                except Exception:  # a codec may be of others, and the thread has to go on
                    _log.exception("tier %s: a chunk cannot be encoded", self.name)
                    counts["failed"] += 1
                else:
                    items.append((job.chunk.key, parts))
                    chunks.append(job.chunk)
        there = self._write_items(items) if items else 0
        if there is None:
            counts["dropped"] += len(items)
        else:
            counts["stored"] += there
            counts["refused"] += len(items) - there
            if there == len(items):
                counts["stored_nbytes"] += sum(
                    memoryview(part).nbytes for _, parts in items for part in parts
                )
        with self._lock:
            self._counts.update(counts)
            if there == len(items):
                self._note_known(chunks)
        self._tell_evictions()

    def listen(self, listener: EvictionListener) -> None:
        """Have a method called when values were evicted for what was written.

        It is called in the thread that writes, without a lock held, as long as its object lives.

        Parameters
        ----------
        listener : bound method
            Takes the name of the tier, and how many values were evicted.
        """
        self._listeners.append(weakref.WeakMethod(listener))

    def _tell_evictions(self) -> None:
        evictions = self.breaker.evictions
        count, self._evictions = evictions - self._evictions, evictions
        if count > 0:
            for listener in [method() for method in self._listeners]:
                if listener is not None:
                    listener(self.name, count)

    def _lacking(self, batch: Sequence[Job], counts: Counter[str]) -> Sequence[Job]:
        """Leave out, and count, what the tier had long ago and still has: it needs no bytes."""
        with self._lock:
            noted = [job.chunk for job in batch if job.chunk.name in self._known]
        there: set[bytes] = set()
        if noted:
            with suppress(KVPoolError):  # closed meanwhile
                there = {chunk.name for chunk in noted[: self._stored_run(noted) or 0]}
        with self._lock:
            self._note_known([chunk for chunk in noted if chunk.name in there])
        lacking = [job for job in batch if job.chunk.name not in there]
        counts["stored"] += len(batch) - len(lacking)
        return lacking

    def _write_session(self, session: StoredSession) -> None:
        """Write the record of a session, whose chunks were written before it, and count it."""
        became = "dropped"
        try:
            with suppress(TierError):  # closed meanwhile
                if self._replaced(session):
                    became = "sessions"
        except Exception:  # a codec may be of others, and the thread has to go on
            _log.exception("tier %s: a session cannot be encoded", self.name)
            became = "failed"
        with self._lock:
            self._counts[became] += 1

    def _replaced(self, session: StoredSession) -> bool:
        """Write a record in place of the older one of its session; return whether it is there."""
        found = self.breaker.call(
            lambda tier: place_for(tier, session.name, self.codec), None, budget=WRITE_BUDGET
        )
        if found is None:
            return False
        key, least = found
        session = session._replace(when=max(session.when, least))
        parts = encode_session(session, self.codec)
        written = self.breaker.count(lambda tier: write_session(tier, key, parts), 1, WRITE_BUDGET)
        return bool(written)

    def find_session(self, name: bytes) -> StoredSession | None:
        """Return the newest record of a session; None if the tier has none or does not answer."""
        queued = self._queue.session(name)
        if queued is not None:
            return queued
        return self.breaker.call(lambda tier: find_session(tier, name, self.codec), None)

    def remove_session(self, name: bytes, deadline: float) -> bool:
        """Forget a session, with what waits to be written of it; return whether it was there.

        Parameters
        ----------
        name : bytes
        deadline : float
            A moment of `time.monotonic`, until which a record may still be in the middle of being
            written.

        Raises
        ------
        TierError
            The tier cannot be written, or takes too long to.
        """
        was_queued = self._queue.drop_session(name)
        if not self._queue.has_written(name, deadline):
            raise TierError(f"the tier {self.name!r} is writing the session; try again later")
        return remove_session(self.breaker, name) or was_queued

    def sessions(self) -> Iterator[StoredSession]:
        """Return an iterator of the newest record of each named session, in any order.

        Raises
        ------
        TierError
            The tier fails.
        """
        return stored_sessions(self.breaker, self.codec)

    def _write_items(self, items: Sequence[Item]) -> int | None:
        """Write values; return how many are there now, None if the tier fails or is closed."""
        try:
            return self.breaker.count(lambda tier: tier.write(items), len(items), WRITE_BUDGET)
        except KVPoolError:  # closed meanwhile
            return None

    def drain(self, deadline: float, told: Callable[[], object]) -> None:
        """Wait until nothing is queued, or until a moment of `time.monotonic`.

        Parameters
        ----------
        deadline : float
        told : callable
            Called several times a second meanwhile, without a lock held.
        """
        self._queue.drain(deadline, told)

    def stop(self) -> None:
        """Let the thread end, and drop the chunks that wait to be written."""
        self._queue.stop()
        self._ahead.close()

    def enter_child(self) -> None:
        """Give up what a child of `os.fork` has copies of: there is no thread, and no lease."""
        self._lock = threading.RLock()
        self._queue.enter_child()
