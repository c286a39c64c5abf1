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
        ``used + free == capacity``.
    live_blocks : int
        Blocks handed out and not deallocated.
    parting_blocks : int
        Blocks deallocated whose bytes wait for their last view; they count as used.
    allocations, deallocations : int
        How often bytes were handed out, and how often they came back.
    bytes_allocated, bytes_freed : int
        Running totals; ``used == bytes_allocated - bytes_freed``.
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

    @property
    def fragmentation(self) -> float:
        """``1 - largest_free / free``: 0 where all free bytes are in one range, or none is."""
        return 1 - self.largest_free / self.free if self.free else 0.0

    @property
    def utilization(self) -> float:
        """``used / capacity``."""
        return self.used / self.capacity
