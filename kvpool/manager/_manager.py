"""`KVCacheManager`: the entries of all sessions in one bounded pool."""

from __future__ import annotations

import functools
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

import kvpool.events
import kvpool.receipts
from kvpool._asking import is_in_another_call
from kvpool._checks import check_number, whole_number
from kvpool._closing import Closing
from kvpool._html import Card
from kvpool._sizes import format_size
from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry, PoolEntry
from kvpool.errors import (
    InvalidArgumentError,
    InvalidLayoutError,
    InvalidSizeError,
    PluginError,
    PoolExhaustedError,
)
from kvpool.eviction.base import EvictionPolicy
from kvpool.eviction.registry import create_policy
from kvpool.layout import KVLayout
from kvpool.manager._keeper import SessionKeeper, UseLog
from kvpool.manager._keys import check_key
from kvpool.manager._opening import Opening, OpeningSession
from kvpool.manager._reuse import OpenedSession, OpenOptions, Reuse
from kvpool.manager._session import check_ttl
from kvpool.manager._sessions import Sessions
from kvpool.manager._tier_notes import TierNotes
from kvpool.manager._tiered_reuse import TieredReuse
from kvpool.manager._tiers import Beyond, Opener, Tiers, open_tiers
from kvpool.manager._turns import Turns, turn
from kvpool.manager._waiting import Waiters, check_timeout
from kvpool.pool import open_pool
from kvpool.prefix import Ranking, TokenIds
from kvpool.stats import PoolStats

if TYPE_CHECKING:
    from kvpool.events import EventQueue
    from kvpool.receipts import Receipts

__all__ = ["KVCacheManager"]

_SHOWN = 20  # sessions in a notebook

P = ParamSpec("P")
T = TypeVar("T")


