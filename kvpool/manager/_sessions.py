"""The sessions of one manager: creation, look-up, growth, eviction, and their counters."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from kvpool._checks import whole_number
from kvpool.cache_key import CacheKey
from kvpool.entry import Keeper, KVCacheEntry, PoolEntry
from kvpool.errors import (
    EntryExistsError,
    EntryKindError,
    EntryNotFoundError,
    EntryRemovedError,
    IntegrityError,
    InvalidArgumentError,
    InvalidLayoutError,
    PoolClosedError,
    StaleBlockError,
)
from kvpool.eviction import EvictionReason
from kvpool.layout import EntryGeometry, KVLayout
from kvpool.manager._departures import Departures
from kvpool.manager._expiry import ExpiryQueue
from kvpool.manager._keeper import UseLog
from kvpool.manager._keys import check_key
from kvpool.manager._room import EvictingRoom
from kvpool.manager._session import Session, check_ttl
from kvpool.manager._tiers import Beyond
from kvpool.pool import MemoryPool
from kvpool.prefix import Ranking
from kvpool.stats import PoolStats

if TYPE_CHECKING:
    from kvpool.receipts import ReceiptEmitter

__all__ = ["Sessions"]

E = TypeVar("E", bound=PoolEntry)


class Sessions:
    """The books of one manager: which sessions have an entry, and who may be evicted.

    Not thread-safe: `KVCacheManager` holds its lock around every call.

    Parameters
    ----------
    pool : MemoryPool
    ranking : Ranking
        In which order sessions and the tokens that they hold are evicted.
    layout : KVLayout or None
        For entries that are created without one.
    ttl : float
        Seconds; for entries that are created without a time to live.
    clock : callable
        Returns seconds.
    receipts : ReceiptEmitter or None
        Makes a receipt of every entry that leaves.
    uses : UseLog
        What entries have noted since the last call of `begin`.
    removals : deque of CacheKey
        Keys of sessions that `begin` is to remove.
    keeper_of : callable
        Returns the keeper for the entry of a key and session number.
    beyond : Beyond or None
        Gets the tokens of what is evicted, before their bytes are free.

    Attributes
    ----------
    ranking : Ranking
    room : EvictingRoom
        Where the sessions get their bytes.
    opening : Session or None
        The one that the call under way opens. If the call does not end, it is not open.
    loading : dict of CacheKey to Session
        Those that are opened and loaded from tiers by calls under way.
    in_step : bool
        True while a call of the manager is under way. A call that finds it True knows that the
        one before was interrupted: `begin` then makes the books right.
    """

    # The sessions by key, and the blocks of the pool that name these books as their owner, are
    # the truth. Policy, expiry queue and counters are made right from them by `_recover`. So:
    # - a session is there from one store on, and leaves by one;
    # - its receipt is queued before it leaves, and tells by its number that it was;
    # - a block without a session was taken or left by a call that did not end.

    def __init__(
        self,
        pool: MemoryPool,
        ranking: Ranking,
        layout: KVLayout | None,
        ttl: float,
        clock: Callable[[], float],
        receipts: ReceiptEmitter | None,
        uses: UseLog,
        removals: deque[CacheKey],
        keeper_of: Callable[[CacheKey, int], Keeper],
        beyond: Beyond | None = None,
    ) -> None:
        self._pool = pool
        self._granule = pool.granule
        self.ranking = ranking
        self._layout = layout
        self._ttl = ttl
        self._clock = clock
        self._receipts = receipts
        self._uses = uses
        self._removals = removals
        self._keeper_of = keeper_of
        self._owner = object()  # names the blocks of these books, see `MemoryBlock.owner`
        self._by_key: dict[CacheKey, Session] = {}  # the oldest session first
        self._expiry = ExpiryQueue()
        self._departures = Departures(pool, self._by_key, ranking, self._expiry, receipts)
        self.room = EvictingRoom(
            pool, self._by_key, ranking, self._departures, receipts, self._owner, beyond
        )
        self._hits = self._misses = self._allocations = 0
        self.opening: Session | None = None
        self.loading: dict[CacheKey, Session] = {}
        self._passed: tuple[KVCacheEntry, KVCacheEntry] | None = None  # see `pass_on`
        self.in_step = False

    def begin(self) -> list[CacheKey]:
        """Do what is due before anything else; return the keys of sessions that expired."""
        if self.in_step:
            self._recover()
        self.opening = None
        is_due = self._uses or self._removals or self.loading or self._expiry.watched
        return self._do_what_is_due() if is_due or self._departures.ranked else []

    def _do_what_is_due(self) -> list[CacheKey]:
        self.in_step = True
        if self.loading:
            self._end_given_up()
        if self._departures.ranked:
            self._departures.forget_again()
        if self._uses:
            self._apply_uses()
        while self._removals:
            self.remove(self._removals[0])
            self._removals.popleft()
        gone = self._evict_expired() if self._expiry.watched else []
        self.in_step = False
        return gone

    def _end_given_up(self) -> None:
        """Let sessions go whose call of `open_session` has ended by an interrupt while it loaded.

        What the pool held of their tokens before stays.
        """
        for key, session in list(self.loading.items()):
            opener = session.opener
            is_there = self._by_key.get(key) is session
            if is_there and opener is not None and opener.has_failed:
                session.is_open = False
                if key in self.ranking.unranked:
                    self.remove(key)
            elif is_there and opener is not None and not opener.is_done:
                continue
            del self.loading[key]

    def _apply_uses(self) -> None:
        """Tell the policy of the uses in the log, in the order of each entry's last use."""
        used = []
        known = self.ranking.tree.ends  # there, uses are counted when a session is opened
        unranked = self.ranking.unranked
        while self._uses:
            key, number = self._uses.popleft()
            session = self._by_key.get(key)
            if session is not None and session.number == number:  # not an earlier one of the key
                session.entry.use_noted = False
                if key not in known and key not in unranked:
                    used.append((session.entry.last_use, key))
        for _, key in sorted(used):
            self.ranking.touch(key)

    # -- which sessions there are --------------------------------------------------------

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: CacheKey) -> bool:
        try:
            if key in self._by_key:
                return True
        except TypeError:  # it cannot be hashed
            pass
        check_key(key)
        return False

    def keys(self) -> list[CacheKey]:
        """Return the keys of all sessions, the oldest first."""
        return list(self._by_key)

    def items(self) -> list[tuple[CacheKey, PoolEntry]]:
        """Return the keys of all sessions with their entries, the oldest first."""
        return [(key, session.entry) for key, session in self._by_key.items()]

    def find(self, key: CacheKey) -> KVCacheEntry:
        """Find the entry of a key, which must have a layout: a hit, which is a use."""
        return self._hit(key, self.cache_entry(key))

    def require(self, key: CacheKey) -> Session:
        """Return the session of a key.

        Raises
        ------
        EntryNotFoundError
            The key has no entry.
        """
        try:
            session = self._by_key.get(key)
        except TypeError:  # it cannot be hashed
            session = None
        if session is None:
            check_key(key)
            raise EntryNotFoundError(f"no entry for {key!s}")
        return session

    def cache_entry(self, key: CacheKey, layout: KVLayout | None = None) -> KVCacheEntry:
        """Return the entry of a key, which must have a layout, and this one if it is given.

        Raises
        ------
        EntryNotFoundError
            The key has no entry.
        EntryKindError
            The entry is raw, or has another layout.
        """
        entry = self.require(key).entry
        if not isinstance(entry, KVCacheEntry):
            raise EntryKindError(f"the entry for {key!s} is raw: it has no layout")
        if layout is None or layout is entry.layout:
            return entry
        if layout.__class__ is not KVLayout or layout != entry.layout:
            raise EntryKindError(
                f"the entry for {key!s} has the layout {entry.layout}, not {layout}"
            )
        return entry

    def look_up(self, key: CacheKey) -> PoolEntry | None:
        """Find the entry of a key: a hit, which is a use, or a miss."""
        try:
            session = self._by_key.get(key)
        except TypeError:  # it cannot be hashed
            session = None
        if session is None:
            check_key(key)
            self._misses += 1
            return None
        return self._hit(key, session.entry)

    # -- new sessions --------------------------------------------------------------------

    def find_or_create(
        self, key: CacheKey, max_context_length: int, layout: KVLayout | None, ttl: float | None
    ) -> KVCacheEntry:
        """Find the entry of a key, grown if it has room for fewer tokens, or make it.

        A call that raises counts neither as a hit nor as a miss.
        """
        try:
            is_new = key not in self._by_key
        except TypeError:  # it cannot be hashed
            is_new = True
        if is_new:
            made = self.create(key, max_context_length, layout, ttl)
            self._misses += 1
            return made
        entry = self.cache_entry(key, self._layout if layout is None else layout)
        is_int = max_context_length.__class__ is int
        if not (is_int and 0 < max_context_length <= entry.max_context_length):  # unlike most hits
            self.grow(key, entry, max_context_length)
        return self._hit(key, entry)

    def create(
        self,
        key: CacheKey,
        max_context_length: int,
        layout: KVLayout | None,
        ttl: float | None,
        *,
        is_ranked: bool = True,
    ) -> KVCacheEntry:
        """Make the entry of a new session; see `Ranking.unranked` for one that is not ranked."""
        if key.__class__ is not CacheKey or key.namespace.__class__ is not str:
            check_key(key)
        elif key.id.__class__ is not int and key.id.__class__ is not str:
            check_key(key)  # not called for most keys
        if key in self._by_key:
            raise self._exists(key)
        if layout is None:
            layout = self._layout
        elif not isinstance(layout, KVLayout):
            raise InvalidLayoutError(f"layout must be a KVLayout, not {layout!r}")
        if layout is None:
            raise InvalidLayoutError(
                f"no layout for {key!s}: pass one, or give the manager one for all its entries"
            )
        seconds = self._ttl if ttl is None else check_ttl(ttl)
        geometry = layout.geometry(max_context_length, self._granule)
        block = self.room.reserve(geometry)
        try:
            keeper = self._keeper_of(key, self._allocations + 1)
            entry = KVCacheEntry(self._pool, block, str(key), geometry, keeper)
            self._let_in(key, entry, seconds, is_ranked=is_ranked)
        except BaseException:  # from the clock or the policy, which are not ours
            self.room.give_up(block)
            raise
        return entry

    def create_raw(self, key: CacheKey, size: int, ttl: float | None) -> PoolEntry:
        """Make a raw entry for a new session."""
        check_key(key)
        if key in self._by_key:
            raise self._exists(key)
        seconds = self._ttl if ttl is None else check_ttl(ttl)
        block = self.room.allocate(size)
        try:
            entry = PoolEntry(
                self._pool, block, str(key), self._keeper_of(key, self._allocations + 1)
            )
            self._let_in(key, entry, seconds)
        except BaseException:  # from the clock or the policy, which are not ours
            self.room.give_up(block)
            raise
        return entry

    def fork(
        self,
        key: CacheKey,
        new_key: CacheKey,
        ttl: float | None,
        of: PoolEntry | None = None,
        token_count: int | None = None,
        max_context_length: int = 0,
        *,
        is_ranked: bool = True,
    ) -> KVCacheEntry:
        """Make a session that begins with the tokens of another.

        Parameters
        ----------
        key, new_key : CacheKey
        ttl : float or None
        of : PoolEntry, optional
            The entry that the key must have.
        token_count : int, optional
            The most tokens to fork.
        max_context_length : int, default 0
            Tokens that the fork has room for at least.
        is_ranked : bool, default True
            False for a session that is open, see `Ranking.unranked`.

        Raises
        ------
        EntryRemovedError
            The key does not have the entry `of`.
        """
        if of is not None and (key not in self._by_key or self._by_key[key].entry is not of):
            raise EntryRemovedError(
                f"the entry of session {of.session_id!r} was removed or evicted"
            )
        parent = self.cache_entry(key)
        if is_ranked:  # one that is opened was checked
            check_key(new_key)
        if new_key in self._by_key:
            raise self._exists(new_key)
        seconds = self._ttl if ttl is None else check_ttl(ttl)
        keeper = self._keeper_of(new_key, self._allocations + 1)
        child = parent.fork_for(str(new_key), keeper, self.room, token_count, max_context_length)
        try:
            self._let_in(new_key, child, seconds, is_ranked=is_ranked)
            self._by_key[new_key].priority = self._by_key[key].priority
        except BaseException:  # from the policy, which is not ours
            self.room.give_up(child.block)
            raise
        return child

    def pass_on(self, key: CacheKey, new_key: CacheKey) -> KVCacheEntry:
        """Give a session a new entry over the same bytes, under the same key or another.

        The old entry refuses every later call, so that no caller writes to it unseen.
        """
        session = self._by_key[key]
        old = self.cache_entry(key)
        name = old.session_id if new_key == key else str(new_key)
        new = old.passed_to(name, self._keeper_of(new_key, session.number))
        self._passed = old, new
        session.entry = new
        if new_key != key:
            self.ranking.rename(key, new_key, new.block.size)
            self._by_key[new_key] = session
            del self._by_key[key]
            if session.ttl < math.inf:
                self._expiry.discard(key)
                self._expiry.add(new_key, session.deadline)
        old.end()
        self._passed = None
        return new

    def set_ttl(self, key: CacheKey, ttl: float) -> None:
        """Give a session another time to live."""
        session = self._by_key[key]
        self._expiry.discard(key)
        session.ttl = ttl
        if ttl < math.inf:
            self._expiry.add(key, session.deadline)

    def grow(self, key: CacheKey, entry: KVCacheEntry, max_context_length: int) -> None:
        """Give an entry room for at least `max_context_length` tokens, unless it has it."""
        geometry = entry.layout.geometry(max_context_length, self._granule)
        if geometry.max_context_length > entry.max_context_length:
            self._grow(key, entry, geometry)

    def _grow(self, key: CacheKey, entry: KVCacheEntry, geometry: EntryGeometry) -> None:
        self.room.give_up(entry.relocate(geometry, self.room))
        self.ranking.resize(key, entry.block.size)

    def _exists(self, key: CacheKey) -> EntryExistsError:
        return EntryExistsError(f"{key!s} has an entry of {self._by_key[key].entry!r} already")

    def _hit(self, key: CacheKey, entry: E) -> E:
        entry.last_accessed = self._clock()
        self.ranking.touch(key)
        self._hits += 1
        return entry

    def _let_in(
        self, key: CacheKey, entry: PoolEntry, ttl: float, *, is_ranked: bool = True
    ) -> None:
        """Note the entry of a new session. If the policy raises, it is not noted."""
        session = Session(entry, ttl, self._allocations + 1)
        if is_ranked:
            try:
                self.ranking.policy.admit(key, entry.block.size)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.ranking.policy.remove(key)  # it may know the key already
                raise
        else:
            self.ranking.unranked.add(key)
        self._by_key[key] = session
        if ttl < math.inf:
            self._expiry.add(key, session.deadline)
        self._allocations += 1

    # -- pins ----------------------------------------------------------------------------

    def pin(self, key: CacheKey) -> None:
        """Keep a session from being evicted until it is unpinned as often as it was pinned."""
        self.require(key).pins += 1

    def unpin(self, key: CacheKey) -> None:
        """Take one pin back; EntryNotFoundError if there is none."""
        session = self.require(key)
        if not session.pins:
            raise EntryNotFoundError(f"the entry for {key!s} is not pinned")
        session.pins -= 1

    def set_priority(self, key: CacheKey, priority: int) -> None:
        """Let a session be evicted after those with a lower priority."""
        session = self.require(key)
        number = whole_number("priority", priority, InvalidArgumentError)
        self.room.priorities.add(number)
        session.priority = number

    # -- sessions that leave -------------------------------------------------------------

    def remove(self, key: CacheKey) -> PoolEntry | None:
        """Remove a session by hand; None if the key has no entry."""
        try:
            session = self._by_key.get(key)
        except TypeError:  # it cannot be hashed
            session = None
        if session is None:
            check_key(key)
            return None
        deallocations = self._departures.begin(EvictionReason.MANUAL)
        self._pool.deallocate(session.entry.block, deallocations)
        self._departures.finish([key])
        return session.entry

    def clear(self) -> list[CacheKey]:
        """Remove all sessions by hand, in one step; return their keys."""
        keys = self.keys()
        deallocations = self._departures.begin(EvictionReason.MANUAL)
        for key in keys:
            try:
                self._pool.deallocate(self._by_key[key].entry.block, deallocations)
            except StaleBlockError:  # the pool was used past the manager
                self._departures.without_figures()
        self._departures.finish(keys)
        return keys

    def _evict_expired(self) -> list[CacheKey]:
        """Evict the sessions that outlived their time to live, unless leased or pinned."""
        by_key = self._by_key
        due = self._expiry.due(self._clock(), lambda key: by_key[key].deadline)
        expired = [key for key in due if not by_key[key].pins]
        if not expired:
            return expired
        for key in expired:
            if not by_key[key].entry.block.is_leased:
                self.room.save(key)
        deallocations = self._departures.begin(EvictionReason.TTL)
        gone = [
            key for key in expired if self._pool.reclaim(by_key[key].entry.block, deallocations)
        ]
        self._departures.finish(gone)
        return gone

    def close(self) -> None:
        """Let all sessions go, and close the pool."""
        if self.in_step:
            with contextlib.suppress(PoolClosedError):
                self._recover()
        self.in_step = True
        deallocations = self._departures.begin(EvictionReason.CLOSE)
        self.ranking.tree.end_journal()  # all chunks go in one event
        keys = self.keys()
        try:
            for key in keys:
                self.room.save(key)
                self._pool.deallocate(self._by_key[key].entry.block, deallocations)
        except (PoolClosedError, StaleBlockError):  # the pool was used past the manager
            deallocations = None
            self._departures.without_figures()
        try:
            self._departures.finish(keys)
            if deallocations is not None:
                self.emit_snapshot()
        except MemoryError:
            raise  # the next call goes on from here
        except Exception:  # from the policy, which is not ours
            self._pool.close()
            raise
        self._pool.close()

    # -- after an interrupt --------------------------------------------------------------

    def _recover(self) -> None:
        """Make the books right after a call that was interrupted: O(n log n) for n sessions.

        If this is interrupted too, the next call does it again.
        """
        pool = self._pool
        self._finish_passing_on()
        for session in self._by_key.values():
            session.entry.use_noted = False  # the note may be lost
            session.tokens = session.known_tokens
            self._allocations = max(self._allocations, session.number)
        if self.opening is not None:
            self.opening.is_open = False
        for key in self.ranking.unranked & self._by_key.keys():
            session = self._by_key[key]
            if not session.is_open and pool.is_live(session.entry.block):
                pool.deallocate(session.entry.block)  # it was not opened to its end
        self._departures.finish_interrupted()
        mine = {session.entry.block for session in self._by_key.values()}
        for usage in pool.usage():
            if usage.is_live and usage.block.owner is self._owner and usage.block not in mine:
                pool.deallocate(usage.block)
        self._expiry.clear()
        for key, session in self._by_key.items():
            if session.ttl < math.inf:
                self._expiry.add(key, session.deadline)
        self._departures.recount(self._allocations)
        self.in_step = False

    def _finish_passing_on(self) -> None:
        """Let one of two entries over the same bytes go: the old one, if the new one is known."""
        if self._passed is None:
            return
        old, new = self._passed
        keys = [key for key, session in self._by_key.items() if session.entry is new]
        for key in keys[:-1]:  # the session has its new key too
            del self._by_key[key]
        (old if keys else new).end()
        self._passed = None

    # -- the whole -----------------------------------------------------------------------

    def emit_snapshot(self) -> None:
        """Make a receipt of the state of the pool."""
        if self._receipts is not None:
            self._receipts.emit_pool_snapshot(self.stats())

    def stats(self) -> PoolStats:
        """Return the figures of the manager and its pool, all of one moment."""
        memory = self._pool.stats()
        return PoolStats(
            total_capacity=memory.capacity,
            used_memory=memory.used,
            active_entries=len(self._by_key),
            pinned_entries=sum(1 for session in list(self._by_key.values()) if session.pins),
            parting_entries=memory.parting_blocks,
            allocations=self._allocations,
            evictions=self._departures.total,
            evictions_by_reason=MappingProxyType(dict(self._departures.by_reason)),
            fragmentation=memory.fragmentation,
            hits=self._hits,
            misses=self._misses,
            bytes_allocated=memory.bytes_allocated,
            bytes_freed=memory.bytes_freed,
            bytes_trimmed=memory.bytes_trimmed,
            reserved_memory=memory.reserved,
            address_space=memory.address_space,
            forks=memory.forks,
            copied_forks=memory.copied_forks,
            copied_forks_by_reason=memory.copied_forks_by_reason,
            is_exact=memory.is_exact,
        )

    def check_integrity(self) -> None:
        """Prove that sessions, policy, expiry queue, pool and counters agree.

        Raises
        ------
        BrokenPluginError
            The policy yields a key twice, or something that is not a key.
        IntegrityError
            They do not agree. This is a bug here, or in the policy.
        """
        self.ranking.check_integrity(self._by_key.keys())
        for key in self.ranking.tree.ends:
            if self.ranking.tree.tokens_of(key) != self._by_key[key].tokens:
                raise IntegrityError(f"the prefix tree has other tokens of {key!s} than it holds")
        for key, session in self._by_key.items():
            is_watched = key in self._expiry.watched
            if is_watched != (session.ttl < math.inf):
                raise IntegrityError(
                    f"{key!s} has ttl {session.ttl}; is it in the expiry queue: {is_watched}"
                )
        if len(self._expiry.watched) > len(self._by_key):
            raise IntegrityError("the expiry queue has sessions that are gone")
        self._pool.check_integrity()
        blocks = {session.entry.block for session in self._by_key.values()}
        dead = {block for block in blocks if not self._pool.is_live(block)}
        if len(blocks) != len(self._by_key) or dead:
            raise IntegrityError(f"entries without a live block of their own: {dead}")
        left = self._allocations - self._departures.total
        if left != len(self._by_key):
            raise IntegrityError(
                f"{self._allocations} entries were made and {self._departures.total} left, "
                f"but there are {len(self._by_key)}"
            )
