"""`ItemQueue`: items in a row, with the bytes that they hold together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator

__all__ = ["ItemQueue"]


class ItemQueue:
    """Items from the first to the last, and their sizes; every operation is O(1).

    Attributes
    ----------
    nbytes : int
        The bytes of all items.
    """

    # Items that were one stand in one group, so that a part takes the place of the whole. An item
    # leaves the groups before the books change, and is in the books before it joins a group: a
    # call that is interrupted leaves an item that is not ranked, never one that is ranked twice.

    def __init__(self) -> None:
        self.nbytes = 0
        self._groups: OrderedDict[int, dict[Hashable, None]] = OrderedDict()
        self._group_of: dict[Hashable, int] = {}
        self._sizes: dict[Hashable, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, item: object) -> bool:
        return item in self._sizes

    def __iter__(self) -> Iterator[Hashable]:
        for group in self._groups.values():
            yield from group

    def first(self) -> Hashable:
        """Return the first item; the queue is not empty."""
        return next(iter(self))

    def size_of(self, item: Hashable) -> int:
        """Return the bytes of an item."""
        return self._sizes[item]

    def append(self, item: Hashable, nbytes: int) -> None:
        """Put a new item last."""
        self._next += 1
        self._enter(item, nbytes, self._next)

    def pop(self, item: Hashable) -> int:
        """Take an item out, and return its bytes."""
        number = self._group_of[item]
        group = self._groups.get(number)
        if group is not None:
            group.pop(item, None)
            if not group:
                del self._groups[number]
        del self._group_of[item]
        nbytes = self._sizes.pop(item)
        self.nbytes -= nbytes
        return nbytes

    def move_to_end(self, item: Hashable) -> None:
        """Put an item last."""
        self.append(item, self.pop(item))

    def resize(self, item: Hashable, nbytes: int) -> None:
        """Change the bytes of an item."""
        before = self._sizes[item]
        self._sizes[item] = nbytes
        self.nbytes += nbytes - before

    def split(self, item: Hashable, head: Hashable, nbytes: int, head_nbytes: int) -> None:
        """Put the first part of an item right behind the rest, in the place of the item."""
        self.resize(item, nbytes)
        self._enter(head, head_nbytes, self._group_of[item])

    def _enter(self, item: Hashable, nbytes: int, number: int) -> None:
        self.nbytes += nbytes - self._sizes.get(item, 0)
        self._sizes[item] = nbytes
        self._group_of[item] = number
        group = self._groups.get(number)
        if group is None:
            self._groups[number] = {item: None}
        else:
            group[item] = None
