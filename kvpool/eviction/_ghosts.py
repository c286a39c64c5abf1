"""`GhostQueue`: the names of what was evicted, and may come back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from kvpool.eviction.base import names_of

__all__ = ["GhostQueue", "leaving"]


def leaving(item: Hashable, before: int, after: int) -> Sequence[Hashable]:
    """Return the names of the parts that leave an item, the last part last.

    Parameters
    ----------
    item : hashable
    before, after : int
        The bytes that it held, and those that it holds now.
    """
    names = names_of(item)
    if after <= 0 or before <= 0:
        return names
    kept = -(-len(names) * after // before)  # a part of which something stays has not left
    return names[kept:]


class GhostQueue:
    """The names of parts that were evicted, the earliest first, and their bytes.

    Attributes
    ----------
    nbytes : int
        The bytes that all of them held.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._sizes: OrderedDict[Hashable, int] = OrderedDict()

    def add(self, names: Sequence[Hashable], nbytes: int) -> None:
        """Note parts that leave, which held these bytes together; the last one is the earliest."""
        for name in reversed(names):
            self.take(name)
            self._sizes[name] = nbytes // len(names)
            self.nbytes += nbytes // len(names)

    def take(self, name: Hashable) -> int:
        """Forget a part that came back, and return its bytes; 0 if it is not a ghost."""
        nbytes = self._sizes.pop(name, 0)
        self.nbytes -= nbytes
        return nbytes

    def trim(self, nbytes: int) -> None:
        """Forget the earliest ones until they held no more than these bytes."""
        while self._sizes and self.nbytes > nbytes:
            self.nbytes -= self._sizes.popitem(last=False)[1]