class KVCacheManager(Closing):
    """Keeps one entry per session, and evicts entries when a new one needs their bytes.

    Parameters
    ----------
    capacity : int or str
        Bytes of the pool, or a text like ``"4GiB"``; in an elastic pool, the bytes that may be
        committed.
    backend : str, optional
        Name of the backend that holds the bytes. By default ``$KVPOOL_BACKEND``, else
        ``"mmap"`` on Linux and ``"numpy"`` on other systems.
    layout : KVLayout, optional
        For entries that are created without one.
    ttl : float, optional
        Seconds for which an entry stays without being used. By default forever.
    policy : str or EvictionPolicy, optional
        The order in which entries are evicted: a policy, or the name of one. [default: ``"lru"``
        up to the first call of `open_session`, and ``"hit-density"`` from then on]
    clock : callable, default `time.monotonic`
        Returns seconds; never goes back.
    receipts : bool, sink, name of a sink, or several of those, default True
        Where the receipts go of what leaves the pool: True for the standard logging, under
        ``kvpool.receipts``; False for no receipts, at no cost. See `kvpool.receipts`.
        ``KVPOOL_RECEIPTS=0`` turns them off as well.
    snapshot_interval : float, optional
        Seconds of `clock` after which the next call makes a receipt of the pool's state.
    elastic : bool, optional
        Whether an entry costs the pages of its tokens (True) or its whole block (False). By
        default by page if the backend has elastic arenas; see `ElasticPool`.
    secure : bool, default False
        Whether bytes are set to zero as soon as they are free; see `MemoryPool`.
    chunk_tokens : int, default 64
        Tokens of a chunk. The tokens that closed sessions hold are evicted by the chunk.
    prefix_tokens : int, optional
        Tokens that closed sessions may hold. By default the capacity decides alone.
    events : EventQueue, optional
        Is told of each chunk of tokens that sessions share, when it is stored and when it is
        removed; see `kvpool.events`. By default nothing is told, at no cost.
    tiers : TierStore, str or sequence of str, optional
        Where tokens are loaded from that the pool does not hold, and where those of closed sessions
        are stored: URLs of tiers, the first of which is asked first, or a store that is open.
    **backend_options
        Handed to the backend; an elastic pool takes ``address_space`` too.

    Attributes
    ----------
    pool : MemoryPool
    layout : KVLayout or None
    receipts : ReceiptEmitter or None
        Makes the receipts; its `stream` has the sinks and their failures.
    events : EventQueue or None

    Raises
    ------
    InvalidSizeError
        `capacity` is not a whole number of bytes, or is less than the smallest pool.
    InvalidTtlError
        `ttl` or `snapshot_interval` is not a number above 0.
    InvalidLayoutError
        `layout` is not a `KVLayout`.
    InvalidArgumentError
        `policy`, `clock`, `receipts`, `elastic`, `secure` or `events` is an object of the wrong
        type, or the events belong to another manager.
    InvalidTierError
        `tiers` are not a `TierStore` or URLs, or a URL is not accepted.
    TierError
        A tier cannot be opened.
    PluginError
        The backend, the policy, a sink or a tier cannot be chosen.
    ArenaError
        The system refuses to create the arena.

    Notes
    -----
    *What is never evicted*: an entry with a live view, and a pinned entry.

    *What counts as a use*: being found or created by key, and every call of the entry's own
    methods that does not raise.

    *Errors.* Every method is atomic: on any error nothing has changed.

    *Threads.* All methods may be called by any thread at any time. Inside a finalizer
    (``__del__``, the callback of a weak reference) or a signal handler only `remove_later`,
    `get_stats` and `stats` may be called: both can run in the middle of another call, and these
    take no lock then.

    *Cost of what has expired.* Every call looks again at each entry that has expired and stays
    because it is leased or pinned: one or two microseconds for each.

    *Processes.* A manager belongs to the process that made it. In a child that `os.fork` made,
    every call raises `ForkedProcessError`, except that `close` and `remove_later` do nothing.
    Make a manager in each process.

    *Lifetime.* A manager that nothing refers to any more frees its memory at once, closed or
    not, without waiting for the garbage collector. Entries and views that are still held keep it.

    *Waiting for room.* A call with a `timeout` waits while the pool is full: until views end, or
    entries are removed, truncated, unpinned or closed. It holds no lock meanwhile. No order is kept
    among such calls: the first one that finds room has it, so a large request may wait while small
    ones are served. A request that is larger than the pool raises at once.

    A manager is true, even without entries.

    Examples
    --------
    >>> from kvpool import CacheKey, KVLayout
    >>> layout = KVLayout(layers=2, kv_heads=2, head_dim=64)
    >>> with KVCacheManager(1 << 20, backend="numpy", layout=layout) as manager:
    ...     entry = manager.get_or_create_cache(CacheKey("chat", 1), max_context_length=256)
    ...     again = manager.get_or_create_cache(CacheKey("chat", 1), max_context_length=256)
    ...     again is entry, manager.get_stats().hits
    (True, 1)
    """

    def __init__(
        self,
        capacity: int | str,
        backend: str | None = None,
        layout: KVLayout | None = None,
        ttl: float | None = None,
        policy: str | EvictionPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        receipts: Receipts = True,
        snapshot_interval: float | None = None,
        elastic: bool | None = None,
        secure: bool = False,
        chunk_tokens: int = 64,
        prefix_tokens: int | None = None,
        events: EventQueue | None = None,
        tiers: Tiers | None = None,
        **backend_options: Any,
    ) -> None:
        seconds = check_ttl(ttl)
        interval = check_ttl(snapshot_interval, "snapshot_interval")
        if layout is not None and not isinstance(layout, KVLayout):
            raise InvalidLayoutError(f"layout must be a KVLayout, not {layout!r}")
        chosen = create_policy(policy) if policy is None or isinstance(policy, str) else policy
        if not isinstance(chosen, EvictionPolicy):
            raise InvalidArgumentError(
                f"policy must be an EvictionPolicy or a name, not {policy!r}"
            )
        chunk = whole_number("chunk_tokens", chunk_tokens, InvalidSizeError, least=1)
        most_tokens = (
            None
            if prefix_tokens is None
            else whole_number("prefix_tokens", prefix_tokens, InvalidSizeError, least=1)
        )
        try:
            next_snapshot = clock() + interval
        except TypeError as error:
            raise InvalidArgumentError(
                f"clock must return seconds when it is called, unlike {clock!r}"
            ) from error
        self.events = _checked_events(events)
        self.pool = open_pool(capacity, backend, elastic, secure=secure, **backend_options)
        self._beyond: Beyond | None = None
        try:
            self._beyond = open_tiers(tiers, chunk)
            self.receipts = kvpool.receipts.open_emitter(receipts)
        except BaseException:
            self.pool.close()
            if self._beyond is not None:
                self._beyond.close(0.0, None)
            raise
        if self.events is not None:
            self.events.attach()
        self.layout = layout
        self._removals: deque[CacheKey] = deque()  # keys to be removed by the next call
        uses: UseLog = deque()
        keeper_of = functools.partial(
            SessionKeeper,
            weakref.WeakMethod(self.make_room),
            weakref.WeakMethod(self._fork_of),
            uses,
            clock,
        )
        self._sessions = Sessions(
            self.pool,
            Ranking(chosen, chunk, None if self.events is None else self.events.put),
            layout,
            seconds,
            clock,
            self.receipts,
            uses,
            self._removals,
            keeper_of,
            self._beyond,
        )
        later = _prefix_policy if policy is None else None
        self._reuse = Reuse(self._sessions, layout, most_tokens, later)
        notes: TierNotes | None = None
        if self._beyond is not None and self.receipts is not None:
            notes = TierNotes(self.pool, self.receipts)
            self._beyond.take_notes(notes)
        self._turns = Turns(
            self._sessions,
            Waiters(self.pool),
            None if self.receipts is None else self.receipts.stream,
            self.events,
            notes,
            clock,
            interval,
            next_snapshot,
        )
        self._tiered = TieredReuse(self._reuse, self._turns, self._beyond)

    # -- making and finding entries ------------------------------------------------------

    @turn
    def create_cache_entry(
        self,
        key: CacheKey,
        max_context_length: int,
        *,
        layout: KVLayout | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> KVCacheEntry:
        """Make the entry of a new session, evicting others if that makes it fit.

        Parameters
        ----------
        key : CacheKey
        max_context_length : int
            Tokens that the entry has room for.
        layout : KVLayout, optional
            By default the manager's.
        ttl : float, optional
            Seconds for which it stays without being used; by default the manager's.
        timeout : float, optional
            Seconds to wait for room if the pool is full. By default the call does not wait.

        Returns
        -------
        KVCacheEntry

        Raises
        ------
        EntryExistsError
            The key has an entry already.
        InvalidLayoutError
            `max_context_length` is not a whole number of at least 1, `layout` is not a `KVLayout`,
            or there is no layout.
        InvalidTtlError
            `ttl` is not a number above 0, or `timeout` not a number of at least 0.
        PoolExhaustedError
            It would not fit even if every entry that may be evicted were evicted.
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        if timeout is not None:
            check_timeout(timeout)
        return self._sessions.create(key, max_context_length, layout, ttl)

    @turn
    def get_cache_entry(self, key: CacheKey) -> PoolEntry | None:
        """Find the entry of a session: a hit, which is a use, or a miss.

        Returns
        -------
        PoolEntry or None
            None if the key has no entry.

        Raises
        ------
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        return self._sessions.look_up(key)

    @turn
    def __getitem__(self, key: CacheKey) -> KVCacheEntry:
        """Return the entry of a session, which must be there; a hit, which is a use.

        Raises
        ------
        EntryNotFoundError
            The key has no entry.
        EntryKindError
            The entry is raw.
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        return self._sessions.find(key)

    @turn
    def fork_cache_entry(
        self,
        key: CacheKey,
        new_key: CacheKey,
        *,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> KVCacheEntry:
        """Make a session that begins with the tokens of another; a use of that one.

        Parameters
        ----------
        key : CacheKey
            Of the session that is forked.
        new_key : CacheKey
            Of the fork.
        ttl : float, optional
            Seconds for which the new entry stays without being used; by default the manager's.
        timeout : float, optional
            Seconds to wait for room if the pool is full. By default the call does not wait.

        Returns
        -------
        KVCacheEntry
            See `KVCacheEntry.fork`.

        Raises
        ------
        EntryNotFoundError
            `key` has no entry.
        EntryKindError
            The entry of `key` is raw.
        EntryExistsError
            `new_key` has an entry already.
        InvalidTtlError
            `ttl` is not a number above 0, or `timeout` not a number of at least 0.
        PoolExhaustedError
            The tokens have to be copied, and the copy would not fit even if every other entry
            that may be evicted were evicted.
        InvalidArgumentError
            `key` or `new_key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        if timeout is not None:
            check_timeout(timeout)
        return self._sessions.fork(key, new_key, ttl)

    @turn
    def get_or_create_cache(
        self,
        key: CacheKey,
        max_context_length: int,
        *,
        layout: KVLayout | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> KVCacheEntry:
        """Find the entry of a session, or make it. A hit is a use.

        An entry with room for fewer tokens is grown: it moves to a larger block, with its
        tokens. Views taken before keep showing the old block.

        Parameters
        ----------
        key : CacheKey
        max_context_length : int
            Tokens that the entry has room for, at least.
        layout : KVLayout, optional
            By default the manager's.
        ttl : float, optional
            Seconds for which a new entry stays without being used; by default the manager's.
        timeout : float, optional
            Seconds to wait for room if the pool is full. By default the call does not wait.

        Returns
        -------
        KVCacheEntry
            With room for at least `max_context_length` tokens.

        Raises
        ------
        EntryKindError
            The key has an entry that is raw, or has another layout.
        InvalidLayoutError
            `max_context_length` is not a whole number of at least 1, `layout` is not a `KVLayout`,
            or there is no layout.
        InvalidTtlError
            `ttl` is not a number above 0, or `timeout` not a number of at least 0.
        PoolExhaustedError
            It would not fit even if every other entry that may be evicted were evicted.
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        if timeout is not None:
            check_timeout(timeout)
        return self._sessions.find_or_create(key, max_context_length, layout, ttl)

    def open_session(
        self,
        tokens: TokenIds,
        key: CacheKey | None = None,
        *,
        model_id: str = "",
        salt: str = "",
        layout: KVLayout | None = None,
        max_context_length: int | None = None,
        ttl: float | None = None,
        min_left: int = 1,
        priority: int | None = None,
        timeout: float | None = None,
    ) -> OpenedSession:
        """Open a session with the longest prefix of its tokens that the pool holds, or its tiers.

        A session that was closed and is a prefix of `tokens` is continued in place; from any
        other the tokens are forked, which copies no bytes where the pool can share pages. A
        session under a key is cut at the first token that differs from what it held. What the
        tiers have of the tokens behind that prefix is loaded; `OpenedSession.loaded` tells how many
        tokens. A tier that fails or is slow costs its budget and nothing else.

        Parameters
        ----------
        tokens : sequence of int, or array of int, shape (n,)
            Of the prompt, in order: of all turns so far. Arrays are faster than lists.
        key : CacheKey, optional
            Names the session. [default: a new key in the namespace "prefix"]
        model_id : str
            Weights, adapter and revision. Sessions of different models share nothing.
        salt : str
            Sessions with different salts share nothing, and cannot tell what others hold.
        layout : KVLayout, optional
            By default the manager's.
        max_context_length : int, optional
            Tokens that the entry has room for. [default: a power of two above the given tokens]
        ttl : float, optional
            Seconds for which the session stays without being used; by default the manager's.
        min_left : int, default 1
            How many of the last tokens are left to compute at least: a model needs the logits of
            the last one.
        priority : int, optional
            See `set_priority`. [default: that of the earlier turn, or 0]
        timeout : float, optional
            Seconds to wait for room if the pool is full. By default the call does not wait.

        Returns
        -------
        OpenedSession
            ``entry, tokens_left``: an entry with the first tokens, and how many of `tokens` are
            to be computed and appended. Until `close_session` it is not evicted for room.

        Raises
        ------
        CacheInUseError
            The session is open already.
        EntryExistsError
            The key has an entry that was not made by `open_session`.
        InvalidTokensError
            `tokens` are not whole numbers in one dimension, or `min_left` is not one of at least 0.
        ContextOverflowError
            There are more than `max_context_length` tokens.
        InvalidLayoutError
            `max_context_length` is not a whole number of at least 1, `layout` is not a `KVLayout`,
            or there is no layout.
        InvalidTtlError
            `ttl` is not a number above 0, or `timeout` not a number of at least 0.
        PoolExhaustedError
            It would not fit even if every entry that may be evicted were evicted.
        InvalidArgumentError
            `key` is not a `CacheKey`; `model_id` or `salt` is not a str; `priority` is not a whole
            number.
        PoolClosedError
            The manager is closed.
        """
        options = OpenOptions(model_id, salt, layout, max_context_length, ttl, min_left, priority)
        opener = Opener()
        try:
            opened = self._tiered.open(tokens, key, options, opener, timeout)
        except BaseException:
            opener.has_failed = True
            raise
        opener.is_done = True  # no interrupt comes between the last call above and this
        return opened

    def begin_session(
        self,
        tokens: TokenIds,
        key: CacheKey | None = None,
        *,
        model_id: str = "",
        salt: str = "",
        layout: KVLayout | None = None,
        max_context_length: int | None = None,
        ttl: float | None = None,
        min_left: int = 1,
        priority: int | None = None,
        timeout: float | None = None,
    ) -> OpeningSession:
        """Open a session as `open_session` does, and load from tiers in the background.

        The call returns as soon as the session begins with what the pool holds. A thread of its own
        loads what the tiers have; if no chunk can follow, the session is ready at once.

        Parameters
        ----------
        tokens, key, model_id, salt, layout, max_context_length, ttl, min_left, priority, timeout
            See `open_session`.

        Returns
        -------
        OpeningSession
            Its `result` or `aresult` waits for the load. Until then the session is open: it is not
            evicted for room, and a second call for its key is refused.

        Raises
        ------
        CacheInUseError
            The session is open already.
        EntryExistsError
            The key has an entry that was not made by `open_session`.
        InvalidTokensError
            `tokens` are not whole numbers in one dimension, or `min_left` is not one of at least 0.
        ContextOverflowError
            There are more than `max_context_length` tokens.
        InvalidLayoutError
            `max_context_length` is not a whole number of at least 1, `layout` is not a `KVLayout`,
            or there is no layout.
        InvalidTtlError
            `ttl` is not a number above 0, or `timeout` not a number of at least 0.
        PoolExhaustedError
            It would not fit even if every entry that may be evicted were evicted.
        InvalidArgumentError
            `key` is not a `CacheKey`; `model_id` or `salt` is not a str; `priority` is not a whole
            number.
        PoolClosedError
            The manager is closed.

        Examples
        --------
        >>> import asyncio
        >>> from kvpool import KVLayout
        >>> async def serve(manager):
        ...     opened = await manager.begin_session([5, 7, 9]).aresult()
        ...     return opened.tokens_left
        >>> with KVCacheManager("1MiB", "numpy", KVLayout(2, 2, 64), tiers="memory:") as manager:
        ...     asyncio.run(serve(manager))
        3
        """
        opening = Opening(Opener())
        options = OpenOptions(model_id, salt, layout, max_context_length, ttl, min_left, priority)
        try:
            self._tiered.begin(tokens, key, options, opening, timeout)
            return OpeningSession(opening)
        except BaseException:
            opening.cancel()
            raise

    def close_session(self, entry: KVCacheEntry, tokens: TokenIds) -> None:
        """Keep the tokens of a session, for later turns and for others that begin alike.

        The entry that `open_session` returned refuses every later call.

        Parameters
        ----------
        entry : KVCacheEntry
        tokens : sequence of int, or array of int, shape (n,)
            Of the session: of the prompt, and what was generated. Those that the entry holds are
            kept, so that the last one may be missing in it; what it holds past them is dropped.

        Raises
        ------
        InvalidTokensError
            `tokens` do not begin with the tokens that were reused, or are not whole numbers in one
            dimension.
        EntryRemovedError
            The session was closed, removed, or has expired.
        InvalidArgumentError
            `entry` does not come from `open_session` of this manager.
        PoolClosedError
            The manager is closed.
        """
        self._tiered.close(entry, tokens)

    @turn
    def note_compute(self, tokens: int, seconds: float) -> None:
        """Note how long a model took to compute tokens of prompts, so that loads are weighed.

        A tier is not asked for tokens that take longer to load than to compute: the bytes divided
        by the bandwidth of its last loads, against the tokens divided by the rate of the last
        calls of this method. Without tiers it does nothing.

        Parameters
        ----------
        tokens : int
        seconds : float
            That the model took for all of them.

        Raises
        ------
        InvalidArgumentError
            `tokens` is not a whole number of at least 0, or `seconds` is not a finite number of at
            least 0.
        PoolClosedError
            The manager is closed.

        Notes
        -----
        `kvpool.integrations.transformers.PooledCache` and `kvpool.serving.Engine` call it. What
        was noted is the ``compute_rate`` of `kvpool.tiers.TierStore.stats`.
        """
        count = whole_number("tokens", tokens, InvalidArgumentError, least=0)
        if seconds is None:
            raise InvalidArgumentError("seconds must be a finite number, not None")
        check_number("seconds", seconds, at_least=0)
        if self._beyond is not None:
            self._beyond.store.note_compute(count, float(seconds))

    @turn
    def is_open(self, key: CacheKey) -> bool:
        """Return whether a session is between `open_session` and `close_session`. Not a use.

        Raises
        ------
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        return self._reuse.is_open(key)

    @turn
    def get_session_tokens(self, key: CacheKey) -> NDArray[np.int64] | None:
        """Return the tokens that a session is known to hold. Not a use.

        Returns
        -------
        ndarray of int64, shape (n,), or None
            Those of which `open_session` or `close_session` was told, as far as the entry has
            them. None if the key has no entry, or one that was made otherwise.

        Raises
        ------
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        data = self._reuse.tokens_of(key)
        return None if data is None else np.frombuffer(data, np.int64)

    def find_session_tokens(
        self,
        key: CacheKey,
        *,
        model_id: str = "",
        salt: str = "",
        layout: KVLayout | None = None,
    ) -> NDArray[np.int64] | None:
        """Return the tokens of a session that was closed under a key, also in an earlier process.

        `open_session` with these tokens, and with those of a new turn behind them, goes on with
        the session: it begins with what the pool and its tiers hold of them.

        Parameters
        ----------
        key : CacheKey
        model_id, salt : str
            As at `open_session`.
        layout : KVLayout, optional
            By default the manager's.

        Returns
        -------
        ndarray of int64, shape (n,), or None
            Read-only. None if neither the pool nor its tiers have a session of this key, or if
            it is one of another model, salt or layout.

        Raises
        ------
        InvalidArgumentError
            `key` is not a `CacheKey`; `model_id` or `salt` is not a str.
        InvalidLayoutError
            `layout` is not a `KVLayout`, or there is no layout.
        PoolClosedError
            The manager is closed.

        Notes
        -----
        Tiers have a session with the last tokens that it was closed with, although the pool may
        have evicted its tail. Each is asked within its budget. What is still queued to be written
        is not in the tiers: then the answer is what the pool holds, or an earlier turn if the
        pool does not have the session any more.

        The call waits for the tiers. In an event loop, call it in a thread:
        ``await asyncio.to_thread(manager.find_session_tokens, key)``.
        """
        options = OpenOptions(model_id, salt, layout, None, None, 0, None)
        return self._tiered.find_tokens(key, options)

    @turn
    def allocate_entry(
        self, key: CacheKey, size: int, *, ttl: float | None = None, timeout: float | None = None
    ) -> PoolEntry:
        """Make a raw entry for a new session, evicting others if that makes it fit.

        Parameters
        ----------
        key : CacheKey
        size : int
            Bytes of the entry.
        ttl : float, optional
            Seconds for which it stays without being used; by default the manager's.
        timeout : float, optional
            Seconds to wait for room if the pool is full. By default the call does not wait.

        Returns
        -------
        PoolEntry

        Raises
        ------
        EntryExistsError
            The key has an entry already.
        InvalidSizeError
            `size` is not a whole number of at least 1.
        InvalidTtlError
            `ttl` is not a number above 0, or `timeout` not a number of at least 0.
        PoolExhaustedError
            It would not fit even if every entry that may be evicted were evicted.
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        if timeout is not None:
            check_timeout(timeout)
        return self._sessions.create_raw(key, size, ttl)

    async def when_room(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call of this manager that waits for room, without blocking the event loop.

        Parameters
        ----------
        call : callable
            A method of this manager that takes `timeout`, such as `open_session`.
        *args, **kwargs
            Of the call; with ``timeout=seconds`` the task waits while the pool is full.

        Returns
        -------
        object
            What the call returns.

        Raises
        ------
        PoolExhaustedError
            There was no room in time, or the request is larger than the pool.
        KVPoolError
            As the call raises it.

        Notes
        -----
        The call itself runs in the event loop, and takes microseconds, except that `open_session`
        loads from tiers: with these, pass `begin_session`. A task that is cancelled while it waits
        has changed nothing.

        Examples
        --------
        >>> import asyncio
        >>> from kvpool import CacheKey, KVLayout
        >>> async def serve(manager):
        ...     make = manager.get_or_create_cache
        ...     return await manager.when_room(make, CacheKey("chat", 1), 64, timeout=5)
        >>> with KVCacheManager("1MiB", "numpy", KVLayout(2, 2, 64)) as manager:
        ...     asyncio.run(serve(manager)).max_context_length
        64
        """
        seconds = kwargs.pop("timeout", None)
        check_timeout(seconds)
        try:
            return call(*args, **kwargs)
        except PoolExhaustedError as shortage:
            if not seconds or not self._turns.waiters.can_help(shortage):
                raise
        again: Callable[[], T] = functools.partial(call, *args, **kwargs)
        return await self._turns.waiters.retry_later(again, float(cast("float", seconds)))

    def update_cache(self, key: CacheKey, keys: ArrayLike, values: ArrayLike) -> int:
        """Append tokens to all layers of a session's entry; a use.

        Parameters
        ----------
        key : CacheKey
        keys, values : array, shape (layers, kv_heads, tokens, head_dim)
            Of the layout's dtype. Nothing is cast.

        Returns
        -------
        int
            Tokens that the entry now holds.

        Raises
        ------
        EntryNotFoundError
            The key has no entry.
        EntryKindError
            The entry is raw.
        InvalidTokensError
            The shape or dtype of `keys` or `values` does not fit the layout.
        LayerMismatchError
            Some layers hold more tokens than the others.
        ContextOverflowError
            The entry would hold more than its `max_context_length` tokens.
        PoolExhaustedError
            The pool lacks pages, and evicting every entry that may be evicted is not enough.
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        return self._cache_entry(key).extend(keys, values)

    # -- letting entries go --------------------------------------------------------------

    @turn
    def remove_cache_entry(self, key: CacheKey) -> PoolEntry | None:
        """Remove the entry of a session, pinned or not.

        Its bytes are free at once, or when its last view is gone.

        Returns
        -------
        PoolEntry or None
            The entry, which cannot be used any more; None if the key has no entry, and
            then no counter changes.

        Raises
        ------
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        entry = self._sessions.remove(key)
        self._turns.waiters.wake()
        return entry

    def remove_later(self, key: CacheKey) -> None:
        """Have the entry of a session removed at the start of the manager's next call.

        Takes no lock, so that a finalizer or a signal handler may call it. What is removed is
        the entry that the key has then; without one nothing happens. An entry that is left when
        the manager is closed goes with it. In a child that `os.fork` made it does nothing.

        Raises
        ------
        InvalidArgumentError
            `key` is not a `CacheKey`.
        """
        check_key(key)
        if not self._turns.is_closed:
            self._removals.append(key)
            self._turns.waiters.wake()

    @turn
    def make_room(self, nbytes: int, *, timeout: float | None = None) -> list[CacheKey]:
        """Evict entries, in the order of the policy, until `nbytes` more bytes can be used.

        In an elastic pool this many bytes can then be committed; in another pool this many bytes
        are free in one range.

        Parameters
        ----------
        nbytes : int
            At least 1.
        timeout : float, optional
            Seconds to wait for room if the pool is full. By default the call does not wait.

        Returns
        -------
        list of CacheKey
            The keys of the evicted entries, in order; empty if there was room already.

        Raises
        ------
        InvalidSizeError
            `nbytes` is not a whole number of at least 1.
        InvalidTtlError
            `timeout` is not a number of at least 0.
        PoolExhaustedError
            Evicting every entry that may be evicted would not be enough.
        PoolClosedError
            The manager is closed.
        """
        if timeout is not None:
            check_timeout(timeout)
        return self._sessions.room.make_room(nbytes)

    def evict_lru_entries(self, required: int, *, timeout: float | None = None) -> list[CacheKey]:
        """Evict entries until `required` bytes can be used: another name of `make_room`.

        Entries are evicted in the order of the manager's policy, whether that is ``"lru"`` or
        not.

        Parameters
        ----------
        required : int
            Bytes, at least 1.
        timeout : float, optional
            Seconds to wait for room if the pool is full. By default the call does not wait.

        Returns
        -------
        list of CacheKey
            The keys of the evicted entries, in order; empty if there was room already.

        Raises
        ------
        InvalidSizeError
            `required` is not a whole number of at least 1.
        InvalidTtlError
            `timeout` is not a number of at least 0.
        PoolExhaustedError
            Evicting every entry that may be evicted would not be enough.
        PoolClosedError
            The manager is closed.
        """
        return self.make_room(required, timeout=timeout)

    def evict_expired(self) -> list[CacheKey]:
        """Evict the entries that were not used for longer than their time to live.

        Every other call does that too, before anything else.

        Returns
        -------
        list of CacheKey
            The keys of the evicted entries; leased and pinned entries stay.

        Raises
        ------
        PoolClosedError
            The manager is closed.
        """
        return self._turns.pass_by()

    @turn
    def pin(self, key: CacheKey) -> None:
        """Keep an entry from being evicted until it is unpinned as often as it was pinned.

        Raises
        ------
        EntryNotFoundError
            The key has no entry.
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        self._sessions.pin(key)

    @turn
    def set_priority(self, key: CacheKey, priority: int) -> None:
        """Let a session be evicted for room only after all sessions with a lower priority.

        Among sessions of equal priority the policy decides. A new session has priority 0; a
        fork has that of the session that it was forked from. Times to live are not changed by it.

        Parameters
        ----------
        key : CacheKey
        priority : int
            Any whole number, also below 0.

        Raises
        ------
        EntryNotFoundError
            The key has no entry.
        InvalidArgumentError
            `priority` is not a whole number; `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        self._sessions.set_priority(key, priority)

    @turn
    def clear(self) -> list[CacheKey]:
        """Remove the entries of all sessions, pinned, open or not, in one step.

        The bytes of an entry are free at once, or when its last view is gone.

        Returns
        -------
        list of CacheKey
            The keys of the removed entries, the oldest entry first.

        Raises
        ------
        PoolClosedError
            The manager is closed.
        """
        keys = self._sessions.clear()
        self._turns.waiters.wake()
        return keys

    @turn
    def resize(self, capacity: int | str) -> list[CacheKey]:
        """Change the capacity of an elastic pool, evicting entries if it becomes too small.

        Parameters
        ----------
        capacity : int or str
            Bytes that may be committed, or a text like ``"4GiB"``; rounded down to whole pages.

        Returns
        -------
        list of CacheKey
            The keys of the evicted entries, in order.

        Raises
        ------
        UnsupportedError
            The pool is not elastic: its capacity is the size of its arena.
        InvalidSizeError
            `capacity` is not a size, is less than a page, or more than the address space.
        PoolExhaustedError
            More bytes are in use, and evicting every entry that may be evicted is not enough.
        PoolClosedError
            The manager is closed.
        """
        gone: list[CacheKey] = []
        while True:  # again if another thread took the room that was made
            try:
                self.pool.resize(capacity)
            except PoolExhaustedError as shortage:
                missing = shortage.requested
            else:
                break
            try:
                gone += self._sessions.room.make_room(missing)
            except PoolExhaustedError as shortage:
                task = f"resize the pool to {capacity} bytes" if isinstance(capacity, int) else ""
                raise shortage.of_task(task or f"resize the pool to {capacity}") from shortage
        self._turns.waiters.wake()
        return gone

    @turn
    def unpin(self, key: CacheKey) -> None:
        """Take one pin back.

        Raises
        ------
        EntryNotFoundError
            The key has no entry, or its entry is not pinned.
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        self._sessions.unpin(key)
        self._turns.waiters.wake()

    # -- the whole -----------------------------------------------------------------------

    @turn
    def __len__(self) -> int:
        return len(self._sessions)

    def __bool__(self) -> bool:
        return True  # not "has it entries": `if manager` asks whether there is a manager

    @turn
    def __contains__(self, key: CacheKey) -> bool:
        """Tell whether a session has an entry. Neither a use, nor a hit or a miss.

        Raises
        ------
        InvalidArgumentError
            `key` is not a `CacheKey`.
        PoolClosedError
            The manager is closed.
        """
        return key in self._sessions

    @turn
    def session_keys(self) -> list[CacheKey]:
        """Return the keys of all entries, the oldest entry first.

        Raises
        ------
        PoolClosedError
            The manager is closed.
        """
        return self._sessions.keys()

    def keys(self) -> list[CacheKey]:
        """Return the keys of all entries, the oldest entry first: another name of `session_keys`.

        Raises
        ------
        PoolClosedError
            The manager is closed.
        """
        return self.session_keys()

    @turn
    def items(self) -> list[tuple[CacheKey, PoolEntry]]:
        """Return the keys of all entries with the entries, the oldest entry first. Not a use.

        Raises
        ------
        PoolClosedError
            The manager is closed.
        """
        return self._sessions.items()

    def __iter__(self) -> Iterator[CacheKey]:
        """Iterate over the keys that there are now, the oldest entry first.

        Raises
        ------
        PoolClosedError
            The manager is closed.
        """
        return iter(self.session_keys())

    def __repr__(self) -> str:
        pool = repr(self.pool).partition(" ")[2]
        return f"<{type(self).__name__} {pool[:-1]}, {len(self._sessions)} sessions>"

    def _repr_html_(self) -> str:
        """Return the figures and the sessions as tables, which notebooks show."""
        if self._turns.is_closed:
            return Card(repr(self)[1:-1]).html()
        stats, items = self.get_stats(), self.items()
        card = Card(f"{type(self).__name__}, {self.pool.arena_info.backend}")
        card.row("capacity", format_size(stats.total_capacity))
        card.row("used", f"{format_size(stats.used_memory)} ({stats.utilization:.1%})")
        card.row("sessions", f"{stats.active_entries:,}, {stats.pinned_entries:,} pinned")
        card.row("evictions", f"{stats.evictions:,}")
        card.row("look-ups", f"{stats.hits:,} hits, {stats.misses:,} misses")
        card.row("forks", f"{stats.forks:,} that share pages, {stats.copied_forks:,} copies")
        sessions = Card(f"the last {_SHOWN} sessions" if len(items) > _SHOWN else "sessions")
        for key, entry in items[-_SHOWN:]:
            tokens = f"{entry.token_count:,} tokens" if isinstance(entry, KVCacheEntry) else "raw"
            sessions.row(str(key), tokens, format_size(entry.block.charged))
        return card.html() + sessions.html()

    def get_stats(self) -> PoolStats:
        """Return the figures of the manager and its pool, all of one moment.

        A finalizer and a signal handler may call it: in the middle of another call of the thread,
        it takes no lock, nothing expires, and `PoolStats.is_exact` is False.

        Raises
        ------
        PoolClosedError
            The manager is closed.
        """
        if (self._turns.lock.locked() or self.pool.is_busy) and is_in_another_call():
            return replace(self._figures(), is_exact=False)
        return self._exact_figures()

    @turn
    def _exact_figures(self) -> PoolStats:
        return self._figures()

    def _figures(self) -> PoolStats:
        if self._turns.is_closed:
            self._turns.refuse()
        return replace(self._sessions.stats(), prefix=self._reuse.stats())

    def stats(self) -> PoolStats:
        """Return the figures of the manager and its pool: another name of `get_stats`.

        Raises
        ------
        PoolClosedError
            The manager is closed.
        """
        return self.get_stats()

    @turn
    def emit_pool_snapshot(self) -> None:
        """Make a receipt of the state of the pool; without receipts do nothing.

        Raises
        ------
        PoolClosedError
            The manager is closed.
        """
        self._sessions.emit_snapshot()

    @turn
    def check_integrity(self) -> None:
        """Prove that entries, policy, pool and counters agree.

        Raises
        ------
        BrokenPluginError
            The policy yields a key twice, or something that is not a key.
        IntegrityError
            They do not agree; the text says where.
        PoolClosedError
            The manager is closed.
        """
        self._sessions.check_integrity()

    def close(
        self, drain: float = 10.0, progress: Callable[[int, int], object] | None = None
    ) -> None:
        """Let all entries go and give the arena up; a second call does nothing.

        Views that are alive stay valid. In a child that `os.fork` made it does nothing.

        Parameters
        ----------
        drain : float, default 10.0
            Seconds for writing what is queued for tiers. What is not written then is dropped, and
            counted, unless the manager was given an open `TierStore`, which goes on.
        progress : callable, optional
            Takes bytes written and bytes in all, several times a second meanwhile.
        """
        self._turns.close()
        self._turns.waiters.wake()
        # Outside of the lock, and in a second call as well: a call that was interrupted here
        # left sinks open. Closing the stream twice does nothing.
        try:
            if self._beyond is not None and not self._turns.is_inherited:
                self._beyond.close(drain, progress)
                self._turns.tell_last()
        finally:
            if self.receipts is not None:
                self.receipts.stream.close()
            if self.events is not None:
                self.events.close()

    @turn
    def _cache_entry(self, key: CacheKey) -> KVCacheEntry:
        return self._sessions.cache_entry(key)

    @turn
    def _fork_of(self, entry: KVCacheEntry, key: CacheKey, new_key: CacheKey) -> KVCacheEntry:
        return self._sessions.fork(key, new_key, None, entry)


def _prefix_policy() -> EvictionPolicy | None:
    """Return the default policy of pools whose prefixes are reused; None if it is disabled."""
    try:
        return create_policy("hit-density")
    except PluginError:
        return None


def _checked_events(events: Any) -> EventQueue | None:
    """Return a queue of events that no manager uses, or None.

    Raises
    ------
    InvalidArgumentError
        It is neither.
    """
    if events is None:
        return None
    if not isinstance(events, kvpool.events.EventQueue):
        raise InvalidArgumentError(f"events must be an EventQueue, not {events!r}")
    if events.is_attached:
        raise InvalidArgumentError(f"events: {events!r} belongs to another manager")
    return events
