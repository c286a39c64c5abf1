"""LRU: the least recently used item is evicted first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import ClassVar

from kvpool.eviction.base import EvictionPolicy, EvictionReason, PolicyFactory
from kvpool.hookspecs import hookimpl

__all__ = [
    "LruPolicy",
    "kvpool_eviction_policy",
]


class LruPolicy(EvictionPolicy):
    """Evicts the least recently used item first; every operation is O(1)."""

    reason: ClassVar[EvictionReason] = EvictionReason.LRU

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all items, and what was learned of them."""
        self._order: OrderedDict[Hashable, None] = OrderedDict()

    def admit(self, item: Hashable, _nbytes: int, /) -> None:
        """Add an item as the most recently used one."""
        self._order[item] = None

    def touch(self, item: Hashable, /) -> None:
        """Make an item the most recently used one."""
        self._order.move_to_end(item)

    def resize(self, _item: Hashable, _nbytes: int, /) -> None:
        """Do nothing: sizes do not matter."""

    def remove(self, item: Hashable, /) -> None:
        """Remove an item."""
        del self._order[item]

    def split(self, _item: Hashable, head: Hashable, _nbytes: int, _head_nbytes: int, /) -> None:
        """Add the first part of an item as the most recently used one: it is used right after."""
        self._order[head] = None

    def victims(self) -> Iterator[Hashable]:
        """Yield the items from the least to the most recently used."""
        return iter(self._order)


@hookimpl
def kvpool_eviction_policy() -> PolicyFactory:
    """Describe the policy to kvpool."""
    return PolicyFactory(create=LruPolicy, summary="evicts the least recently used first")
