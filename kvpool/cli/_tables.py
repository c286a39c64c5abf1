"""Tables whose figures are never cut, however narrow the console is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

__all__ = ["Figure", "Figures", "Fitted"]

Figure = tuple[str, str]
"""The name of a figure, and the figure."""

_WIDE = 10_000  # columns: in a console of this width no cell is folded


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table; or, on a console that is too narrow for its figures, the cells below each other.

    Parameters
    ----------
    table : Table
        Columns with ``no_wrap=True`` must not be cut.
    """

    table: Table

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the table, or a block of lines for each of its rows."""
        if _fits(self.table, console, options):
            yield self.table
            return
        if self.table.title:
            yield Text(f"{self.table.title}", self.table.title_style or "")
        for row, cells in zip(
            self.table.rows, zip(*(one.cells for one in self.table.columns), strict=True),
            strict=True,
        ):  # fmt: skip
            yield from self._block(cells, row.style or "")
        if self.table.show_footer:
            yield from self._block([one.footer for one in self.table.columns], "")

    def _block(self, cells: Sequence[RenderableType], style: object) -> Iterator[RenderableType]:
        """Yield a line for each cell of a row that has a text, then what is drawn in others."""
        lines = Table(box=None, show_header=False, pad_edge=False, style=str(style))
        lines.add_column(overflow="fold")
        lines.add_column(overflow="fold")
        drawn = []
        for column, cell in zip(self.table.columns, cells, strict=True):
            if not isinstance(cell, str | Text):
                drawn.append(cell)
            elif str(cell).strip():
                lines.add_row(Text(f"{column.header}".strip()), cell)
        yield lines
        yield from drawn
        yield ""


@dataclass(frozen=True, slots=True)
class Figures:
    """Groups of figures beside each other; below each other if the console is too narrow.

    Parameters
    ----------
    *groups : sequence of Figure
    """

    groups: tuple[Sequence[Figure], ...]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield one table."""
        beside = _figures(len(self.groups))
        for row in zip_longest(*self.groups, fillvalue=("", "")):
            beside.add_row(*(cell for figure in row for cell in figure))
        if _fits(beside, console, options):
            yield beside
            return
        below = _figures(1)
        for group in self.groups:
            for figure in group:
                below.add_row(*figure)
        yield below


def _figures(groups: int) -> Table:
    table = Table(box=box.SIMPLE, show_header=False)
    for _ in range(groups):
        table.add_column(no_wrap=True)
        table.add_column(style="bold", justify="right", no_wrap=True)
    return table


def _fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    """Tell whether no cell of a table would be cut.

    The least width that a table measures of itself is that of its longest words, also in columns
    that must not wrap.
    """
    count, wide = len(table.columns), options.update(width=_WIDE)
    _, right, _, left = table.padding
    padding = (left + right) * (count if table.pad_edge else count - 1)
    least = padding + count + 1  # and a character between columns and around them
    for column in table.columns:
        sizes = [
            Measurement.get(console, wide, cell)
            for cell in (column.header, column.footer, *column.cells)
        ]
        least += max(one.maximum if column.no_wrap else one.minimum for one in sizes)
    return least <= options.max_width
