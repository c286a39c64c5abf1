"""`PageRuns`: which pages of an elastic block are committed.

A block with a KV layout is made of *runs*: ranges in which tokens follow one another. All runs
of a block have the same length and fill at the same pace, but for those of the layers that are
a step ahead. So a few numbers say which pages are committed: from each run's start up to a
*level*, one level for each *group* of runs that fill together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

__all__ = ["PageRuns", "RunGeometry"]


class RunGeometry(Protocol):
    """Where the runs of a block lie."""

    @property
    def groups(self) -> int:
        """Groups of runs; the runs of one group fill together."""

    @property
    def runs_per_group(self) -> int:
        """Runs in each group."""

    @property
    def nbytes(self) -> int:
        """Bytes of the block."""

    def run_offsets(self, group: int) -> Sequence[int]:
        """Return where the runs of a group start: bytes from the start of the block."""


class PageRuns:
    """The committed pages of one block. Not thread-safe: the pool holds its lock.

    Parameters
    ----------
    geometry : RunGeometry
    page_size : int
        Bytes.
    shown : int, default 0
        Bytes at the start of each run that are another block's, whose fork this one is.

    Attributes
    ----------
    shown : int
        Falls when the fork writes there.
    floor : int
        Pages at the start of each run that the block is not charged with.
    levels : list of int
        For each group, the pages from the start of each run that are there: those below
        the floor, and those that this block is charged with.
    settled : list of int
        For each group, up to which page the base of a fork was rid of pages that the
        fork's writes had committed there.
    """

    __slots__ = ("floor", "geometry", "levels", "page_size", "settled", "shown")

    def __init__(self, geometry: RunGeometry, page_size: int, shown: int = 0) -> None:
        self.geometry = geometry
        self.page_size = page_size
        self.shown = shown
        self.floor = floor = shown // page_size
        self.levels = [floor] * geometry.groups
        self.settled = [floor] * geometry.groups

    def pages(self, nbytes: int) -> int:
        """Return how many pages the first bytes of a run touch."""
        return -(-nbytes // self.page_size)

    @property
    def charged(self) -> int:
        """Bytes that the block is charged with."""
        return self.bytes_above(self.floor)

    def bytes_above(self, page: int) -> int:
        """Return the bytes of the pages from `page` of each run up to its level."""
        pages = sum(level - page for level in self.levels if level > page)
        return pages * self.geometry.runs_per_group * self.page_size

    def ranges_above(self, page: int) -> Iterator[tuple[int, int]]:
        """Yield offset and size, in bytes of the block, of the pages that `bytes_above` counts."""
        for group, level in enumerate(self.levels):
            yield from self.ranges(group, page, level)

    def ranges(self, group: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield offset and size of the pages from `first` up to `last` in each run of a group."""
        if first < last:
            for start in self.geometry.run_offsets(group):
                yield start + first * self.page_size, (last - first) * self.page_size

    def has(self, group: int | None, start: int, end: int) -> bool:
        """Tell whether a group, or each of them, may be written without another page."""
        level = min(self.levels) if group is None else self.levels[group]
        return start >= self.shown and level * self.page_size >= end

    def missing(self, groups: Iterable[int], start: int, end: int) -> int:
        """Return the bytes that are yet to be charged so that some groups may be written."""
        pages = sum(max(0, self.pages(end) - self.levels[group]) for group in groups)
        pages += (self.floor - self._floor_for(start)) * self.geometry.groups
        return pages * self.geometry.runs_per_group * self.page_size

    def commit(self, groups: Iterable[int], start: int, end: int) -> None:
        """Note that some groups are written from `start` to `end`."""
        self.floor = self._floor_for(start)
        self.shown = min(self.shown, start)
        for group in groups:
            self.levels[group] = max(self.levels[group], self.pages(end))

    def _floor_for(self, start: int) -> int:
        # Where views kept a fork from being trimmed, pages of its own lie above. Then all are
        # charged, down to where it writes: too much until the tokens are back.
        return min(self.floor, start // self.page_size)

    def cut(self, page: int) -> None:
        """Lower every level to at most `page`."""
        self.levels = [min(level, page) for level in self.levels]
        self.settled = [min(level, page) for level in self.settled]
