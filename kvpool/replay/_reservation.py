"""What a request's entry is reserved for, and whether the pool can hold it at all."""

from __future__ import annotations

from dataclasses import dataclass

from kvpool.layout import KVLayout
from kvpool.pool import ElasticPool, MemoryPool

__all__ = ["Reservation"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """How entries are reserved in a pool.

    Parameters
    ----------
    pool : MemoryPool
    layout : KVLayout
    max_context_length : int or None
        Tokens that every entry is reserved for; None for just those of its request.
    """

    pool: MemoryPool
    layout: KVLayout
    max_context_length: int | None

    def length(self, tokens: int) -> int:
        """Return the tokens that the entry of a request with so many is reserved for."""
        return tokens if self.max_context_length is None else self.max_context_length

    def fits(self, tokens: int) -> bool:
        """Tell whether so many tokens fit into their entry, and that into the pool alone."""
        length, pool = self.length(tokens), self.pool
        if tokens > length:
            return False
        geometry = self.layout.geometry(length, pool.granule)
        if not isinstance(pool, ElasticPool):
            return geometry.nbytes <= pool.capacity
        needed = geometry.bytes_in_pages(tokens, pool.arena_info.page_size)
        return needed <= pool.capacity and geometry.nbytes <= pool.arena_info.size
