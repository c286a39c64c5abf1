"""Reading ledgers: their files in order, and the lines in them, damaged or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kvpool.ledger._lines import (
    MAX_LINE,
    Header,
    LedgerLine,
    Rotation,
    decode_line,
)
from kvpool.receipts.canonical import UNREADABLE
from kvpool.receipts.errors import LedgerError

__all__ = ["first_file", "next_file", "read_ledger", "read_lines"]


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file, each with its end.

    A line without its end is the last one, and torn; or it has more than `MAX_LINE` bytes,
    and only the first of them come.
    """
    while raw := file.readline(MAX_LINE + 1):
        yield raw
        if len(raw) > MAX_LINE and not raw.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass


def first_file(path: Path) -> Path:
    """Return the first file of the ledger at a path, which is that file or its directory.

    Raises
    ------
    LedgerError
        There is nothing, or the directory does not hold the first file of just one ledger.
    """
    if not path.is_dir():
        return path
    firsts = [file for file in sorted(path.iterdir()) if _is_first(file)]
    if len(firsts) != 1:
        names = ", ".join(file.name for file in firsts) or "none"
        raise LedgerError(f"{path} must hold the first file of one ledger; it holds: {names}")
    return firsts[0]


def next_file(current: Path, name: str) -> Path:
    """Return the file beside another one that a rotation names.

    Raises
    ------
    LedgerError
        The name contains a path, or is not that of a regular file.
    """
    if Path(name).name != name:
        raise LedgerError(f"{name!r} is not the name of a file")
    following = current.parent / name
    if following.exists() and not following.is_file():  # a pipe would keep its reader waiting
        raise LedgerError(f"{following} is not a regular file")
    return following


def read_ledger(path: str | Path) -> Iterator[tuple[bytes, LedgerLine | None]]:
    """Yield the lines of a ledger in order, over all its files.

    Yields
    ------
    tuple of bytes and LedgerLine
        The line without its end, and its contents; None for the contents of a damaged line.

    Raises
    ------
    LedgerError
        A file cannot be read, or follows itself.
    """
    current: Path | None = first_file(Path(path))
    seen: set[Path] = set()
    while current is not None:
        if current in seen:
            raise LedgerError(f"{current} comes twice in one ledger")
        seen.add(current)
        following = None
        try:
            with current.open("rb") as file:
                for raw in read_lines(file):
                    line = _decode(raw)
                    yield raw.removesuffix(b"\n"), line
                    if isinstance(line, Rotation):
                        following = next_file(current, line.next)
        except (OSError, ValueError) as error:  # the latter for a name that the system cannot have
            raise LedgerError(f"cannot read the ledger {current}: {error}") from error
        current = following


def _decode(raw: bytes) -> LedgerLine | None:
    if not raw.endswith(b"\n"):
        return None
    try:
        return decode_line(raw[:-1])
    except UNREADABLE:
        return None


def _is_first(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            line = _decode(file.readline(MAX_LINE + 1))
    except OSError:
        return False
    return isinstance(line, Header) and line.file == 0
