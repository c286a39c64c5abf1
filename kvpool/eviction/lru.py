"""LRU: the least recently used session is evicted first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import ClassVar

from kvpool.cache_key import CacheKey
from kvpool.eviction.base import EvictionPolicy, EvictionReason, PolicyFactory
from kvpool.hookspecs import hookimpl

__all__ = [
    "LruPolicy",
    "kvpool_eviction_policy",
]


class LruPolicy(EvictionPolicy):
    """Evicts the least recently used session first; every operation is O(1)."""

    reason: ClassVar[EvictionReason] = EvictionReason.LRU

    def __init__(self) -> None:
        self._order: OrderedDict[CacheKey, None] = OrderedDict()

    def admit(self, key: CacheKey, _nbytes: int, /) -> None:
        """Add a session as the most recently used one."""
        self._order[key] = None

    def touch(self, key: CacheKey, /) -> None:
        """Make a session the most recently used one."""
        self._order.move_to_end(key)

    def resize(self, _key: CacheKey, _nbytes: int, /) -> None:
        """Do nothing: sizes do not matter."""

    def remove(self, key: CacheKey, /) -> None:
        """Remove a session."""
        del self._order[key]

    def victims(self) -> Iterator[CacheKey]:
        """Yield the sessions from the least to the most recently used."""
        return iter(self._order)


@hookimpl
def kvpool_eviction_policy() -> PolicyFactory:
    """Describe the policy to kvpool."""
    return PolicyFactory(create=LruPolicy, summary="evicts the least recently used session first")
