"""`Card`: the figures of an object as HTML, for notebooks."""

from __future__ import annotations

import html

__all__ = ["Card"]

_CELL = "text-align: left; padding: 0 1em 0 0"


class Card:
    """A table with a name and a figure in each row.

    Parameters
    ----------
    title : str
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[tuple[str, ...]] = []

    def row(self, *cells: str) -> None:
        """Add a row of texts, the first of which names it."""
        self._rows.append(cells)

    def html(self) -> str:
        """Return the table, in the colours of the page that shows it."""
        rows = "".join(_row(cells) for cells in self._rows)
        return f"<table><caption>{html.escape(self._title)}</caption>{rows}</table>"


def _row(cells: tuple[str, ...]) -> str:
    name, *figures = map(html.escape, cells)
    found = "".join(f'<td style="{_CELL}">{figure}</td>' for figure in figures)
    return f'<tr><th style="{_CELL}" scope="row">{name}</th>{found}</tr>'
