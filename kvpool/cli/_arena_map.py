"""A map of an arena: which session holds which bytes."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console, ConsoleOptions
from rich.text import Text

from kvpool.cli._sizes import format_size
from kvpool.pool import BlockUsage, MemoryBlock

__all__ = ["ArenaMap", "Segment", "charges", "segments"]

# Backgrounds on which black text is easy to read; neighbours in the list differ clearly.
_COLOURS = (
    *("steel_blue1", "light_salmon1", "dark_sea_green2", "plum2", "khaki1", "pale_turquoise1"),
    *("light_coral", "pale_green1", "light_pink1", "sky_blue2", "navajo_white1", "medium_purple1"),
)
_FEW_COLOURS = (
    *("bright_cyan", "bright_yellow", "bright_green", "bright_magenta", "white"),
    *("cyan", "bright_red", "yellow"),
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of an arena.

    Attributes
    ----------
    offset, size : int
        Bytes.
    owner : int or None
        Number of the session that holds it, shown at its start; None if it is free.
    """

    offset: int
    size: int
    owner: int | None


def segments(
    ranges: Iterable[tuple[int, int, MemoryBlock | None]], owners: Mapping[MemoryBlock, int]
) -> list[Segment]:
    """Return the ranges of `MemoryPool.ranges` as segments, with the owners of the blocks."""
    return [
        Segment(offset, size, owners.get(block) if block is not None else None)
        for offset, size, block in ranges
    ]


def charges(
    usages: Iterable[BlockUsage], owners: Mapping[MemoryBlock, int], capacity: int
) -> list[Segment]:
    """Return the committed bytes of each block, one after the other, then the free bytes.

    For an elastic pool, which reserves many more addresses than it has bytes: a map of its
    addresses would be almost empty. A block without an owner gets the number -1, because its
    bytes are not free.
    """
    parts, end = [], 0
    for usage in usages:
        if usage.committed:
            parts.append(Segment(end, usage.committed, owners.get(usage.block, -1)))
            end += usage.committed
    return [*parts, Segment(end, capacity - end, None)] if end < capacity else parts


@dataclass(frozen=True, slots=True)
class ArenaMap:
    """Draws an arena as rows of characters, as wide as the console.

    Each held segment has a colour, or a fill character on a console without colours, and
    begins with the number of its session if that fits. Each character shows what is in the
    middle of its range of bytes.

    Parameters
    ----------
    parts : list of Segment
        In address order, from 0 on, without gaps.
    rows : int
    """

    parts: list[Segment]
    rows: int = 8

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the rows and a legend."""
        width = max(options.max_width, 1)
        marks = _marks(console, options)
        signs = list(self._signs(width * self.rows, marks))
        for start in range(0, len(signs), width):
            yield Text.assemble(*signs[start : start + width])
        size = format_size(self._capacity() / len(signs))
        yield Text(f"one character is {size}; numbers are sessions, {marks.free} is free", "dim")

    def _capacity(self) -> int:
        return self.parts[-1].offset + self.parts[-1].size

    def _signs(self, count: int, marks: _Marks) -> Iterator[tuple[str, str]]:
        """Yield each character with its style."""
        starts = [part.offset for part in self.parts]
        middles = ((2 * sign + 1) * self._capacity() // (2 * count) for sign in range(count))
        shown = (self.parts[bisect.bisect_right(starts, middle) - 1] for middle in middles)
        for part, same in itertools.groupby(shown):
            length = len(list(same))
            if part.owner is None:
                yield from [(marks.free, "dim")] * length
                continue
            style = f"black on {marks.colours[part.owner % len(marks.colours)]}"
            label = f"{marks.first}{part.owner}"
            label = label if len(label) <= length and part.owner >= 0 else marks.first
            yield from [(sign, style) for sign in label.ljust(length, marks.fill)]


class _Marks(NamedTuple):
    """The characters and colours that a console can show."""

    first: str
    fill: str
    free: str
    colours: tuple[str, ...]


def _marks(console: Console, options: ConsoleOptions) -> _Marks:
    many = console.color_system in {"256", "truecolor"}
    colours = _COLOURS if many else _FEW_COLOURS
    if options.ascii_only:
        return _Marks("|", "=", ".", colours)
    if console.color_system is None or console.no_color:
        return _Marks("▕", "░", "·", colours)
    return _Marks("▏", " ", "·", colours)
