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
        ``used_memory`` counts removed entries until their last view is gone.
    active_entries, pinned_entries : int
        Entries that can be found by their key, and those of them that are pinned.
    parting_entries : int
        Blocks that were given up and wait for their last view.
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

    @property
    def utilization(self) -> float:
        """``used_memory / total_capacity``."""
        return self.used_memory / self.total_capacity

    @property
    def hit_rate(self) -> float:
        """``hits / (hits + misses)``; 0 before the first look-up."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0
