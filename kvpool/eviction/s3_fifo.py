"""S3-FIFO: a small queue lets new items prove themselves before they join the main queue."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from kvpool.eviction._ghosts import GhostQueue, leaving
from kvpool.eviction._queue import ItemQueue
from kvpool.eviction.base import EvictionPolicy, PolicyFactory, names_of
from kvpool.hookspecs import hookimpl

__all__ = [
    "S3FifoPolicy",
    "kvpool_eviction_policy",
]

_SMALL = 0.1  # of the bytes, as in the paper
_MOST_USES = 3  # that are counted


class S3FifoPolicy(EvictionPolicy):
    """Evicts new items that are not used soon, then those of the main queue that are not used.

    Notes
    -----
    New items are in the small queue, which has a tenth of the bytes. Its first item moves to the
    main queue if it was used twice, and is evicted otherwise. What comes back while its name is
    remembered joins the main queue at once. The first item of the main queue goes to its end for
    each counted use. The bytes are the most that all items ever held: a policy is not told the
    capacity. Every operation is O(1), on average.

    Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all items, and what was learned of them."""
        self._small, self._main, self._ghosts = ItemQueue(), ItemQueue(), GhostQueue()
        self._uses: dict[Hashable, int] = {}  # since it was admitted, or passed in the main queue
        self._most = 0

    def _of(self, item: Hashable) -> ItemQueue:
        return self._main if item in self._main else self._small

    def _note_size(self) -> None:
        self._most = max(self._most, self._small.nbytes + self._main.nbytes)

    def admit(self, item: Hashable, nbytes: int, /) -> None:
        """Add an item to the small queue, or to the main queue if its first part came back."""
        came_back = False
        for index, name in enumerate(names_of(item)):
            if self._ghosts.take(name) and index == 0:
                came_back = True
        self._uses[item] = 0
        (self._main if came_back else self._small).append(item, nbytes)
        self._note_size()

    def touch(self, item: Hashable, /) -> None:
        """Count a use, up to three."""
        uses = self._uses[item]
        if uses < _MOST_USES:
            self._uses[item] = uses + 1

    def resize(self, item: Hashable, nbytes: int, /) -> None:
        """Note the size, and the names of parts that were evicted."""
        if nbytes < self._of(item).size_of(item):
            self._note_leaving(item, nbytes)
        self._of(item).resize(item, nbytes)
        self._note_size()

    def remove(self, item: Hashable, /) -> None:
        """Remove an item, and note its names."""
        self._note_leaving(item, 0)
        self._of(item).pop(item)
        del self._uses[item]

    def _note_leaving(self, item: Hashable, after: int) -> None:
        """Move the items that were passed, and note the names of what leaves the small queue."""
        queue, uses = self._of(item), self._uses
        if not self._stays(item):
            first = queue.first()
            while first != item and self._stays(first):
                nbytes = queue.pop(first)
                uses[first] = 0 if queue is self._small else uses[first] - 1
                self._main.append(first, nbytes)
                first = queue.first()
        if queue is self._small:
            before = queue.size_of(item)
            self._ghosts.add(leaving(item, before, after), before - after)
            self._ghosts.trim(int((1 - _SMALL) * self._most))

    def _stays(self, item: Hashable) -> bool:
        return self._uses[item] > (0 if item in self._main else 1)

    def split(self, item: Hashable, head: Hashable, nbytes: int, head_nbytes: int, /) -> None:
        """Add the first part of an item at the place of the item, with its uses."""
        self._uses[head] = self._uses[item]
        self._of(item).split(item, head, nbytes, head_nbytes)

    def victims(self) -> Iterator[Hashable]:
        """Yield the items of the queue that is to lose one, then those of the other.

        In each queue, those that would stay come last. The order is that of evictions as long as
        the same queue is to lose one.
        """
        small_first = not self._main or self._small.nbytes > _SMALL * self._most
        queues = (self._small, self._main) if small_first else (self._main, self._small)
        for queue in queues:
            yield from (item for item in queue if not self._stays(item))
        for uses in range(1, _MOST_USES + 1):
            for queue in queues:
                for item in queue:
                    if self._uses[item] == uses and self._stays(item):
                        yield item


@hookimpl
def kvpool_eviction_policy() -> PolicyFactory:
    """Describe the policy to kvpool."""
    return PolicyFactory(create=S3FifoPolicy, summary="lets new items prove themselves first")
