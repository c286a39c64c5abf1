"""An offset allocator: which ranges of an address space are taken, and which are free.

It holds offsets and sizes only and never touches a byte, so the same allocator serves RAM, a
file, shared memory or a device. It is not thread-safe; its owner holds a lock.

Free ranges are kept in two levels of bins, as in TLSF (Masmano et al., *TLSF: a new dynamic
memory allocator for real-time systems*, ECRTS 2004): a power of two, cut into eight. One
integer has a bit for each bin that is not empty. Unlike TLSF, a bin keeps the sizes that it
holds sorted, each size once: the first size that is large enough is then the *best* fit over
all free ranges, found by one bisection in one bin. Ranges that are too small for a request,
however many, lie in bins that the search never looks at, and ranges of one size cost one
place however many there are. Neighbouring free ranges are joined at once.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from kvpool._checks import align_up, check_alignment
from kvpool.errors import DoubleFreeError, IntegrityError, InvalidSizeError, PoolExhaustedError

__all__ = ["FreePlan", "OffsetAllocator"]

# The bin of a size is named by its highest bit and the three bits below it, see `_bin_of`. It is
# written out where speed counts, because a call would cost more than the bisection behind it.


class OffsetAllocator:
    """Best-fit allocation of ranges out of ``[0, capacity)``.

    Parameters
    ----------
    capacity : int
        Bytes to hand out; rounded down to the granule.
    granule : int, default 64
        Bytes; every range starts at a multiple of it and its size is rounded up to one. A
        power of two.

    Raises
    ------
    InvalidSizeError
        `capacity` is less than one granule.
    InvalidAlignmentError
        `granule` is not a power of two.

    Examples
    --------
    >>> allocator = OffsetAllocator(1024)
    >>> allocator.allocate(100), allocator.allocate(100)
    (0, 128)
    >>> allocator.free(0)
    128
    >>> allocator.free_bytes, allocator.largest_free
    (896, 768)
    """

    def __init__(self, capacity: int, granule: int = 64) -> None:
        check_alignment(granule)
        if capacity < granule:
            raise InvalidSizeError(
                f"a capacity of {capacity} bytes is less than one granule of {granule}"
            )
        self.capacity = capacity - capacity % granule
        self.granule = granule
        self.free_bytes = self.capacity
        # Alignments that every offset has anyway; whatever else is asked for is checked.
        self._granted = frozenset(1 << bit for bit in range(granule.bit_length()))
        self._live: dict[int, int] = {}  # start of each taken range -> its size
        self._hole_at = {0: self.capacity}  # start of each free range -> its size
        self._hole_before = {self.capacity: 0}  # end of each free range -> its start
        self._starts: dict[int, dict[int, None]] = {}  # size -> starts of the holes that have it
        self._bins: list[list[int]] = [[] for _ in range((capacity.bit_length() + 1) << 3)]
        self._occupied = 0  # bit b is set where bin b is not empty
        self._index(0, self.capacity)

    @classmethod
    def restored(
        cls, capacity: int, granule: int, taken: Iterable[tuple[int, int]]
    ) -> OffsetAllocator:
        """Return an allocator in which some ranges are taken, and all others are free.

        Parameters
        ----------
        capacity, granule : int
            Bytes.
        taken : iterable of (offset, size)
            The ranges, which do not overlap; sizes are rounded up to the granule.
        """
        made = cls(capacity, granule)
        end = made.capacity
        made._unindex(0, end)
        made._hole_at.clear()
        made._hole_before.clear()
        position = 0
        for offset, nbytes in [*sorted(taken), (end, 0)]:
            if offset > position:
                made._hole_at[position] = offset - position
                made._hole_before[offset] = position
                made._index(position, offset - position)
            if nbytes:
                made._live[offset] = size = align_up(nbytes, granule)
                made.free_bytes -= size
                position = offset + size
        return made

    # -- the two operations --------------------------------------------------------------

    def allocate(self, nbytes: int, alignment: int = 1) -> int:
        """Take the smallest free range that fits; the one freed last, among equals.

        Parameters
        ----------
        nbytes : int
            Bytes wanted, at least 1.
        alignment : int, default 1
            The offset is a multiple of it. A power of two; up to the granule it is free of
            cost.

        Returns
        -------
        int
            Offset of the first byte.

        Raises
        ------
        InvalidSizeError
            `nbytes` is less than 1.
        InvalidAlignmentError
            `alignment` is not a power of two.
        PoolExhaustedError
            No free range is large enough.
        """
        if nbytes < 1:
            raise InvalidSizeError(f"cannot allocate {nbytes} bytes: a block has at least 1")
        granule = self.granule
        size = (nbytes + granule - 1) & -granule
        if alignment in self._granted:
            hole = self._best_fit(size)
            if hole is None:
                raise PoolExhaustedError(size, self.free_bytes, self.largest_free)
            starts = self._starts[hole]
            start = offset = starts.popitem()[0]  # the youngest
            if not starts:
                self._forget(hole)
        else:
            start, offset = self._find_aligned(size, check_alignment(alignment))
            self._unindex(start, self._hole_at[start])
        end = start + self._hole_at.pop(start)
        if offset > start:
            self._hole_at[start] = offset - start
            self._hole_before[offset] = start
            self._index(start, offset - start)
        rest = offset + size
        if rest < end:
            self._hole_at[rest] = end - rest
            self._hole_before[end] = rest
            self._index(rest, end - rest)
        else:
            del self._hole_before[end]
        self._live[offset] = size
        self.free_bytes -= size
        return offset

    def free(self, offset: int) -> int:
        """Give a range back and join it with its free neighbours.

        Parameters
        ----------
        offset : int
            As returned by `allocate`.

        Returns
        -------
        int
            Bytes that became free: the size asked for, rounded up to the granule.

        Raises
        ------
        DoubleFreeError
            No allocated range starts there.
        """
        size = self._live.pop(offset, None)
        if size is None:
            raise DoubleFreeError(f"no allocated range starts at offset {offset}")
        self.free_bytes += size
        end = offset + size
        start = self._hole_before.pop(offset, offset)
        if start < offset:
            self._unindex(start, offset - start)
        after = self._hole_at.pop(end, 0)
        if after:
            self._unindex(end, after)
            end += after
        self._hole_at[start] = end - start
        self._hole_before[end] = start
        self._index(start, end - start)
        return size

    # -- what is there -------------------------------------------------------------------

    def fits(self, nbytes: int, alignment: int = 1) -> bool:
        """Tell whether `allocate` finds room; the arguments and their errors are as there."""
        if nbytes < 1:
            raise InvalidSizeError(f"{nbytes} bytes fit nowhere: a block has at least 1")
        size = (nbytes + self.granule - 1) & -self.granule
        if alignment in self._granted:
            return self._best_fit(size) is not None
        try:
            self._find_aligned(size, check_alignment(alignment))
        except PoolExhaustedError:
            return False
        return True

    @property
    def used_bytes(self) -> int:
        """Bytes taken, after rounding up to the granule."""
        return self.capacity - self.free_bytes

    @property
    def largest_free(self) -> int:
        """Bytes of the largest free range; 0 if nothing is free."""
        if not self._occupied:
            return 0
        sizes = self._bins[self._occupied.bit_length() - 1]
        return sizes[-1] if sizes else 0  # empty only in the middle of a step, see `glance`

    @property
    def live_count(self) -> int:
        """Number of ranges taken."""
        return len(self._live)

    def ranges(self) -> Iterator[tuple[int, int, bool]]:
        """Yield each range in address order: offset, size in bytes, whether it is taken."""
        taken = ((offset, size, True) for offset, size in self._live.items())
        free = ((offset, size, False) for offset, size in self._hole_at.items())
        yield from sorted((*taken, *free))

    def free_plan(self) -> FreePlan:
        """Return a plan in which ranges can be freed on paper, from what is free now."""
        return FreePlan(self._live, self._hole_at, self._hole_before)

    def check_integrity(self) -> None:
        """Prove that live and free ranges tile the capacity and that all indexes agree.

        Raises
        ------
        IntegrityError
            They do not; the text says where. This is a bug.
        """
        position, was_free, free_bytes = 0, False, 0
        for offset, size, taken in self.ranges():
            _require(offset == position, f"a gap or overlap at offset {position}: next is {offset}")
            _require(size > 0 and not size % self.granule, f"range {offset} has size {size}")
            _require(taken or not was_free, f"the free ranges around {offset} are not joined")
            position, was_free = offset + size, not taken
            free_bytes += 0 if taken else size
        _require(position == self.capacity, f"ranges end at {position}, not at {self.capacity}")
        _require(free_bytes == self.free_bytes, f"{free_bytes} free, counted {self.free_bytes}")
        self._check_indexes()

    def _check_indexes(self) -> None:
        ends = {start + size: start for start, size in self._hole_at.items()}
        _require(ends == self._hole_before, "the index of ends disagrees with that of starts")
        by_size = {(size, s) for size, starts in self._starts.items() for s in starts}
        expected = {(size, start) for start, size in self._hole_at.items()}
        _require(by_size == expected, "the index of sizes disagrees with that of starts")
        binned = [size for sizes in self._bins for size in sizes]
        _require(binned == sorted(self._starts), "the bins are unsorted or miss a size")
        occupied = 0
        for index, sizes in enumerate(self._bins):
            for size in sizes:
                _require(_bin_of(size) == index, f"size {size} is in bin {index}, not its own")
                occupied |= 1 << index
        _require(occupied == self._occupied, "the bits of the bins disagree with the bins")

    # -- free ranges ---------------------------------------------------------------------

    def _best_fit(self, size: int) -> int | None:
        """Return the size of the smallest hole of at least `size` bytes, or None."""
        if size > self.free_bytes:
            return None
        bits = size.bit_length()
        index = (bits << 3) + ((size << 4 >> bits) & 7)
        sizes = self._bins[index]
        if sizes and sizes[-1] >= size:
            return sizes[bisect_left(sizes, size)]
        above = self._occupied >> (index + 1)
        if not above:
            return None
        return self._bins[index + (above & -above).bit_length()][0]

    def _index(self, start: int, size: int) -> None:
        """Make a hole known to the search for a best fit."""
        starts = self._starts.get(size)
        if starts is not None:
            starts[start] = None
            return
        self._starts[size] = {start: None}
        bits = size.bit_length()
        index = (bits << 3) + ((size << 4 >> bits) & 7)
        sizes = self._bins[index]
        if sizes:
            insort(sizes, size)
        else:
            sizes.append(size)
            self._occupied |= 1 << index

    def _unindex(self, start: int, size: int) -> None:
        """Hide a hole from the search for a best fit."""
        starts = self._starts[size]
        del starts[start]
        if not starts:
            self._forget(size)

    def _forget(self, size: int) -> None:
        """Take a size that no hole has any more from its bin."""
        del self._starts[size]
        bits = size.bit_length()
        index = (bits << 3) + ((size << 4 >> bits) & 7)
        sizes = self._bins[index]
        if len(sizes) > 1:
            del sizes[bisect_left(sizes, size)]
        else:
            sizes.pop()
            self._occupied ^= 1 << index

    def _find_aligned(self, size: int, alignment: int) -> tuple[int, int]:
        """Return the start of a hole, and the aligned offset in it, with room for `size`.

        The best fit is tried as it lies, then a hole with room for any padding. Only where
        both fail are all holes looked at, so that a request fails only if it must.
        """
        for wanted in (size, size + alignment - self.granule):
            hole = self._best_fit(wanted)
            if hole is not None:
                start = next(reversed(self._starts[hole]))
                offset = align_up(start, alignment)
                if offset + size <= start + hole:
                    return start, offset
        fitting = [
            (hole, start)
            for start, hole in self._hole_at.items()
            if align_up(start, alignment) + size <= start + hole
        ]
        if not fitting:
            detail = f", and no range has {size} bytes behind a multiple of {alignment}"
            raise PoolExhaustedError(size, self.free_bytes, self.largest_free, detail)
        _, start = min(fitting)
        return start, align_up(start, alignment)


class FreePlan:
    """What would be free if some ranges were given back; the allocator is not changed.

    It is valid until the allocator changes. `OffsetAllocator.free_plan` makes it.
    """

    def __init__(
        self, live: dict[int, int], hole_at: dict[int, int], hole_before: dict[int, int]
    ) -> None:
        self._live = live
        self._hole_at = hole_at
        self._hole_before = hole_before
        self._end_of: dict[int, int] = {}  # start of each joined range on paper -> its end
        self._start_of: dict[int, int] = {}  # and the other way round
        self._freed: set[int] = set()  # what is freed on paper

    def free(self, offset: int) -> tuple[int, int]:
        """Free a range on paper.

        Parameters
        ----------
        offset : int
            Start of a range that is taken, and not yet freed on paper.

        Returns
        -------
        start, end : int
            Of the free range that this one would become part of.

        Raises
        ------
        DoubleFreeError
            No such range starts there.
        """
        size = self._live.get(offset)
        if size is None or offset in self._freed:
            raise DoubleFreeError(f"no allocated range starts at offset {offset}")
        self._freed.add(offset)
        start, end = offset, offset + size
        # A joined range has its neighbouring holes in it already, so one step is enough.
        if end in self._end_of:
            end = self._end_of.pop(end)
        else:
            end += self._hole_at.get(end, 0)
        if start in self._start_of:
            start = self._start_of.pop(start)
        else:
            start = self._hole_before.get(start, start)
        self._end_of[start] = end
        self._start_of[end] = start
        return start, end


def _bin_of(size: int) -> int:
    bits = size.bit_length()
    return (bits << 3) + ((size << 4 >> bits) & 7)


def _require(condition: bool, broken: str) -> None:
    if not condition:
        raise IntegrityError(broken)
