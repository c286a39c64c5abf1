"""Finding the end of an existing ledger, to continue it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from kvpool.ledger._file import LedgerFile
from kvpool.ledger._lines import (
    ZERO,
    Header,
    LedgerLine,
    Rotation,
    Seal,
    decode_line,
    line_hash,
)
from kvpool.receipts.canonical import UNREADABLE
from kvpool.receipts.errors import DamagedLedgerError, LedgerError

__all__ = ["LedgerEnd", "find_end", "set_aside"]

_BEGINNING = b'{"copy_of":'  # every header begins so, and so does every ledger


@dataclass(slots=True)
class LedgerEnd:
    """The end of a ledger.

    Attributes
    ----------
    file : LedgerFile
        The file to append to.
    index : int
        0 for the first file of the ledger.
    header : Header or None
        The first line of the ledger; None for a new one.
    prev : str
        Hash of the last line.
    ended : bool
        Whether the last segment was ended: by a seal, or by a rotation.
    torn : bytes
        An unfinished line at the end.
    """

    file: LedgerFile
    index: int
    header: Header | None
    prev: str
    ended: bool
    torn: bytes


def find_end(first: LedgerFile) -> LedgerEnd:
    """Follow the rotations of a ledger to its end.

    Parameters
    ----------
    first : LedgerFile
        Its first file. The other files are opened, and all but the last are closed again.

    Raises
    ------
    DamagedLedgerError
        A file is not part of a ledger, or its end is damaged.
    LedgerError
        A file cannot be opened.
    """
    end = LedgerEnd(first, 0, None, ZERO, ended=True, torn=b"")
    files = [first]
    try:
        _follow(end, files)
    except BaseException:
        for file in files[1:]:
            file.close()
        raise
    for file in files[1:-1]:
        file.close()
    return end


def _follow(end: LedgerEnd, files: list[LedgerFile]) -> None:
    """Open one file after the other, and add them to the list."""
    while (following := _look_at(end)) is not None:
        if following in {file.path for file in files}:
            raise DamagedLedgerError(
                f"{end.file.path} names {following} as the next file, which came before"
            )
        end.file = LedgerFile(following)
        end.index += 1
        files.append(end.file)


def _look_at(end: LedgerEnd) -> Path | None:
    """Note how the last file that was found ends; return the file that follows, if any."""
    path = end.file.path
    last, end.torn = end.file.tail()
    if last is None:
        if end.torn[: len(_BEGINNING)] != _BEGINNING[: len(end.torn)]:
            raise DamagedLedgerError(f"{path} is not a ledger: it begins with {end.torn[:40]!r}")
        return None
    header = _decode(path, "first", end.file.first_line())
    if not isinstance(header, Header):
        raise DamagedLedgerError(f"{path} is not a ledger: its first line is not a header")
    if end.header is None:
        end.header = header
    if (header.ledger_id, header.file) != (end.header.ledger_id, end.index):
        raise DamagedLedgerError(
            f"{path} is file {header.file} of the ledger {header.ledger_id}, "
            f"not file {end.index} of {end.header.ledger_id}"
        )
    line = _decode(path, "last", last)
    end.prev = line_hash(last)
    end.ended = isinstance(line, (Seal, Rotation))
    if not isinstance(line, Rotation):
        return None
    if end.torn:
        raise DamagedLedgerError(f"{path} continues after its last line: {end.torn[:40]!r}")
    return path.parent / line.next


def _decode(path: Path, which: str, raw: bytes) -> LedgerLine:
    try:
        return decode_line(raw)
    except UNREADABLE as error:
        raise DamagedLedgerError(
            f"the {which} line of {path} is not a line of a ledger: {error}; nothing was appended"
        ) from None


def set_aside(end: LedgerEnd) -> Path | None:
    """Move an unfinished last line to a file of its own beside the ledger.

    Returns
    -------
    Path or None
        That file; None if there was nothing to move.

    Raises
    ------
    LedgerError
        The operating system refused; the line was not moved.
    """
    if not end.torn:
        return None
    aside = end.file.path.with_name(
        f"{end.file.path.name}.torn-{sha256(end.torn).hexdigest()[:16]}"
    )
    try:
        with open(aside, "wb", opener=partial(os.open, mode=0o600)) as file:
            file.write(end.torn)
            file.flush()
            os.fsync(file.fileno())
        end.file.cut(end.file.size - len(end.torn))
    except OSError as error:
        raise LedgerError(f"cannot set the torn end of {end.file.path} aside: {error}") from error
    return aside
