"""A bar for each session: what it reserves, commits and shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from kvpool.cli._sizes import format_size
from kvpool.cli._tables import Fitted
from kvpool.pool import BlockUsage

__all__ = ["SessionBar", "SessionBars"]

_SHORTEST = 5  # characters of a bar


class SessionBar(NamedTuple):
    """One session.

    Attributes
    ----------
    name : str
    tokens : int or None
        None for a session that was evicted while forks still share its pages.
    usage : BlockUsage
    """

    name: str
    tokens: int | None
    usage: BlockUsage


@dataclass(frozen=True, slots=True)
class SessionBars:
    """Draws a row for each session: figures, and a bar of its reserved range.

    Parameters
    ----------
    sessions : list of SessionBar
        At least one.
    """

    sessions: list[SessionBar]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the table and a legend."""
        marks = _marks(console, options)
        longest = max(bar.usage.block.size for bar in self.sessions)
        # Two characters between columns: so the table fits on 60 columns, and on a phone as SVG.
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True, padding=(0, 1, 0, 0))
        table.add_column("session", no_wrap=True)
        for name in ("tokens", "reserved", "committed", "shared"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("", ratio=1)
        for bar in self.sessions:
            usage = bar.usage
            table.add_row(
                bar.name,
                "-" if bar.tokens is None else f"{bar.tokens:,}",
                *(format_size(n) for n in (usage.block.size, usage.committed, usage.shared)),
                _Bar(usage, usage.block.size / longest, marks),
            )
        yield Fitted(table)
        yield _legend(marks)


class _Marks(NamedTuple):
    """Character and style of each kind of page."""

    own: tuple[str, str]
    shared: tuple[str, str]
    reserved: tuple[str, str]


def _marks(console: Console, options: ConsoleOptions) -> _Marks:
    if options.ascii_only:
        return _Marks(("#", ""), ("%", ""), (".", ""))
    if console.color_system is None or console.no_color:
        return _Marks(("█", ""), ("▒", ""), ("·", ""))
    if console.color_system in {"256", "truecolor"}:
        return _Marks(("▆", "steel_blue1"), ("▆", "light_salmon1"), ("·", "dim"))
    return _Marks(("▆", "bright_cyan"), ("▆", "bright_yellow"), ("·", "dim"))


@dataclass(frozen=True, slots=True)
class _Bar:
    """Shared pages, then private pages, then reserved addresses; as wide as the column."""

    usage: BlockUsage
    length: float  # fraction of the width of the column
    marks: _Marks

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        usage, marks = self.usage, self.marks
        width = max(round(options.max_width * self.length), 1)
        own = usage.committed if usage.is_fork else usage.committed - usage.shared
        private = _characters(own, usage.block.size, width)
        shared = min(_characters(usage.shared, usage.block.size, width), width - private)
        kinds = (
            (marks.shared, shared),
            (marks.own, private),
            (marks.reserved, width - shared - private),
        )
        yield Text.assemble(*((character * count, style) for (character, style), count in kinds))

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(_SHORTEST, options.max_width), options.max_width)


def _characters(part: int, whole: int, width: int) -> int:
    """Return how many characters show a part: at least one unless the part is empty."""
    return max(round(width * part / whole), 1) if part else 0


def _legend(marks: _Marks) -> Text:
    return Text.assemble(
        *(marks.own, " private  ", marks.shared, " shared with a fork  "),
        *(marks.reserved, " reserved: addresses, no memory"),
    )
