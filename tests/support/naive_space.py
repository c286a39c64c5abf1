"""The naive model that allocators are tested against: a list with one owner for each granule."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

FREE = 0


class NaiveSpace:
    """An address space as a list of owners; everything is found by looking at all of it.

    Offsets and sizes are in bytes. A hole also has a birth, because among holes of one size
    the allocator promises to take the youngest.
    """

    def __init__(self, capacity: int, granule: int) -> None:
        self.granule = granule
        self.owners = [FREE] * (capacity // granule)
        self.live: dict[int, int] = {}  # offset -> size
        self._next_owner = 1
        self._births: dict[tuple[int, int], int] = {}  # hole (offset, size) -> its birth
        self._note_births()

    def ranges(self) -> list[tuple[int, int, bool]]:
        """Return offset, size and whether it is taken, in address order."""
        found = []
        for owner, run in groupby(enumerate(self.owners), key=itemgetter(1)):
            granules = [index for index, _ in run]
            start, count = granules[0], len(granules)
            found.append((start * self.granule, count * self.granule, owner != FREE))
        return found

    def holes(self) -> list[tuple[int, int]]:
        return [(offset, size) for offset, size, taken in self.ranges() if not taken]

    def free_bytes(self) -> int:
        return self.owners.count(FREE) * self.granule

    def largest_free(self) -> int:
        return max((size for _, size in self.holes()), default=0)

    def charge(self, nbytes: int) -> int:
        return -(-nbytes // self.granule) * self.granule

    def places(self, nbytes: int, alignment: int) -> dict[int, tuple[int, int]]:
        """Return the first offset that fits in each hole, and that hole."""
        size = self.charge(nbytes)
        found = {}
        for start, length in self.holes():
            offset = -(-start // alignment) * alignment
            if offset + size <= start + length:
                found[offset] = (start, length)
        return found

    def best_place(self, nbytes: int) -> int | None:
        """Return the offset in the smallest hole that fits, the youngest among equals."""
        fitting = self.places(nbytes, 1)

        def smallest_then_youngest(offset: int) -> tuple[int, int]:
            return fitting[offset][1], -self._births[fitting[offset]]

        return min(fitting, key=smallest_then_youngest, default=None)

    def take(self, offset: int, nbytes: int) -> None:
        size = self.charge(nbytes)
        first, count = offset // self.granule, size // self.granule
        before = self.owners[first : first + count]
        assert before == [FREE] * count, f"[{offset}, {offset + size}) is taken or outside"
        self.owners[first : first + count] = [self._next_owner] * count
        self._next_owner += 1
        self.live[offset] = size
        self._note_births()

    def give(self, offset: int) -> int:
        """Free a range; return its size."""
        size = self.live.pop(offset)
        first, count = offset // self.granule, size // self.granule
        self.owners[first : first + count] = [FREE] * count
        self._note_births()
        return size

    def hole_around(self, offset: int) -> tuple[int, int]:
        """Return start and end of the hole that the byte at `offset` lies in."""
        (hole,) = [
            (start, start + size) for start, size in self.holes() if start <= offset < start + size
        ]
        return hole

    def _note_births(self) -> None:
        """Give a birth to each hole that was not there before, the lower address first."""
        youngest = max(self._births.values(), default=0)
        births = {}
        for hole in self.holes():
            if hole not in self._births:
                youngest += 1
            births[hole] = self._births.get(hole, youngest)
        self._births = births
