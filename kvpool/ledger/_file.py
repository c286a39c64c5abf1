"""`LedgerFile`: one file of a ledger, open for appending."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import NamedTuple

from kvpool.ledger._lines import MAX_LINE
from kvpool.ledger._lock import lock_for_writing
from kvpool.receipts.errors import DamagedLedgerError, LedgerError

__all__ = ["LedgerFile", "Tail", "sync_directory"]


class Tail(NamedTuple):
    """The end of a file."""

    last: bytes | None
    """The last whole line, without its end; None where there is none."""

    torn: bytes
    """What stands behind the last line end."""


class LedgerFile:
    """A file that is appended to line by line; readable by its owner only where it is new.

    Parameters
    ----------
    path : Path
        Made if it is missing.

    Raises
    ------
    LedgerError
        It cannot be opened.

    Attributes
    ----------
    size : int
        Bytes of the whole lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        try:
            # Without a buffer: a line is with the operating system before `append` returns.
            self._file = io.FileIO(os.open(path, flags, 0o600), "rb+")
        except OSError as error:
            raise LedgerError(f"cannot open the ledger {path}: {error}") from error
        self.size = os.fstat(self._file.fileno()).st_size
        self._torn = False  # whether there may be bytes behind `size`

    def lock(self) -> None:
        """Keep other writers away until the file is closed.

        Raises
        ------
        LedgerLockedError
        """
        lock_for_writing(self._file.fileno(), self.path)
        self.size = os.fstat(self._file.fileno()).st_size

    def first_line(self) -> bytes:
        """Return the first line without its end, or what is there of it."""
        self._file.seek(0)
        return self._read(MAX_LINE + 1).partition(b"\n")[0]

    def tail(self) -> Tail:
        """Look at the end of the file.

        Raises
        ------
        DamagedLedgerError
            There is no line end where one must be.
        """
        window = min(self.size, 2 * MAX_LINE + 2)
        self._file.seek(self.size - window)
        *lines, torn = self._read(window).split(b"\n")
        if len(torn) > MAX_LINE or (window < self.size and len(lines) < 2):
            raise DamagedLedgerError(
                f"the end of {self.path} is no ledger: a line has at most {MAX_LINE} bytes"
            )
        return Tail(lines[-1] if lines else None, torn)

    def append(self, raw: bytes) -> None:
        """Write a line; its end is added.

        Raises
        ------
        OSError
            The caller then has to `roll_back` what may be there of the line.
        """
        if self._torn:
            self.cut(self.size)
        data = memoryview(raw + b"\n")
        while data:
            data = data[self._file.write(data) or 0 :]
        self.size += len(raw) + 1

    def cut(self, size: int) -> None:
        """Drop what stands behind the first `size` bytes.

        Raises
        ------
        OSError
        """
        self._file.truncate(size)
        self.size, self._torn = size, False

    def roll_back(self, size: int) -> None:
        """Drop what stands behind the first `size` bytes, now or before the next line."""
        self.size, self._torn = size, True
        with contextlib.suppress(OSError):
            self.cut(size)

    def sync(self) -> None:
        """Wait until the file is on its disk.

        Raises
        ------
        OSError
        """
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; this ends its lock."""
        self._file.close()

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (more := self._file.read(count - len(data))):
            data += more
        return data


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on its disk, where the system can do that."""
    if sys.platform != "win32":
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
