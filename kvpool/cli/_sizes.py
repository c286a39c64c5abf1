"""Sizes in bytes as people write and read them."""

from __future__ import annotations

import re

import typer

__all__ = ["format_size", "parse_size"]

_UNITS: dict[str, int] = {
    "": 1,
    "B": 1,
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
}
_BY_LOWER_CASE = {unit.lower(): factor for unit, factor in _UNITS.items()}


def parse_size(text: str) -> int:
    """Return the bytes that a text like ``512MiB``, ``1.5 GiB`` or ``65536`` means.

    Raises
    ------
    typer.BadParameter
        It means none, or no whole number of them.
    """
    match = re.fullmatch(r"\s*(\d+)(?:\.(\d+))?\s*([a-z]*)\s*", str(text), re.ASCII | re.IGNORECASE)
    factor = _BY_LOWER_CASE.get(match[3].lower()) if match else None
    if match is None or factor is None:
        units = ", ".join(unit for unit in _UNITS if unit)
        raise typer.BadParameter(f"{text!r} is no size: a number and one of {units}")
    decimals = match[2] or ""
    scaled = int(match[1] + decimals) * factor  # whole numbers: a float would round
    nbytes, rest = divmod(scaled, int("1" + "0" * len(decimals)))
    if rest:
        raise typer.BadParameter(f"{text!r} is no whole number of bytes")
    return nbytes


def format_size(nbytes: float) -> str:
    """Return a number of bytes with the unit that leaves one to four digits before the point.

    Examples
    --------
    >>> format_size(536870912), format_size(1000)
    ('512.0 MiB', '1000 B')
    """
    if nbytes < 1024:
        return f"{nbytes:.0f} B"
    size = float(nbytes)
    for prefix in "KMG":
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {prefix}iB"
    return f"{size / 1024:.1f} TiB"
