"""`MemoryStats`: the figures of a `MemoryPool`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MemoryStats"]


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
