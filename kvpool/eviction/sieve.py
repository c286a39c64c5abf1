"""SIEVE: a hand passes the items and takes the first that was not used since it passed last."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from kvpool.eviction._queue import ItemQueue
from kvpool.eviction.base import EvictionPolicy, PolicyFactory
from kvpool.hookspecs import hookimpl

__all__ = [
    "SievePolicy",
    "kvpool_eviction_policy",
]


class SievePolicy(EvictionPolicy):
    """Evicts the first item, from the hand on, that was not used since the hand passed it.

    Notes
    -----
    Items stay in the order in which they came. The hand goes from the oldest to the newest and
    around; an item that was used loses its mark when the hand passes it. Every operation is O(1),
    on average: the hand passes an item once for each use.

    Zhang et al., "SIEVE is Simpler than LRU: an Efficient Turn-Key Eviction Algorithm for Web
    Caches", NSDI 2024.
    """

    # The items behind the hand and those before it are two queues: together, in this order, they
    # are the queue of the paper, which has the oldest item first.

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all items, and what was learned of them."""
        self._behind, self._before = ItemQueue(), ItemQueue()
        self._used: set[Hashable] = set()

    def _of(self, item: Hashable) -> ItemQueue:
        return self._behind if item in self._behind else self._before

    def admit(self, item: Hashable, nbytes: int, /) -> None:
        """Add an item as the newest one, without a mark."""
        self._used.discard(item)
        self._before.append(item, nbytes)

    def touch(self, item: Hashable, /) -> None:
        """Mark an item as used."""
        self._used.add(item)

    def resize(self, item: Hashable, nbytes: int, /) -> None:
        """Note the size; if a part was evicted, the hand is there."""
        queue = self._of(item)
        if nbytes < queue.size_of(item):
            self._move_hand(item)
            queue = self._of(item)
        queue.resize(item, nbytes)

    def remove(self, item: Hashable, /) -> None:
        """Remove an item; the hand is there if the hand took it."""
        self._move_hand(item)
        self._of(item).pop(item)
        self._used.discard(item)
        if not self._before:  # the hand took the newest item
            self._behind, self._before = self._before, self._behind

    def _move_hand(self, item: Hashable) -> None:
        """Pass items that were used, up to one that was not, or to this one."""
        if item in self._used:
            return
        for _ in range(2):  # once around at most
            while self._before:
                first = self._before.first()
                if first == item or first not in self._used:
                    return
                self._behind.append(first, self._before.pop(first))
                self._used.discard(first)
            self._behind, self._before = self._before, self._behind

    def split(self, item: Hashable, head: Hashable, nbytes: int, head_nbytes: int, /) -> None:
        """Add the first part of an item at the place of the item, with its mark."""
        if item in self._used:
            self._used.add(head)
        self._of(item).split(item, head, nbytes, head_nbytes)

    def victims(self) -> Iterator[Hashable]:
        """Yield the items as the hand would take them, one after another."""
        used = self._used
        yield from (item for item in self._before if item not in used)
        yield from (item for item in self._behind if item not in used)
        yield from (item for item in self._before if item in used)
        yield from (item for item in self._behind if item in used)


@hookimpl
def kvpool_eviction_policy() -> PolicyFactory:
    """Describe the policy to kvpool."""
    return PolicyFactory(
        create=SievePolicy, summary="evicts the next in a round that was not used since the last"
    )
