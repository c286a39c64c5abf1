"""What a manager does under its lock: entries in, entries out, and the counts of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeVar

from kvpool.cache_key import CacheKey
from kvpool.entry import EntryOwner, KVCacheEntry, PoolEntry
from kvpool.errors import (
    AddressSpaceExhaustedError,
    EntryKindError,
    EntryRemovedError,
    IntegrityError,
    InvalidLayoutError,
    PoolClosedError,
    PoolExhaustedError,
    StaleBlockError,
)
from kvpool.eviction.base import EvictionPolicy, EvictionReason
from kvpool.layout import EntryGeometry, KVLayout
from kvpool.manager._residents import Resident, Residents, check_ttl
from kvpool.pool import MemoryBlock, MemoryPool, Release
from kvpool.stats import PoolStats

if TYPE_CHECKING:
    from kvpool.receipts import ReceiptEmitter

__all__ = ["SessionStore", "as_cache_entry"]

E = TypeVar("E", bound=PoolEntry)
T = TypeVar("T")


class Evictor(Protocol):
    """A method of the pool that deallocates the first of some blocks until something fits."""

    def __call__(
        self, nbytes: int, victims: Iterable[MemoryBlock], *, releases: list[Release] | None
    ) -> list[MemoryBlock]: ...


class SessionStore:
    """The entries of one manager in their pool.

    Not thread-safe: `KVCacheManager` holds its lock around every call, and documents what
    the calls do.

    Parameters
    ----------
    pool : MemoryPool
    policy : EvictionPolicy
    layout : KVLayout or None
        For entries that are created without one.
    ttl : float
        Seconds; for entries that are created without one.
    clock : callable
        Returns seconds.
    receipts : ReceiptEmitter or None
        Makes a receipt of every entry that leaves.
    owner_of : callable, optional
        Returns who keeps the entry of a key, for the entry to call without the lock.
    """

    def __init__(
        self,
        pool: MemoryPool,
        policy: EvictionPolicy,
        layout: KVLayout | None,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
        receipts: ReceiptEmitter | None = None,
        owner_of: Callable[[CacheKey], EntryOwner | None] = lambda _key: None,
    ) -> None:
        self.pool = pool
        self._owner_of = owner_of
        self._receipts = receipts
        self.residents = Residents(policy)
        self._layout = layout
        self._ttl = ttl
        self._clock = clock
        self._hits = self._misses = self._allocations = 0
        self._evictions = dict.fromkeys(EvictionReason, 0)

    # -- in ------------------------------------------------------------------------------

    def look_up(self, key: CacheKey) -> PoolEntry | None:
        """Find a session: a hit, which is a use, or a miss."""
        resident = self.residents.get(key)
        if resident is None:
            self._misses += 1
            return None
        return self._hit(key, resident.entry)

    def find_or_create(
        self, key: CacheKey, max_context_length: int, layout: KVLayout | None, ttl: float | None
    ) -> KVCacheEntry:
        """See `KVCacheManager.get_or_create_cache`; what raises is no look-up."""
        resident = self.residents.get(key)
        if resident is None:
            made = self.create(key, max_context_length, layout, ttl)
            self._misses += 1
            return made
        entry = as_cache_entry(key, resident.entry, layout or self._layout)
        geometry = entry.layout.geometry(max_context_length, self.pool.granule)
        if geometry.max_context_length > entry.max_context_length:
            self._grow(key, resident, entry, geometry)
        return self._hit(key, entry)

    def create(
        self, key: CacheKey, max_context_length: int, layout: KVLayout | None, ttl: float | None
    ) -> KVCacheEntry:
        """Make the entry of a new session; see `KVCacheManager.create_cache_entry`."""
        self.residents.require_absent(key)
        layout = layout or self._layout
        if layout is None:
            raise InvalidLayoutError(f"no layout for {key!s}: neither here nor in the manager")
        seconds = self._ttl if ttl is None else check_ttl(ttl)
        geometry = layout.geometry(max_context_length, self.pool.granule)
        block = self._with_room(lambda: self.pool.reserve(geometry))
        make = partial(KVCacheEntry, geometry=geometry, owner=self._owner_of(key))
        return self._admit(key, block, make, seconds)

    def fork(self, key: CacheKey, new_key: CacheKey, ttl: float | None) -> KVCacheEntry:
        """Make a session that begins with another's tokens; see `KVCacheManager`."""
        resident = self.residents.require(key)
        parent = as_cache_entry(key, resident.entry)
        self.residents.require_absent(new_key)
        seconds = self._ttl if ttl is None else check_ttl(ttl)
        hook, owner = self._use_hook(new_key), self._owner_of(new_key)
        resident.pins += 1  # room for a copy is not made by evicting what is copied
        try:
            child = self._with_room(lambda: parent.fork_for(str(new_key), hook, owner))
        finally:
            resident.pins -= 1
        return self._let_in(new_key, child, seconds)

    def require_entry(self, key: CacheKey, entry: PoolEntry) -> None:
        """Raise EntryRemovedError unless this is the entry that the key has."""
        resident = self.residents.get(key)
        if resident is None or resident.entry is not entry:
            raise EntryRemovedError(
                f"the entry of session {entry.session_id!r} was removed or evicted"
            )

    def create_raw(self, key: CacheKey, size: int, ttl: float | None) -> PoolEntry:
        """Make a raw entry for a new session; see `KVCacheManager.allocate_entry`."""
        self.residents.require_absent(key)
        seconds = self._ttl if ttl is None else check_ttl(ttl)
        block = self._with_room(lambda: self.pool.allocate(size))
        return self._admit(key, block, PoolEntry, seconds)

    def _grow(
        self, key: CacheKey, resident: Resident, entry: KVCacheEntry, geometry: EntryGeometry
    ) -> None:
        resident.pins += 1  # room for the new block is not made by evicting the old one
        try:
            block = self._with_room(lambda: self.pool.reserve(geometry))
            try:
                before = self._with_room(lambda: entry.relocate(block, geometry))
            except BaseException:
                self._give_up(block)
                raise
        finally:
            resident.pins -= 1
        self._give_up(before)
        self.residents.policy.resize(key, block.size)

    # -- out -----------------------------------------------------------------------------

    def remove(self, key: CacheKey) -> PoolEntry | None:
        """Remove a session by hand; None if it is not there."""
        resident = self.residents.get(key)
        if resident is None:
            return None
        releases, started = self._new_releases(), time.perf_counter()
        self.pool.deallocate(resident.entry.block, releases)
        self._forget([key], EvictionReason.MANUAL, releases, started)
        return resident.entry

    def make_room(self, nbytes: int) -> list[CacheKey]:
        """Evict in the order of the policy until `nbytes` may be used; return who went."""
        return self._evict(self.pool.make_room, nbytes)

    def _evict(self, make: Evictor, nbytes: int) -> list[CacheKey]:
        offered: dict[MemoryBlock, CacheKey] = {}

        def blocks() -> Iterator[MemoryBlock]:
            for key, entry in self.residents.victims():
                offered[entry.block] = key
                yield entry.block

        releases, started = self._new_releases(), time.perf_counter()
        gone = make(nbytes, blocks(), releases=releases)
        keys = [offered[block] for block in gone]
        self._forget(keys, self.residents.policy.reason, releases, started)
        return keys

    def evict_expired(self) -> list[CacheKey]:
        """Evict who outlived their time to live, but for the leased and pinned."""
        expired = self.residents.expired(self._clock)
        if not expired:
            return expired
        releases, started = self._new_releases(), time.perf_counter()
        gone = [
            key
            for key in expired
            if self.pool.reclaim(self.residents.require(key).entry.block, releases)
        ]
        self._forget(gone, EvictionReason.TTL, releases, started)
        return gone

    def close(self) -> None:
        """Let all sessions go, and close the pool."""
        releases, started = self._new_releases(), time.perf_counter()
        keys = list(self.residents)
        try:
            for key in keys:
                self.pool.deallocate(self.residents.require(key).entry.block, releases)
        except (PoolClosedError, StaleBlockError):  # ended behind our back, and unrecorded
            releases = None
        try:
            self._forget(keys, EvictionReason.CLOSE, releases, started)
            if releases is not None:
                self.emit_snapshot()
        finally:  # whatever a policy of others raises
            self.pool.close()

    def _new_releases(self) -> list[Release] | None:
        """Return where to put the figures for receipts; None where nobody wants them."""
        receipts = self._receipts
        return [] if receipts is not None and receipts.stream.is_listening else None

    def _forget(
        self,
        keys: list[CacheKey],
        reason: EvictionReason,
        releases: list[Release] | None,
        started: float,
    ) -> None:
        """Forget sessions whose blocks were deallocated, and make their receipts."""
        self._evictions[reason] += len(keys)
        for index, key in enumerate(keys):
            resident = self.residents.remove(key)
            if releases is not None and self._receipts is not None:
                self._receipts.emit_eviction_receipt(
                    resident.entry.session_id,
                    resident.number,
                    reason,
                    charged=releases[index].charged,
                    before=releases[index].before,
                    after=releases[index].after,
                    sessions_before=len(self.residents) + 1,
                )
        if releases and len(releases) > 1 and self._receipts is not None:
            self._receipts.emit_batch_eviction_receipt(
                len(releases),
                # A sum: between two members, other threads append tokens and commit pages.
                sum(one.before.used - one.after.used for one in releases),
                before=releases[0].before,
                after=releases[-1].after,
                seconds=time.perf_counter() - started,
            )

    def _give_up(self, block: MemoryBlock) -> None:
        """Deallocate a block that an entry has left, or that nothing came of."""
        charged = block.charged
        self.pool.deallocate(block)
        if self._receipts is not None:
            self._receipts.note_moved(charged)

    # -- the whole -----------------------------------------------------------------------

    def emit_snapshot(self) -> None:
        """Make a receipt of the state of the pool."""
        if self._receipts is not None:
            self._receipts.emit_pool_snapshot(self.stats())

    def stats(self) -> PoolStats:
        """Return the figures of this moment."""
        memory = self.pool.stats()
        return PoolStats(
            total_capacity=memory.capacity,
            used_memory=memory.used,
            active_entries=len(self.residents),
            pinned_entries=self.residents.pinned_count(),
            parting_entries=memory.parting_blocks,
            allocations=self._allocations,
            evictions=sum(self._evictions.values()),
            evictions_by_reason=MappingProxyType(dict(self._evictions)),
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
        )

    def check_integrity(self) -> None:
        """Prove that entries, policy, pool and counters agree; IntegrityError if not."""
        self.residents.check_integrity()
        self.pool.check_integrity()
        blocks = {self.residents.require(key).entry.block for key in self.residents}
        dead = {block for block in blocks if not self.pool.is_live(block)}
        if len(blocks) != len(self.residents) or dead:
            raise IntegrityError(f"entries without a live block of their own: {dead}")
        gone = self._allocations - sum(self._evictions.values())
        if gone != len(self.residents):
            raise IntegrityError(f"{gone} entries by count, {len(self.residents)} are there")

    # -- inside --------------------------------------------------------------------------

    def _use_hook(self, key: CacheKey) -> Callable[[PoolEntry], object]:
        log = self.residents.use_log
        return lambda entry: log.append((key, entry))

    def _hit(self, key: CacheKey, entry: E) -> E:
        self._hits += 1
        entry.last_accessed = self._clock()
        self.residents.policy.touch(key)
        return entry

    def _admit(self, key: CacheKey, block: MemoryBlock, make: Callable[..., E], ttl: float) -> E:
        """Make the entry of a new session; its block is given back where that fails."""
        try:
            entry = make(
                pool=self.pool,
                block=block,
                session_id=str(key),
                clock=self._clock,
                on_use=self._use_hook(key),
            )
        except BaseException:  # of a clock of others
            self._give_up(block)
            raise
        return self._let_in(key, entry, ttl)

    def _let_in(self, key: CacheKey, entry: E, ttl: float) -> E:
        """Take the entry of a new session in; it ends where that fails."""
        try:
            self.residents.add(key, Resident(entry, ttl, self._allocations + 1))
        except BaseException:  # of a clock or policy of others
            self._give_up(entry.block)
            raise
        self._allocations += 1
        return entry

    def _with_room(self, take: Callable[[], T]) -> T:
        """Take what needs room, evicting others for it."""
        while True:  # once more where another user of the pool took the room that was made
            evictor: Evictor = self.pool.make_room
            try:
                return take()
            except AddressSpaceExhaustedError as shortage:
                evictor, missing = self.pool.make_space, shortage.requested
            except PoolExhaustedError as shortage:
                missing = shortage.requested
            self._evict(evictor, missing)


def as_cache_entry(key: CacheKey, entry: PoolEntry, layout: KVLayout | None = None) -> KVCacheEntry:
    """Return an entry that has a layout, and this one if it is given.

    Raises
    ------
    EntryKindError
        The entry is raw, or has another layout.
    """
    if not isinstance(entry, KVCacheEntry):
        raise EntryKindError(f"the entry for {key!s} is raw: it has no layout")
    if layout is not None and layout != entry.layout:
        raise EntryKindError(f"the entry for {key!s} has the layout {entry.layout}, not {layout}")
    return entry
