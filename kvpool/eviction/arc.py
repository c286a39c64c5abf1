"""ARC: a balance of recent and repeated use, which adapts itself."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from kvpool.eviction._ghosts import GhostQueue, leaving
from kvpool.eviction._queue import ItemQueue
from kvpool.eviction.base import EvictionPolicy, PolicyFactory, names_of
from kvpool.hookspecs import hookimpl

__all__ = [
    "ArcPolicy",
    "kvpool_eviction_policy",
]


class ArcPolicy(EvictionPolicy):
    """Divides the bytes between items used once and items used again, and learns the share.

    Notes
    -----
    Items that were used once and items that were used again are two queues, each with the names
    of what was evicted from it. An item that comes back soon after it was evicted says that the
    queue it was in should be larger. The sizes are bytes, and the capacity is the most bytes that
    all items ever held: a policy is not told the capacity. Every operation is O(1), on average.

    Megiddo and Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003.
    """

    # T1, T2, B1, B2, p and c are `_once`, `_again`, `_gone_once`, `_gone_again`, `_share`, `_most`.

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all items, and what was learned of them."""
        self._once, self._again = ItemQueue(), ItemQueue()
        self._gone_once, self._gone_again = GhostQueue(), GhostQueue()
        self._share = 0.0  # bytes that are meant for items used once
        self._most = 0

    def _of(self, item: Hashable) -> ItemQueue:
        return self._again if item in self._again else self._once

    def _note_size(self) -> None:
        self._most = max(self._most, self._once.nbytes + self._again.nbytes)

    def admit(self, item: Hashable, nbytes: int, /) -> None:
        """Add an item, among those used again if its first part was evicted a short while ago."""
        once, again = self._gone_once, self._gone_again
        of_once, of_again = once.nbytes, again.nbytes
        came_back = False
        for index, name in enumerate(names_of(item)):
            from_once, from_again = once.take(name), again.take(name)
            self._share += from_once * max(1.0, of_again / max(of_once, 1))
            self._share -= from_again * max(1.0, of_once / max(of_again, 1))
            came_back |= index == 0 and from_once + from_again > 0
        (self._again if came_back else self._once).append(item, nbytes)
        self._note_size()
        self._share = min(max(self._share, 0.0), self._most)

    def touch(self, item: Hashable, /) -> None:
        """Make an item the most recently used of those used again."""
        self._again.append(item, self._of(item).pop(item))

    def resize(self, item: Hashable, nbytes: int, /) -> None:
        """Note the size, and the names of parts that were evicted."""
        self._note_leaving(item, nbytes)
        self._of(item).resize(item, nbytes)
        self._note_size()

    def remove(self, item: Hashable, /) -> None:
        """Remove an item, and note its names."""
        self._note_leaving(item, 0)
        self._of(item).pop(item)

    def _note_leaving(self, item: Hashable, after: int) -> None:
        queue = self._of(item)
        before = queue.size_of(item)
        if after < before:
            gone = self._gone_once if queue is self._once else self._gone_again
            gone.add(leaving(item, before, after), before - after)
            self._gone_once.trim(max(self._most - self._once.nbytes, 0))
            self._gone_again.trim(max(self._most - self._gone_once.nbytes, 0))

    def split(self, item: Hashable, head: Hashable, nbytes: int, head_nbytes: int, /) -> None:
        """Add the first part of an item at the place of the item."""
        self._of(item).split(item, head, nbytes, head_nbytes)

    def victims(self) -> Iterator[Hashable]:
        """Yield the least recently used items of the queue that has more than its share."""
        left = self._once.nbytes
        again = iter(self._again)
        for item in self._once:
            while left <= self._share:
                other = next(again, None)
                if other is None:
                    break
                yield other
            yield item
            left -= self._once.size_of(item)
        yield from again


@hookimpl
def kvpool_eviction_policy() -> PolicyFactory:
    """Describe the policy to kvpool."""
    return PolicyFactory(create=ArcPolicy, summary="balances recent and repeated use by itself")
