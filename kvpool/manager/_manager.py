"""`KVCacheManager`: the entries of all sessions in one bounded pool."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

import kvpool.receipts
from kvpool._closing import Closing
from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry, PoolEntry
from kvpool.errors import EntryNotFoundError, PoolClosedError
from kvpool.eviction.base import EvictionPolicy
from kvpool.eviction.registry import create_policy
from kvpool.layout import KVLayout
from kvpool.manager._delivering_lock import DeliveringLock
from kvpool.manager._residents import check_ttl
from kvpool.manager._session_store import SessionStore, as_cache_entry
from kvpool.pool import open_pool
from kvpool.stats import PoolStats

if TYPE_CHECKING:
    from kvpool.receipts import Receipts

__all__ = ["KVCacheManager"]


class KVCacheManager(Closing):
    """Keeps one entry per session and evicts when a new one needs the bytes.

    Parameters
    ----------
    capacity : int
        Bytes of the pool; what an elastic pool may commit.
    backend : str, optional
        As for `MemoryPool`.
    layout : KVLayout, optional
        For entries that are created without one.
    ttl : float, optional
        Seconds for which an entry stays without being used. By default forever.
    policy : str or EvictionPolicy, default "lru"
        Who goes first when bytes are needed: a policy, or the name of one.
    clock : callable, default `time.monotonic`
        Returns seconds; never goes back.
    receipts : bool, sink, name of a sink, or several of those, default True
        Where the receipts go of what leaves the pool: True for the standard logging, under
        ``kvpool.receipts``; False for none, at no cost. See `kvpool.receipts`.
        ``KVPOOL_RECEIPTS=0`` turns them off as well.
    snapshot_interval : float, optional
        Seconds of `clock` after which the next call makes a receipt of the pool's state.
    elastic : bool, optional
        Whether an entry costs the pages of its tokens, or its whole block. By default the
        former where the backend has elastic arenas; see `ElasticPool`.
    secure : bool, default False
        As for `MemoryPool`.
    **backend_options
        Handed to the backend; an elastic pool takes ``address_space`` too.

    Attributes
    ----------
    pool : MemoryPool
    layout : KVLayout or None
    receipts : ReceiptEmitter or None
        Makes the receipts; its `stream` has the sinks and their failures.

    Raises
    ------
    InvalidSizeError, PluginError, ArenaError
        As for `MemoryPool`, and for a policy that cannot be chosen.

    Notes
    -----
    *What is never evicted*: an entry with a live view, and a pinned one.

    *What counts as a use*: being found or created by key, and every call of the entry's own
    methods that does not raise.

    *Threads.* All methods may be called by any thread at any time. Inside a finalizer
    (``__del__``, the callback of a weak reference) only `remove_later` may: it takes no lock,
    and the garbage collector can run finalizers in the middle of another call.

    *Cost of what has expired.* Every call looks again at each entry that has expired and stays
    because it is leased or pinned: one or two microseconds for each.

    A manager is true, however few entries it has.

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
        capacity: int,
        backend: str | None = None,
        layout: KVLayout | None = None,
        ttl: float | None = None,
        policy: str | EvictionPolicy = "lru",
        clock: Callable[[], float] = time.monotonic,
        receipts: Receipts = True,
        snapshot_interval: float | None = None,
        elastic: bool | None = None,
        secure: bool = False,
        **backend_options: Any,
    ) -> None:
        seconds = check_ttl(ttl)
        interval = check_ttl(snapshot_interval)
        chosen = create_policy(policy) if isinstance(policy, str) else policy
        self.pool = open_pool(capacity, backend, elastic, secure=secure, **backend_options)
        try:
            self.receipts = kvpool.receipts.open_emitter(receipts)
        except BaseException:
            self.pool.close()
            raise
        self.layout = layout
        self._store = SessionStore(
            *(self.pool, chosen, layout, seconds, clock, self.receipts),
            owner_of=partial(_Keeper, weakref.ref(self)),
        )
        self._lock: AbstractContextManager[object] = (
            threading.Lock() if self.receipts is None else DeliveringLock(self.receipts.stream)
        )
        self._removals: deque[CacheKey] = deque()  # keys to remove, not yet settled
        self._closed = False
        self._clock = clock
        self._snapshot_interval = interval
        self._next_snapshot = clock() + interval

    # -- making and finding entries ------------------------------------------------------

    def create_cache_entry(
        self,
        key: CacheKey,
        max_context_length: int,
        *,
        layout: KVLayout | None = None,
        ttl: float | None = None,
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
            Seconds; by default the manager's.

        Returns
        -------
        KVCacheEntry

        Raises
        ------
        EntryExistsError
            The key has an entry already.
        InvalidLayoutError, InvalidTtlError
            An argument is out of range, or there is no layout.
        PoolExhaustedError
            It would not fit even if everything that may go were evicted; nothing was.
        PoolClosedError
        """
        with self._lock:
            self._begin()
            return self._store.create(key, max_context_length, layout, ttl)

    def get_cache_entry(self, key: CacheKey) -> PoolEntry | None:
        """Find the entry of a session: a hit, which is a use, or a miss.

        Returns
        -------
        PoolEntry or None
        """
        with self._lock:
            self._begin()
            return self._store.look_up(key)

    def fork_cache_entry(
        self, key: CacheKey, new_key: CacheKey, *, ttl: float | None = None
    ) -> KVCacheEntry:
        """Make a session that begins with the tokens of another; a use of that one.

        Parameters
        ----------
        key : CacheKey
            Of the session that is forked.
        new_key : CacheKey
        ttl : float, optional
            Seconds, for the new session; by default the manager's.

        Returns
        -------
        KVCacheEntry
            See `KVCacheEntry.fork`.

        Raises
        ------
        EntryNotFoundError, EntryExistsError
            `key` has no entry, or `new_key` has one.
        EntryKindError
            The entry of `key` is raw.
        InvalidTtlError, PoolExhaustedError, PoolClosedError
            As for `create_cache_entry`.
        """
        with self._lock:
            self._begin()
            return self._store.fork(key, new_key, ttl)

    def get_or_create_cache(
        self,
        key: CacheKey,
        max_context_length: int,
        *,
        layout: KVLayout | None = None,
        ttl: float | None = None,
    ) -> KVCacheEntry:
        """Find the entry of a session, or make it. A hit is a use.

        An entry with room for fewer tokens is grown: it moves to a larger block, with its
        tokens; views taken before keep showing the old one.

        Parameters
        ----------
        key, max_context_length, layout, ttl
            As for `create_cache_entry`; `ttl` is for a new entry only.

        Returns
        -------
        KVCacheEntry
            With room for at least `max_context_length` tokens.

        Raises
        ------
        EntryKindError
            The key has an entry that is raw, or has another layout.
        InvalidLayoutError, InvalidTtlError, PoolExhaustedError, PoolClosedError
            As for `create_cache_entry`. An entry that cannot grow stays as it is.
        """
        with self._lock:
            self._begin()
            return self._store.find_or_create(key, max_context_length, layout, ttl)

    def allocate_entry(self, key: CacheKey, size: int, *, ttl: float | None = None) -> PoolEntry:
        """Make a raw entry of `size` bytes for a new session, as `create_cache_entry` does.

        Raises
        ------
        EntryExistsError, InvalidSizeError, InvalidTtlError, PoolExhaustedError, PoolClosedError
        """
        with self._lock:
            self._begin()
            return self._store.create_raw(key, size, ttl)

    def update_cache(self, key: CacheKey, keys: ArrayLike, values: ArrayLike) -> int:
        """Append tokens to all layers of a session's entry; a use.

        Parameters
        ----------
        key : CacheKey
        keys, values : array, shape (layers, kv_heads, tokens, head_dim)
            As for `KVCacheEntry.extend`.

        Returns
        -------
        int
            Tokens that the entry now holds.

        Raises
        ------
        EntryNotFoundError
            The key has no entry.
        EntryKindError
            It has a raw one.
        InvalidTokensError, LayerMismatchError, ContextOverflowError
            As for `KVCacheEntry.extend`; nothing has changed.
        """
        with self._lock:
            self._begin()
            entry = as_cache_entry(key, self._store.residents.require(key).entry)
        return entry.extend(keys, values)

    # -- letting entries go --------------------------------------------------------------

    def remove_cache_entry(self, key: CacheKey) -> PoolEntry | None:
        """Remove the entry of a session, pinned or not.

        Its bytes are free at once, or when its last view is gone.

        Returns
        -------
        PoolEntry or None
            The entry, which cannot be used any more; None for a key without an entry, and
            then no counter moves.
        """
        with self._lock:
            self._begin()
            return self._store.remove(key)

    def remove_later(self, key: CacheKey) -> None:
        """Have the entry of a session removed at the start of the manager's next call.

        Takes no lock, so that a finalizer may call it. It is for whatever entry the key has
        then; without one nothing happens. What is left when the manager is closed goes with it.
        """
        if not self._closed:
            self._removals.append(key)

    def evict_lru_entries(self, required: int) -> list[CacheKey]:
        """Evict in the order of the policy until `required` bytes fit in one free range.

        Returns
        -------
        list of CacheKey
            Who had to go, in order; empty if there was room already.

        Raises
        ------
        InvalidSizeError
            `required` is less than 1.
        PoolExhaustedError
            Evicting all that may go would not be enough; nobody was evicted.
        """
        with self._lock:
            self._begin()
            return self._store.make_room(required)

    def evict_expired(self) -> list[CacheKey]:
        """Evict the entries that were not used for longer than their time to live.

        Every other call does that too, before anything else.

        Returns
        -------
        list of CacheKey
            Who went; leased and pinned entries stay.
        """
        with self._lock:
            return self._begin()

    def pin(self, key: CacheKey) -> None:
        """Keep an entry from being evicted until it is unpinned as often as it was pinned.

        Raises
        ------
        EntryNotFoundError
        """
        with self._lock:
            self._begin()
            self._store.residents.require(key).pins += 1

    def unpin(self, key: CacheKey) -> None:
        """Take one pin back.

        Raises
        ------
        EntryNotFoundError
            The key has no entry, or its entry is not pinned.
        """
        with self._lock:
            self._begin()
            resident = self._store.residents.require(key)
            if not resident.pins:
                raise EntryNotFoundError(f"the entry for {key!s} is not pinned")
            resident.pins -= 1

    # -- the whole -----------------------------------------------------------------------

    def __len__(self) -> int:
        with self._lock:
            self._begin()
            return len(self._store.residents)

    def __bool__(self) -> bool:
        return True  # an empty manager is no missing one

    def __contains__(self, key: CacheKey) -> bool:
        """Tell whether a session has an entry; neither a use nor a look-up that counts."""
        with self._lock:
            self._begin()
            return self._store.residents.get(key) is not None

    def session_keys(self) -> list[CacheKey]:
        """Return the keys of all entries, the oldest entry first."""
        with self._lock:
            self._begin()
            return list(self._store.residents)

    def get_stats(self) -> PoolStats:
        """Return the figures of the manager and its pool, all of one moment."""
        with self._lock:
            self._begin()
            return self._store.stats()

    def emit_pool_snapshot(self) -> None:
        """Make a receipt of the state of the pool; nothing where receipts are off."""
        with self._lock:
            self._begin()
            self._store.emit_snapshot()

    def check_integrity(self) -> None:
        """Prove that entries, policy, pool and counters agree.

        Raises
        ------
        IntegrityError
            They do not; the text says where.
        """
        with self._lock:
            self._begin()
            self._store.check_integrity()

    def close(self) -> None:
        """Let all entries go and give the arena up; a second call does nothing.

        Views that are alive stay valid.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self._store.close()
        # Outside of the lock, and in a second call as well: a call that was interrupted here
        # left sinks open. Closing the stream twice does nothing.
        if self.receipts is not None:
            self.receipts.stream.close()

    def _fork_entry(self, key: CacheKey, entry: KVCacheEntry, new_key: CacheKey) -> KVCacheEntry:
        with self._lock:
            self._begin()
            self._store.require_entry(key, entry)
            return self._store.fork(key, new_key, None)

    def _begin(self) -> list[CacheKey]:
        """Under the lock, before anything else: refuse if closed, let go who has to."""
        if self._closed:
            raise PoolClosedError("the manager is closed")
        self._store.residents.settle()
        while self._removals:
            self._store.remove(self._removals.popleft())
        gone = self._store.evict_expired()
        if self._next_snapshot < math.inf and self._clock() >= self._next_snapshot:
            self._next_snapshot = self._clock() + self._snapshot_interval
            self._store.emit_snapshot()
        return gone


class _Keeper:
    """The manager as the owner of one entry; see `EntryOwner`. It does not keep the manager."""

    def __init__(self, manager: weakref.ref[KVCacheManager], key: CacheKey) -> None:
        self._manager = manager
        self._key = key

    def make_room(self, nbytes: int) -> None:
        self._require_manager().evict_lru_entries(nbytes)

    def fork(self, entry: KVCacheEntry, session_id: str) -> KVCacheEntry:
        new_key = CacheKey(self._key.namespace, session_id)
        return self._require_manager()._fork_entry(self._key, entry, new_key)

    def _require_manager(self) -> KVCacheManager:
        manager = self._manager()
        if manager is None:
            raise PoolClosedError(f"the manager that kept the entry of {self._key!s} is gone")
        return manager
