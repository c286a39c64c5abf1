"""Find the line of a key in a TOML file.

TOML readers give values without their places. This scan knows as much of TOML as a manifest
uses: tables, arrays of tables, keys at the start of a line, and strings over several lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["Path", "line_of", "lines_of"]

Path = tuple[str | int, ...]
"""Keys and indexes that lead to a value, as ``("milestone", 1, "branch")``."""

_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.-]+)\s*\]")
_KEY = re.compile(r"\s*([\w-]+)\s*=")
_LONG_QUOTE = re.compile(r'"""|' + "'''")


def lines_of(text: str) -> dict[Path, int]:
    """Return the line, from 1, of each table and each key of a TOML text."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    quote = ""  # the mark that ends the long string in which a line begins
    for number, line in enumerate(text.splitlines(), 1):
        if not quote:
            if header := _HEADER.match(line):
                table = _table(header[2].split("."), header[1] == "[[", counts)
                found[table] = number
            elif key := _KEY.match(line):
                found[(*table, key[1])] = number
        for mark in _LONG_QUOTE.findall(line):
            quote = "" if mark == quote else quote or mark
    return found


def line_of(found: dict[Path, int], path: Sequence[str | int]) -> int:
    """Return the line of a value, or of the nearest thing around it; 1 if there is none."""
    for end in range(len(path), 0, -1):
        line = found.get(tuple(path[:end]))
        if line is not None:
            return line
    return 1


def _table(names: list[str], in_array: bool, counts: dict[Path, int]) -> Path:
    """Return the path of a table; `counts` has the length of each array of tables so far."""
    path: Path = ()
    for name in names[:-1]:
        path = (*path, name)
        if path in counts:
            path = (*path, counts[path] - 1)
    path = (*path, names[-1])
    if in_array:
        counts[path] = counts.get(path, 0) + 1
        path = (*path, counts[path] - 1)
    return path
