"""SLRU: segmented LRU, in which an item is protected once it was used again."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import chain

from kvpool.eviction._queue import ItemQueue
from kvpool.eviction.base import EvictionPolicy, PolicyFactory
from kvpool.hookspecs import hookimpl

__all__ = [
    "SlruPolicy",
    "kvpool_eviction_policy",
]

_PROTECTED = 0.8  # of the bytes, as in later uses of SLRU; the paper leaves the share open


class SlruPolicy(EvictionPolicy):
    """Evicts items that were not used again first, of those the least recently used.

    Notes
    -----
    A new item is on probation. A use makes it the most recently used of the protected items. If
    those hold more than four fifths of the bytes, their least recently used ones are on probation
    again. The bytes are the most that all items ever held: a policy is not told the capacity.
    Every operation is O(1), on average.

    Karedla, Love and Wherry, "Caching Strategies to Improve Disk System Performance", Computer
    27(3), 1994.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all items, and what was learned of them."""
        self._probation, self._protected = ItemQueue(), ItemQueue()
        self._most = 0

    def _of(self, item: Hashable) -> ItemQueue:
        return self._protected if item in self._protected else self._probation

    def _note_size(self) -> None:
        self._most = max(self._most, self._probation.nbytes + self._protected.nbytes)

    def admit(self, item: Hashable, nbytes: int, /) -> None:
        """Add an item on probation."""
        self._probation.append(item, nbytes)
        self._note_size()

    def touch(self, item: Hashable, /) -> None:
        """Protect an item."""
        protected = self._protected
        protected.append(item, self._of(item).pop(item))
        while protected.nbytes > _PROTECTED * self._most:
            first = protected.first()
            if first == item:  # it is larger than the share
                break
            self._probation.append(first, protected.pop(first))

    def resize(self, item: Hashable, nbytes: int, /) -> None:
        """Note the size."""
        self._of(item).resize(item, nbytes)
        self._note_size()

    def remove(self, item: Hashable, /) -> None:
        """Remove an item."""
        self._of(item).pop(item)

    def split(self, item: Hashable, head: Hashable, nbytes: int, head_nbytes: int, /) -> None:
        """Add the first part of an item at the place of the item."""
        self._of(item).split(item, head, nbytes, head_nbytes)

    def victims(self) -> Iterator[Hashable]:
        """Yield the items on probation, then the protected ones; the least recently used first."""
        return chain(self._probation, self._protected)


@hookimpl
def kvpool_eviction_policy() -> PolicyFactory:
    """Describe the policy to kvpool."""
    return PolicyFactory(create=SlruPolicy, summary="protects what was used again")
