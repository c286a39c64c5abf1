"""`TierStore`: levels of tiers, which chunks are written to behind, and are loaded from."""

from __future__ import annotations

import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, Protocol

from numpy.typing import NDArray

from kvpool._checks import whole_number
from kvpool._closing import Closing
from kvpool._process import ForkAware, current, forget_forks, in_child_of, watch_forks
from kvpool.errors import ContextOverflowError, InvalidTierError, PoolExhaustedError, TierError
from kvpool.prefix import TOKEN_BYTES, Identity
from kvpool.tiers._base import Tier
from kvpool.tiers._chunk import Chunk, chunks_of
from kvpool.tiers._codec import open_codec
from kvpool.tiers._level import DEFAULT_QUEUE_BYTES, Fetched, Job, Level, LevelStats
from kvpool.tiers._registry import open_tier, split_url

__all__ = [
    "LEVEL_OPTIONS",
    "Loaded",
    "StoreStats",
    "TierEvent",
    "TierStore",
    "TokenSink",
    "open_level",
]

LEVEL_OPTIONS: Final = {
    "codec": "codecs of the chunks, for example zstd or zstd,aes-gcm",
    "budget": "seconds that one call may take, by default 1; none for no limit",
}
"""Options that the URL of any tier may have in a store, and what each of them means."""

_BATCH: Final = 16 << 20
_SMOOTHING: Final = 0.25
_ENDS: Final = {"late", "room"}  # reasons that are those of every level


class TokenSink(Protocol):
    """What tokens are loaded into: a `kvpool.entry.KVCacheEntry`."""

    @property
    def token_count(self) -> int:
        """Tokens that every layer holds."""

    def writing(self, layer: int, count: int) -> AbstractContextManager[Iterable[NDArray[Any]]]:
        """Let the caller write keys and values of the next tokens of one layer."""

    def truncate(self, token_count: int) -> None:
        """Drop the tokens from a position on."""


class Loaded(NamedTuple):
    """What a load has done.

    Parameters
    ----------
    tokens : int
        Tokens that the entry got.
    nbytes : int
        Bytes of their keys and values.
    seconds : float
    waited : bool
        Whether another thread was loading the same chunks. Then this call has waited for it and
        loaded nothing: look whether the pool has them now, and call again if it does not.
    reason : str
        Why it ended: ``"done"`` if all whole chunks are loaded, or the reason of the first miss;
        see `LevelStats`; ``"room"`` if the pool or the entry had no room.
    """

    tokens: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    waited: bool = False
    reason: str = "done"


@dataclass(frozen=True, slots=True)
class TierEvent:
    """Something that happened between a store and a tier.

    Parameters
    ----------
    kind : {"loaded", "wrong"}
        "loaded": tokens came into an entry. "wrong": a chunk was not what it should be.
    level : str
        The name of the tier.
    tokens, nbytes : int
        How much.
    seconds : float
    reason : str
        Of a chunk that was wrong; see `ChunkError`.
    name : str
        The first chunk, in hexadecimal digits.
    """

    kind: Literal["loaded", "wrong"]
    level: str
    tokens: int
    nbytes: int
    seconds: float
    reason: str
    name: str


@dataclass(frozen=True, slots=True)
class StoreStats:
    """The figures of a store.

    Parameters
    ----------
    levels : tuple of LevelStats
        The first one is asked first.
    compute_rate : float or None
        Tokens per second that the model computes, from `TierStore.note_compute`.
    """

    levels: tuple[LevelStats, ...]
    compute_rate: float | None


