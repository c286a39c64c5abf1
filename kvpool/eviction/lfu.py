"""LFU: the item that was used least often is evicted first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator

from kvpool.eviction.base import EvictionPolicy, PolicyFactory
from kvpool.hookspecs import hookimpl

__all__ = [
    "LfuPolicy",
    "kvpool_eviction_policy",
]


class LfuPolicy(EvictionPolicy):
    """Evicts the item that was used least often first, of several the least recently used.

    Notes
    -----
    Uses are counted while an item is in the pool; one that comes back begins with 1. Every
    operation is O(1). The counts that occur are few; they are sorted again when one of them is
    new or gone.
    """

    # An item leaves its queue before its count changes, and joins the new one after. So a call
    # that is interrupted leaves an item that is not ranked, never one that is ranked twice.

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all items, and what was learned of them."""
        self._uses: dict[Hashable, int] = {}
        self._queues: dict[int, OrderedDict[Hashable, None]] = {}
        self._counts: list[int] | None = None  # the keys of the queues in order, if known

    def admit(self, item: Hashable, _nbytes: int, /) -> None:
        """Add an item that was used once."""
        self._join(item, 1)

    def touch(self, item: Hashable, /) -> None:
        """Count a use."""
        uses = self._uses[item]
        self._leave(item, uses)
        self._join(item, uses + 1)

    def resize(self, _item: Hashable, _nbytes: int, /) -> None:
        """Do nothing: sizes do not matter."""

    def remove(self, item: Hashable, /) -> None:
        """Remove an item, and forget its count."""
        self._leave(item, self._uses[item])
        del self._uses[item]

    def split(self, item: Hashable, head: Hashable, _nbytes: int, _head_nbytes: int, /) -> None:
        """Add the first part of an item with the count of the item."""
        self._join(head, self._uses[item])

    def victims(self) -> Iterator[Hashable]:
        """Yield the items from the least to the most often used."""
        if self._counts is None:
            self._counts = sorted(self._queues)
        for uses in self._counts:
            yield from self._queues[uses]

    def _join(self, item: Hashable, uses: int) -> None:
        self._uses[item] = uses
        queue = self._queues.get(uses)
        if queue is None:
            self._counts = None
            queue = self._queues[uses] = OrderedDict()
        queue[item] = None

    def _leave(self, item: Hashable, uses: int) -> None:
        queue = self._queues[uses]
        queue.pop(item, None)
        if not queue:
            self._counts = None
            del self._queues[uses]


@hookimpl
def kvpool_eviction_policy() -> PolicyFactory:
    """Describe the policy to kvpool."""
    return PolicyFactory(create=LfuPolicy, summary="evicts the least often used first")
