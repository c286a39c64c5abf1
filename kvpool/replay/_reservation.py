"""How many tokens to reserve for a request, and whether the pool can hold them at all."""

from __future__ import annotations

from dataclasses import dataclass

from kvpool.layout import KVLayout
from kvpool.pool import MemoryPool

__all__ = ["Reservation"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """How much is reserved for entries of a pool.

    Parameters
    ----------
    pool : MemoryPool
    layout : KVLayout
    max_context_length : int or None
        Tokens to reserve for every entry; None for those of its request.
    """

    pool: MemoryPool
    layout: KVLayout
    max_context_length: int | None

    def length(self, tokens: int) -> int:
        """Return how many tokens to reserve for a request of `tokens` tokens."""
        return tokens if self.max_context_length is None else self.max_context_length

    def fits(self, tokens: int) -> bool:
        """Return whether `tokens` tokens fit into their entry, and the entry into an empty pool."""
        length, pool = self.length(tokens), self.pool
        if tokens > length:
            return False
        return pool.could_hold(self.layout.geometry(length, pool.granule), tokens)
