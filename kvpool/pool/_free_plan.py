"""What-if on free ranges: which ranges would be joined if some blocks were given back."""

from __future__ import annotations

from kvpool.errors import DoubleFreeError

__all__ = ["FreePlan"]


class FreePlan:
    """What would be free if some ranges were given back; the allocator is not changed.

    It is valid until the allocator changes. Made by `OffsetAllocator.free_plan`.
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
