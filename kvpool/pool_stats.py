"""`PoolStats`: the figures of a `KVCacheManager`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvpool.eviction.base import EvictionReason

__all__ = ["PoolStats"]


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
