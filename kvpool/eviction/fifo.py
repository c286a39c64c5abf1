"""FIFO: the item that came first is evicted first."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from kvpool.eviction._queue import ItemQueue
from kvpool.eviction.base import EvictionPolicy, PolicyFactory
from kvpool.hookspecs import hookimpl

__all__ = [
    "FifoPolicy",
    "kvpool_eviction_policy",
]


class FifoPolicy(EvictionPolicy):
    """Evicts the item that came first, however much it is used; every operation is O(1)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all items, and what was learned of them."""
        self._queue = ItemQueue()

    def admit(self, item: Hashable, nbytes: int, /) -> None:
        """Add an item as the last one."""
        self._queue.append(item, nbytes)

    def touch(self, item: Hashable, /) -> None:
        """Do nothing: uses do not matter."""

    def resize(self, item: Hashable, nbytes: int, /) -> None:
        """Note the size."""
        self._queue.resize(item, nbytes)

    def remove(self, item: Hashable, /) -> None:
        """Remove an item."""
        self._queue.pop(item)

    def split(self, item: Hashable, head: Hashable, nbytes: int, head_nbytes: int, /) -> None:
        """Add the first part of an item at the place of the item."""
        self._queue.split(item, head, nbytes, head_nbytes)

    def victims(self) -> Iterator[Hashable]:
        """Yield the items in the order in which they came."""
        return iter(self._queue)


@hookimpl
def kvpool_eviction_policy() -> PolicyFactory:
    """Describe the policy to kvpool."""
    return PolicyFactory(create=FifoPolicy, summary="evicts what came first")
