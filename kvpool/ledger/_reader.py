"""Reading ledgers: their files in order, and the lines in them, damaged or not."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kvpool.descriptors import Descriptor
from kvpool.ledger._lines import (
    MAX_LINE,
    Header,
    LedgerLine,
    Rotation,
    decode_line,
)
from kvpool.receipts.canonical import UNREADABLE
from kvpool.receipts.errors import LedgerError

__all__ = ["first_file", "next_file", "open_plain", "read_ledger", "read_lines"]

BUFFER = 1 << 20  # bytes; what is read at once


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, and close it at the end of the ``with`` block.

    Raises
    ------
    LedgerError
        It is something else: a pipe would keep its reader waiting, a device may never end.
    OSError
        The system cannot open it.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with Descriptor(os.open, path, flags) as opened:
        if not stat.S_ISREG(os.fstat(opened.number).st_mode):
            raise LedgerError(f"{path} is not a regular file")
        with open(opened.number, "rb", buffering=BUFFER, closefd=False) as file:
            yield file


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file, each with its line end.

    A line without a line end is torn, and the last one of the file; or it has more than
    `MAX_LINE` bytes, and only its beginning is yielded.
    """
    while raw := file.readline(MAX_LINE + 1):
        yield raw
        if len(raw) > MAX_LINE and not raw.endswith(b"\n"):
            while (rest := file.readline(BUFFER)) and not rest.endswith(b"\n"):
                pass


def first_file(path: Path) -> Path:
    """Return the first file of the ledger at a path, which is that file or its directory.

    Raises
    ------
    LedgerError
        The directory cannot be read, or does not hold the first file of exactly one ledger.
    """
    try:
        if not path.is_dir():
            return path
        firsts = [file for file in sorted(path.iterdir()) if _is_first(file)]
    except OSError as error:
        raise LedgerError(f"cannot read the directory {path}: {error}") from error
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
        A file cannot be read, is not a regular file, or follows itself.
    """
    current: Path | None = first_file(Path(path))
    seen: set[Path] = set()
    while current is not None:
        if current in seen:
            raise LedgerError(f"{current} comes twice in one ledger")
        seen.add(current)
        following = None
        try:
            with open_plain(current) as file:
                for raw in read_lines(file):
                    line = _decode(raw)
                    yield raw.removesuffix(b"\n"), line
                    following = (
                        next_file(current, line.next) if isinstance(line, Rotation) else following
                    )
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
        with open_plain(path) as file:
            line = _decode(file.readline(MAX_LINE + 1))
    except (LedgerError, OSError):
        return False
    return isinstance(line, Header) and line.file == 0
