"""Sizes in bytes and counts of things, as people write and read them."""

from __future__ import annotations

import typer

from kvpool import _sizes
from kvpool._sizes import format_size

__all__ = ["counted", "format_size", "parse_size"]


def parse_size(text: str) -> int:
    """Return the number of bytes in a text like ``512MiB``, ``1.5 GiB`` or ``65536``.

    Raises
    ------
    typer.BadParameter
        The text is not a number with a known unit, or not a whole number of bytes.
    """
    return _sizes.parse_size(text, typer.BadParameter)


def counted(count: int, name: str, plural: str = "") -> str:
    """Return a number with the name of what is counted.

    Examples
    --------
    >>> counted(1, "line"), counted(2000, "line"), counted(0, "batch", "batches")
    ('1 line', '2,000 lines', '0 batches')
    """
    return f"{count:,} {name if count == 1 else plural or name + 's'}"