def open_level(url: str, queue_bytes: int = DEFAULT_QUEUE_BYTES) -> Level:
    """Open a tier as a level of a store.

    Parameters
    ----------
    url : str
        That `open_tier` takes, with the options of `LEVEL_OPTIONS` as well.
    queue_bytes : int, default 256 MiB
        Bytes of keys and values that may wait to be written.

    Raises
    ------
    PluginError
        No plugin has the name of the scheme or of a codec.
    InvalidTierError
        It is not a URL, or an option or its value is not accepted.
    TierError
        The store cannot be opened.
    """
    _, place, options = split_url(url)
    codec = open_codec(options.pop("codec", "none"))
    text = options.pop("budget", "1")
    try:
        budget = None if text == "none" else float(text)
    except ValueError:
        raise InvalidTierError(f"budget must be seconds or 'none', not {text!r}") from None
    if budget is not None and not 0 < budget < float("inf"):
        raise InvalidTierError(f"budget must be a number of seconds above 0, not {text!r}")
    return Level(open_tier(place, options), codec, budget, queue_bytes)


class TierStore(Closing, ForkAware):
    """Chunks beyond the pool, in one tier or in several.

    Parameters
    ----------
    levels : sequence of str, Tier or Level
        URLs, or what they stand for. The first one is asked first, and gets what a later one had.
        They belong to the store from now on.
    chunk_tokens : int, default 64
        Tokens of a chunk. Chunks of another size are not found.
    load_budget : float, default 5.0
        Seconds that one load may take. What is loaded by then is used.
    queue_bytes : int, default 256 MiB
        For each level: bytes of keys and values that may wait to be written. Further chunks are
        dropped.
    on_event : callable, optional
        Takes each `TierEvent`, in the thread in which it happened and without a lock held.

    Raises
    ------
    PluginError
        There is no tier or codec of a name.
    InvalidTierError
        A URL or an option is not accepted.
    TierError
        A tier cannot be opened.

    Notes
    -----
    The store knows no manager. It gets tokens as bytes (`kvpool.prefix.token_bytes`), an
    `Identity`, and the arrays or the entry to copy from and to.

    *Threads.* Any method may be called from any thread. *Processes.* In a child that `os.fork` made
    each call but `close` raises `ForkedProcessError`.
    """

    def __init__(
        self,
        levels: Sequence[str | Tier | Level],
        *,
        chunk_tokens: int = 64,
        load_budget: float = 5.0,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        on_event: Callable[[TierEvent], object] | None = None,
    ) -> None:
        self._chunk_tokens = whole_number("chunk_tokens", chunk_tokens, InvalidTierError, least=1)
        self._load_budget = load_budget
        self._on_event = on_event
        self._pid = current.pid
        self._loading: dict[bytes, threading.Lock] = {}  # by the first chunk; held while it loads
        self._compute_rate: float | None = None
        self._is_closed = self._is_ended = False
        self._levels: list[Level] = []
        try:
            for level in levels:
                self._levels.append(_as_level(level, queue_bytes))
        except BaseException:
            _close_all(self._levels)
            raise
        self._end = weakref.finalize(self, _stop, list(self._levels))
        watch_forks(weakref.ref(self, forget_forks))

    def _enter_child(self) -> None:
        self._end.detach()
        for level in self._levels:
            level.enter_child()

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels; the first one is asked first."""
        return tuple(self._levels)

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk."""
        return self._chunk_tokens

    def stats(self) -> StoreStats:
        """Return the figures of all levels."""
        self._check_process()
        return StoreStats(tuple(level.stats() for level in self._levels), self._compute_rate)

    def note_compute(self, tokens: int, seconds: float) -> None:
        """Note how long a model took for tokens that it computed.

        A tier that would take longer to load tokens than the model to compute them is not asked.
        """
        if tokens > 0 and seconds > 0:
            rate = tokens / seconds
            before = self._compute_rate or rate
            self._compute_rate = before + _SMOOTHING * (rate - before)

    # -- writing -----------------------------------------------------------------------------

    def put(
        self,
        identity: Identity,
        tokens: bytes,
        keys: NDArray[Any],
        values: NDArray[Any],
        *,
        hold: bool = False,
    ) -> int:
        """Have the whole chunks of a sequence written behind.

        Parameters
        ----------
        identity : Identity
        tokens : bytes
            From `kvpool.prefix.token_bytes`: the sequence from its first token on.
        keys, values : ndarray, shape (layers, kv_heads, n, head_dim)
            From `kvpool.entry.KVCacheEntry.keys` and `values`. Chunks that end behind the n tokens
            are left out.
        hold : bool, default False
            Whether the arrays are kept until they are written, instead of being copied now. They
            are leases: the entry cannot be evicted meanwhile.

        Returns
        -------
        int
            Chunks that are queued for a level at least. Those that every level has, and those for
            which no queue has room, are not among them.
        """
        self._check_open()
        held = min(len(tokens) // TOKEN_BYTES, keys.shape[2])
        queued = 0
        for chunk in chunks_of(identity, tokens[: held * TOKEN_BYTES], self._chunk_tokens):
            lacking = [level for level in self._levels if not level.knows(chunk)]
            job = Job(chunk, keys, values)
            if not hold and any(level.takes(chunk) for level in lacking):
                job.data()
            queued += sum(level.put(job) for level in lacking) > 0
        return queued

    def drain(self, timeout: float, progress: Callable[[int, int], object] | None = None) -> int:
        """Wait until all chunks are written that are queued now.

        Parameters
        ----------
        timeout : float
            Seconds to wait at most.
        progress : callable, optional
            Takes bytes written and bytes in all, several times a second.

        Returns
        -------
        int
            Bytes of keys and values that are still not written.
        """
        self._check_process()
        deadline = time.monotonic() + timeout
        total = self._queued()

        def tell() -> None:
            if progress is not None:
                progress(max(0, total - self._queued()), total)

        for level in self._levels:
            level.drain(deadline, tell)
        tell()
        return self._queued()

    def _queued(self) -> int:
        return sum(level.queued for level in self._levels)

    # -- loading -----------------------------------------------------------------------------

    def available(self, identity: Identity, tokens: bytes) -> int:
        """Return how many tokens at the start of a sequence could be loaded now."""
        self._check_open()
        chunks = list(chunks_of(identity, tokens, self._chunk_tokens))
        at = 0
        while at < len(chunks):
            found = max((level.run(chunks[at:]) or 0 for level in self._levels), default=0)
            if not found:
                break
            at += found
        return at * self._chunk_tokens

    def load(
        self,
        identity: Identity,
        tokens: bytes,
        sink: TokenSink,
        limit: int | None = None,
    ) -> Loaded:
        """Load tokens of a sequence into an entry, behind those that it holds.

        Parameters
        ----------
        identity : Identity
        tokens : bytes
            From `kvpool.prefix.token_bytes`: the sequence from its first token on. The entry holds
            its beginning.
        sink : KVCacheEntry
            Gets the tokens of the leading run of chunks that the levels have. The call has it for
            itself.
        limit : int, optional
            The most tokens that the entry shall hold. [default: all of `tokens`]

        Returns
        -------
        Loaded

        Notes
        -----
        After any error the entry holds whole tokens: those that it held, and maybe some more.
        """
        self._check_open()
        begun, held = time.monotonic(), sink.token_count
        stop = len(tokens) // TOKEN_BYTES
        stop = stop if limit is None else min(stop, limit)
        if held >= stop:
            return Loaded()
        first = held // self._chunk_tokens
        chunks = list(islice(chunks_of(identity, tokens, self._chunk_tokens), first, None))
        while chunks and chunks[-1].start >= stop:
            chunks.pop()
        if not chunks:
            return Loaded()
        name, deadline = chunks[0].name, begun + self._load_budget
        loading, mine = self._loading, threading.Lock()
        mine.acquire()
        try:
            other = loading.setdefault(name, mine)
            if other is not mine:
                if other.acquire(timeout=max(0.0, deadline - time.monotonic())):
                    other.release()  # for the next one that waits
                return Loaded(seconds=time.monotonic() - begun, waited=True, reason="waited")
            reason = _Load(self, chunks, sink, stop, deadline).run()
        finally:
            # No call comes before the last line, so no interrupt can either.
            if name in loading and loading[name] is mine:
                del loading[name]
            mine.release()
        loaded = sink.token_count - held
        nbytes = loaded * identity.layout.bytes_per_token
        return Loaded(loaded, nbytes, time.monotonic() - begun, waited=False, reason=reason)

    def seconds_to_compute(self, tokens: int) -> float:
        """Return how long the model takes for tokens; infinite if that is not known."""
        return float("inf") if self._compute_rate is None else tokens / self._compute_rate

    def tell(self, event: TierEvent) -> None:
        """Tell of an event."""
        if self._on_event is not None:
            self._on_event(event)

    # -- the end -----------------------------------------------------------------------------

    def close(
        self, timeout: float = 10.0, progress: Callable[[int, int], object] | None = None
    ) -> None:
        """Write what is queued, and close all tiers; a second call does nothing.

        Parameters
        ----------
        timeout : float, default 10.0
            Seconds for writing. What is not written then is dropped, and counted.
        progress : callable, optional
            Takes bytes written and bytes in all, several times a second.
        """
        if self._pid != current.pid or self._is_ended:
            return
        self._is_closed = True
        try:
            self.drain(timeout, progress)
        finally:
            errors = _close_all(self._levels)
        self._end.detach()
        self._is_ended = True  # last, so that a call after an interrupt goes on
        if errors:
            raise errors[0]

    def _check_process(self) -> None:
        if self._pid != current.pid:
            raise in_child_of(self._pid, "store of tiers")

    def _check_open(self) -> None:
        self._check_process()
        if self._is_closed:
            raise TierError("the store of tiers is closed")

    def __repr__(self) -> str:
        return f"<TierStore {[level.name for level in self._levels]}>"


class _Load:
    """One load: some chunks, level by level and batch by batch, into an entry."""

    def __init__(
        self,
        store: TierStore,
        chunks: list[Chunk],
        sink: TokenSink,
        stop: int,
        deadline: float,
    ) -> None:
        self._store, self._chunks, self._sink = store, chunks, sink
        self._stop, self._deadline = stop, deadline

    def run(self) -> str:
        """Load as much as there is; return why it ended."""
        ended: dict[Level, tuple[int, str]] = {}  # where the run of a level ended last, and why
        at = 0
        while at < len(self._chunks):
            count = 0
            for number, level in enumerate(self._store.levels):
                if level not in ended or ended[level][0] != at:
                    count, reason = self._load_from(number, level, at)
                    at += count
                    ended[level] = at, reason
                    if count or reason in _ENDS:
                        break
            if not count or reason in _ENDS:
                reasons = [why for where, why in ended.values() if where == at]
                return next((why for why in reasons if why != "absent"), "absent")
        return "done"

    def _load_from(self, number: int, level: Level, at: int) -> tuple[int, str]:
        """Load the run that a level has; return how many chunks, and why it ended."""
        wanted = self._chunks[at:]
        run = level.run(wanted)
        done, reason = 0, "unreachable" if run is None else "absent"
        if run:
            nbytes = sum(chunk.nbytes for chunk in wanted[:run])
            end = wanted[run - 1].start + wanted[run - 1].tokens
            tokens = min(end, self._stop) - self._sink.token_count
            if level.declines(nbytes, self._store.seconds_to_compute(tokens)):
                reason = "declined"
            else:
                done, reason = self._load_run(number, level, wanted[:run])
        if done < len(wanted):
            level.note_misses(reason)
            level.note_misses("behind", len(wanted) - done - 1)
            level.forget(wanted[done])
        return done, reason

    def _load_run(self, number: int, level: Level, chunks: list[Chunk]) -> tuple[int, str]:
        """Load chunks batch by batch; return how many, and why it ended."""
        done = 0
        size = max(1, _BATCH // chunks[0].nbytes)
        while done < len(chunks):
            count, why = self._load_batch(number, level, chunks[done : done + size])
            done += count
            if why != "done":
                return done, why
        return done, "absent"  # the chunk behind them is

    def _load_batch(self, number: int, level: Level, batch: list[Chunk]) -> tuple[int, str]:
        """Load the leading run of a batch; return how many chunks, and why it ended."""
        begun = time.monotonic()
        if begun >= self._deadline:
            return 0, "late"
        fetched = level.fetch(batch)
        if fetched is None:
            return 0, "unreachable"
        try:
            chunks = batch[: len(fetched.arrays)]
            tokens = self._write(chunks, fetched) if chunks else 0
            if tokens is None:
                return 0, "room"
            seconds = time.monotonic() - begun
            self._hand_up(number, chunks, fetched)
            error = fetched.error
        finally:
            fetched.close()
        if chunks:
            level.note_loads(chunks, tokens, seconds)
            nbytes = sum(chunk.nbytes for chunk in chunks)
            self._tell("loaded", level, chunks[0], tokens, nbytes, seconds)
        if error is not None:
            bad = batch[len(chunks)]
            self._tell("wrong", level, bad, bad.tokens, bad.nbytes, 0.0, error.reason)
            return len(chunks), error.reason
        return len(chunks), "done" if len(chunks) == len(batch) else "absent"

    def _tell(
        self,
        kind: Literal["loaded", "wrong"],
        level: Level,
        chunk: Chunk,
        tokens: int,
        nbytes: int,
        seconds: float,
        reason: str = "",
    ) -> None:
        name = chunk.name.hex()
        self._store.tell(TierEvent(kind, level.name, tokens, nbytes, seconds, reason, name))

    def _write(self, chunks: list[Chunk], fetched: Fetched) -> int | None:
        """Write keys and values into the entry; return its new tokens, None if it has no room."""
        sink = self._sink
        held = sink.token_count
        end = min(chunks[-1].start + chunks[-1].tokens, self._stop)
        try:
            for layer in range(chunks[0].layers):
                with sink.writing(layer, end - held) as (keys, values):
                    for chunk, array in zip(chunks, fetched.arrays, strict=True):
                        skipped = max(0, held - chunk.start)
                        there = chunk.start + skipped - held
                        count = min(chunk.start + chunk.tokens, end) - chunk.start - skipped
                        source = array[layer, :, :, skipped : skipped + count]
                        keys[:, there : there + count] = source[0]
                        values[:, there : there + count] = source[1]
        except (PoolExhaustedError, ContextOverflowError):
            sink.truncate(held)
            return None
        except BaseException as error:
            # An interrupt on the way into or out of a block leaves it open, and the lock of the
            # entry taken, for as long as the frames of the traceback keep the block.
            traceback.clear_frames(error.__traceback__)
            sink.truncate(held)  # some layers may hold more tokens than others
            raise
        return end - held

    def _hand_up(self, number: int, chunks: list[Chunk], fetched: Fetched) -> None:
        """Have the levels above this one get what it had."""
        for chunk, array in zip(chunks, fetched.arrays, strict=True):
            for level in self._store.levels[:number]:
                if level.takes(chunk):
                    level.put(Job.of(chunk, array.copy()))


def _as_level(level: object, queue_bytes: int) -> Level:
    if isinstance(level, Level):
        return level
    if isinstance(level, Tier):
        return Level(level, queue_bytes=queue_bytes)
    if isinstance(level, str):
        return open_level(level, queue_bytes)
    raise InvalidTierError(f"a level is a URL, a Tier or a Level, not {level!r}")


def _stop(levels: Sequence[Level]) -> None:
    for level in levels:
        level.stop()


def _close_all(levels: Sequence[Level]) -> list[Exception]:
    """End the threads, and close every tier; return the errors, as a plugin may raise any."""
    errors: list[Exception] = []
    _stop(levels)
    for level in levels:
        try:
            level.breaker.close()
        except Exception as error:
            errors.append(error)
    return errors
