"""`TierStore`: levels of tiers, which chunks are written to behind, and are loaded from."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple

from numpy.typing import NDArray

from kvpool._checks import whole_number
from kvpool._closing import Closing
from kvpool._process import ForkAware, current, forget_forks, in_child_of, watch_forks
from kvpool.cache_key import CacheKey
from kvpool.errors import InvalidTierError, TierError
from kvpool.prefix import TOKEN_BYTES, Identity
from kvpool.tiers._base import Tier
from kvpool.tiers._chunk import Chunk, chunks_of
from kvpool.tiers._codec import open_codec
from kvpool.tiers._job import Job
from kvpool.tiers._level import EvictionListener, Level, LevelStats
from kvpool.tiers._load import Load, TierEvent, TokenSink
from kvpool.tiers._options import flag_option
from kvpool.tiers._registry import open_tier, split_url
from kvpool.tiers._session import StoredSession, session_name
from kvpool.tiers._write_queue import DEFAULT_QUEUE_BYTES

__all__ = [
    "LEVEL_OPTIONS",
    "Loaded",
    "StoreStats",
    "TierStore",
    "open_level",
]

LEVEL_OPTIONS: Final = {
    "codec": "codecs of the chunks, for example zstd or zstd,aes-gcm",
    "budget": "seconds that one call may take, or none for no limit [default: 1]",
    "decline": "no to load also what would take longer than to compute it [default: yes]",
}
"""Options that the URL of any tier may have in a store, and what each of them means."""

_SMOOTHING: Final = 0.25
_REMOVE_SECONDS: Final = 2.0


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
    may_decline = flag_option("decline", options.pop("decline", "yes"))
    return Level(open_tier(place, options), codec, budget, queue_bytes, may_decline=may_decline)


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
        Seconds after which a load makes no further call of a tier. What is loaded by then is used.
        A call that is under way at that moment may take its own budget; see `Breaker`.
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
        self._cut: tuple[Identity, bytes, list[Chunk]] | None = None  # by the last `put` of a tail
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
        start: int = 0,
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
        start : int, default 0
            Chunks that end before this token or with the one before it are left out.

        Returns
        -------
        int
            Chunks that are queued for a level at least. Those that every level has, and those for
            which no queue has room, are not among them.
        """
        self._check_open()
        held = min(len(tokens) // TOKEN_BYTES, keys.shape[2])
        queued = 0
        for chunk in self._chunks(identity, tokens[: held * TOKEN_BYTES], start):
            lacking = [level for level in self._levels if not level.knows(chunk)]
            job = Job(chunk, keys, values)
            if hold:
                queued += sum(level.put(job) for level in lacking) > 0
            elif any(level.has_room(chunk.nbytes) for level in lacking):
                job.data()  # before: a queue must not have what refers to the session
                queued += sum(level.put(job) for level in lacking) > 0
            else:
                for level in lacking:
                    level.note_dropped()
        return queued

    def _chunks(self, identity: Identity, tokens: bytes, start: int) -> Iterable[Chunk]:
        """Return the whole chunks of a sequence that end behind the token at `start`.

        A long session is often cut many times, always shorter: its chunks are named once.
        """
        if not start:
            return chunks_of(identity, tokens, self._chunk_tokens)
        cut = self._cut
        if cut is None or cut[0] != identity or not cut[1].startswith(tokens):
            named = list(chunks_of(identity, tokens, self._chunk_tokens))
            self._cut = cut = identity, tokens, named
        whole = len(tokens) // TOKEN_BYTES // self._chunk_tokens
        return cut[2][start // self._chunk_tokens : whole]

    # -- sessions by their names -----------------------------------------------------------

    def put_session(
        self, identity: Identity, key: CacheKey, tokens: bytes, note: bytes = b""
    ) -> int:
        """Have the tokens of a session written behind, under its key.

        Parameters
        ----------
        identity : Identity
        key : CacheKey
        tokens : bytes
            From `kvpool.prefix.token_bytes`: all of the session; at least one.
        note : bytes, optional
            Whatever is to be kept beside the tokens, such as the messages that they are of.

        Returns
        -------
        int
            Levels whose queue has room for it.

        Notes
        -----
        Unless a codec of the level is a cipher, the token ids and the note are stored as they are:
        everyone with access to the store can read the text of the session.
        """
        self._check_open()
        session = StoredSession.of(identity, key, tokens, time.time_ns(), note)
        return sum(level.put(session) for level in self._levels)

    def find_session(self, identity: Identity, key: CacheKey) -> StoredSession | None:
        """Return the newest record of a session that any level has; None if there is none."""
        self._check_open()
        name = session_name(identity, key)
        found = [level.find_session(name) for level in self._levels]
        return max((one for one in found if one is not None), key=_when, default=None)

    def sessions(self) -> list[StoredSession]:
        """Return the newest record of each session that the levels keep, the newest first.

        Raises
        ------
        TierError
            A level cannot be read.

        Notes
        -----
        A level on the network lists all of its keys for that, which may take long.
        """
        self._check_open()
        newest: dict[bytes, StoredSession] = {}
        for level in self._levels:
            for one in level.sessions():
                before = newest.get(one.name)
                if before is None or before.when < one.when:
                    newest[one.name] = one
        return sorted(newest.values(), key=_when, reverse=True)

    def remove_session(self, name: bytes) -> bool:
        """Forget a session; its chunks stay, because others may begin with them.

        Parameters
        ----------
        name : bytes
            See `StoredSession`.

        Returns
        -------
        bool
            Whether a level had it.

        Raises
        ------
        TierError
            A level does not answer, or is writing the session, and may have it. The others have
            forgotten it.

        Notes
        -----
        What waits to be written of it is dropped. What is being written is waited for, for two
        seconds at most; then the call raises, and the session may be there.
        """
        self._check_process()
        self._check_open()
        deadline = time.monotonic() + _REMOVE_SECONDS
        had, failed = False, list[TierError]()
        for level in self._levels:
            try:
                had |= level.remove_session(name, deadline)
            except TierError as error:
                failed.append(error)
        if failed:
            raise failed[0]
        return had

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
        on_event: Callable[[TierEvent], object] | None = None,
        is_wanted: Callable[[], bool] | None = None,
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
        on_event : callable, optional
            Takes each `TierEvent` of this load, beside the one of the store.
        is_wanted : callable, optional
            Is called before each call of a tier, and before chunks are written into the entry. Once
            it returns False, the load ends.

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
            load = Load(
                self._levels,
                chunks,
                sink,
                stop=stop,
                deadline=deadline,
                seconds_to_compute=self.seconds_to_compute,
                tell=self.tell if on_event is None else partial(self._tell_both, on_event),
                is_wanted=is_wanted,
            )
            reason = load.run()
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

    def _tell_both(self, on_event: Callable[[TierEvent], object], event: TierEvent) -> None:
        on_event(event)
        self.tell(event)

    def listen(self, listener: EvictionListener) -> None:
        """Have a method called when a tier has evicted values; see `Level.listen`."""
        for level in self._levels:
            level.listen(listener)

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


def _when(session: StoredSession) -> int:
    return session.when
