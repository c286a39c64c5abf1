"""The figures of a pool, `MemoryStats`, and of a manager, `PoolStats`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvpool.eviction.base import EvictionReason

__all__ = ["MemoryStats", "PoolStats"]


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """The figures of a `MemoryPool`; all sizes in bytes, rounded up to the granule.

    Attributes
    ----------
    capacity, used, free, largest_free : int
        ``used + free == capacity``. What counts as used are the blocks handed out; in an
        elastic pool their committed pages.
    live_blocks : int
        Blocks handed out and not deallocated.
    parting_blocks : int
        Blocks deallocated whose bytes wait for their last view or fork; they count as used.
    allocations, deallocations : int
        How often bytes were handed out, and how often they came back.
    bytes_allocated, bytes_freed : int
        Running totals; ``used == bytes_allocated - bytes_freed``.
    reserved, address_space : int
        Bytes of the ranges that blocks have, committed or not, and of all that there are.
    bytes_trimmed : int
        Of the bytes freed, those that live blocks gave back or left to forks.
    forks, copied_forks : int
        Forks that share pages now, and how often a fork had to be a copy so far.
    """

    capacity: int
    used: int
    free: int
    largest_free: int
    live_blocks: int
    parting_blocks: int
    allocations: int
    deallocations: int
    bytes_allocated: int
    bytes_freed: int
    reserved: int
    address_space: int
    bytes_trimmed: int = 0
    forks: int = 0
    copied_forks: int = 0

    @property
    def fragmentation(self) -> float:
        """``1 - largest_free / free``: 0 where all free bytes are in one range, or none is."""
        return 1 - self.largest_free / self.free if self.free else 0.0

    @property
    def utilization(self) -> float:
        """``used / capacity``."""
        return self.used / self.capacity


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The figures of a `KVCacheManager`, all of one moment; sizes in bytes.

    Attributes
    ----------
    total_capacity, used_memory : int
        ``used_memory`` counts removed entries until their last view and fork are gone. In an
        elastic pool both count committed pages.
    active_entries, pinned_entries : int
        Entries that can be found by their key, and those of them that are pinned.
    parting_entries : int
        Blocks that were given up and wait for their last view or fork.
    allocations : int
        Entries made.
    evictions : int
        Entries that left, for any reason.
    evictions_by_reason : mapping of EvictionReason to int
        One count for every reason; they add up to `evictions`.
    fragmentation : float
        ``1 - largest free range / free bytes``.
    hits, misses : int
        Look-ups that found an entry, and those that did not.
    bytes_allocated, bytes_freed : int
        Running totals; ``used_memory == bytes_allocated - bytes_freed``.
    bytes_trimmed : int
        Of the bytes freed, those that entries gave back, or left to forks, while they stayed.
    reserved_memory, address_space : int
        Bytes of the ranges that entries have, committed or not, and of all that there are.
    forks, copied_forks : int
        Forks that share pages now, and how often a fork had to be a copy so far.
    """

    total_capacity: int
    used_memory: int
    active_entries: int
    pinned_entries: int
    parting_entries: int
    allocations: int
    evictions: int
    evictions_by_reason: Mapping[EvictionReason, int]
    fragmentation: float
    hits: int
    misses: int
    bytes_allocated: int
    bytes_freed: int
    bytes_trimmed: int
    reserved_memory: int
    address_space: int
    forks: int
    copied_forks: int

    @property
    def utilization(self) -> float:
        """``used_memory / total_capacity``."""
        return self.used_memory / self.total_capacity

    @property
    def hit_rate(self) -> float:
        """``hits / (hits + misses)``; 0 before the first look-up."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0
