"""GDSF: the item with the least uses and cost for its size is evicted first."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush

from kvpool.eviction.base import EvictionPolicy, PolicyFactory, cost_of
from kvpool.hookspecs import hookimpl

__all__ = [
    "GdsfPolicy",
    "kvpool_eviction_policy",
]

_Place = tuple[float, int, Hashable]  # the priority, when the item was used, and the item


class GdsfPolicy(EvictionPolicy):
    """Evicts the item with the least uses times cost per byte first, and lets old items age.

    Notes
    -----
    GreedyDual-Size-Frequency. The priority of an item is uses times cost per byte, plus the
    priority that the last evicted item had when this one was used: so what is not used any more
    is evicted in the end, however much it was used before. The cost is that of `cost_of`; for
    items that tell none, this is LFU with aging. Every operation is O(log n), on average.

    Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching
    Policy", HP Laboratories report HPL-98-69R1, 1998.
    """

    # An item is where `_places` says; what else the heap holds is out of date.

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all items, and what was learned of them."""
        self._heap: list[_Place] = []
        self._places: dict[Hashable, _Place] = {}
        self._books: dict[Hashable, tuple[int, int]] = {}  # uses and bytes
        self._age = 0.0
        self._now = 0

    def _place(self, item: Hashable, uses: int, nbytes: int) -> None:
        self._books[item] = (uses, nbytes)
        self._now += 1
        worth = uses * cost_of(item, nbytes) / max(nbytes, 1)
        place = (self._age + worth, self._now, item)
        self._places[item] = place
        heappush(self._heap, place)
        self._tidy()

    def _tidy(self) -> None:
        """Drop places that are out of date: the first ones, and all if they are most."""
        heap, places = self._heap, self._places
        while heap and places.get(heap[0][2]) is not heap[0]:
            heappop(heap)
        if len(heap) > 2 * len(places) + 16:
            current = list(places.values())
            heapify(current)
            self._heap = current

    def admit(self, item: Hashable, nbytes: int, /) -> None:
        """Add an item that was used once."""
        self._place(item, 1, nbytes)

    def touch(self, item: Hashable, /) -> None:
        """Count a use."""
        uses, nbytes = self._books[item]
        self._place(item, uses + 1, nbytes)

    def resize(self, item: Hashable, nbytes: int, /) -> None:
        """Note the size; the priority changes at the next use."""
        uses, before = self._books[item]
        if nbytes < before:
            self._let_age()
        self._books[item] = (uses, nbytes)

    def remove(self, item: Hashable, /) -> None:
        """Remove an item; what is used from now on counts from the least priority on."""
        self._let_age()
        del self._places[item]
        del self._books[item]
        self._tidy()

    def _let_age(self) -> None:
        if self._heap:
            self._age = max(self._age, self._heap[0][0])

    def split(self, item: Hashable, head: Hashable, nbytes: int, head_nbytes: int, /) -> None:
        """Add the first part of an item with its uses, right behind the item."""
        uses, _ = self._books[item]
        self._books[item] = (uses, nbytes)
        self._place(head, uses, head_nbytes)

    def victims(self) -> Iterator[Hashable]:
        """Yield the items from the least to the greatest priority."""
        heap, places = self._heap, self._places
        ahead = [(heap[0], 0)] if heap else []  # all places before these were yielded
        while ahead:
            place, index = heappop(ahead)
            if places.get(place[2]) is place:
                yield place[2]
            for below in (2 * index + 1, 2 * index + 2):
                if below < len(heap):
                    heappush(ahead, (heap[below], below))


@hookimpl
def kvpool_eviction_policy() -> PolicyFactory:
    """Describe the policy to kvpool."""
    return PolicyFactory(create=GdsfPolicy, summary="weighs uses and cost against size")
