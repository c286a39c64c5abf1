"""Least recently used: the session that was not used for the longest time goes first."""

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
    """Ranks sessions by their last use; every operation is O(1)."""

    reason: ClassVar[EvictionReason] = EvictionReason.LRU

    def __init__(self) -> None:
        self._order: OrderedDict[CacheKey, None] = OrderedDict()

    def admit(self, key: CacheKey, _nbytes: int, /) -> None:
        """Rank a new session last, whatever its size."""
        self._order[key] = None

    def touch(self, key: CacheKey, /) -> None:
        """Rank a session last."""
        self._order.move_to_end(key)

    def resize(self, _key: CacheKey, _nbytes: int, /) -> None:
        """Do nothing: sizes play no part."""

    def remove(self, key: CacheKey, /) -> None:
        """Forget a session."""
        del self._order[key]

    def victims(self) -> Iterator[CacheKey]:
        """Yield the sessions from the least to the most recently used."""
        return iter(self._order)


@hookimpl
def kvpool_eviction_policy() -> PolicyFactory:
    """Describe the policy to kvpool."""
    return PolicyFactory(create=LruPolicy, summary="the least recently used session goes first")
