"""`LedgerFile`: one file of a ledger, open for appending."""

from __future__ import annotations

import io
import os
import sys
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

from kvpool.descriptors import Descriptor
from kvpool.ledger._lines import MAX_LINE
from kvpool.ledger._lock import lock_for_writing, unlock
from kvpool.receipts.errors import DamagedLedgerError, LedgerError

__all__ = ["LedgerFile", "Tail", "sync_directory", "write_new"]


class Tail(NamedTuple):
    """The end of a file."""

    last: bytes | None
    """The last whole line, without its line end; None if the file has no whole line."""

    torn: bytes
    """The bytes behind the last line end."""


class LedgerFile:
    """A file that is appended to line by line.

    Parameters
    ----------
    path : Path
        Created, readable by its owner only, if it does not exist.

    Raises
    ------
    LedgerError
        The system cannot open the file.

    Attributes
    ----------
    size : int
        Bytes that the file may have. More than its whole lines have, if a write was
        interrupted; `append` then drops the rest first.

    Notes
    -----
    A child that `os.fork` made closes its copy, so that the lock ends with the parent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Without a buffer: a line is with the operating system before `append` returns.
            self._file = io.FileIO(path, "ab+", opener=partial(os.open, mode=0o600))
        except OSError as error:
            raise LedgerError(f"cannot open the ledger {path}: {error}") from error
        self._is_locked = False
        _open_files.add(self)
        self.size = os.fstat(self._file.fileno()).st_size

    def lock(self) -> None:
        """Keep other writers away until the file is closed.

        Raises
        ------
        LedgerLockedError
            The file has another writer.
        """
        lock_for_writing(self._file.fileno(), self.path)
        self._is_locked = True
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
            The last line is longer than a line can be.
        """
        window = min(self.size, 2 * MAX_LINE + 2)
        self._file.seek(self.size - window)
        *lines, torn = self._read(window).split(b"\n")
        if len(torn) > MAX_LINE or (window < self.size and len(lines) < 2):
            raise DamagedLedgerError(
                f"{self.path} does not end as a ledger does: a line has at most {MAX_LINE} bytes"
            )
        return Tail(lines[-1] if lines else None, torn)

    def append(self, raw: bytes, at: int) -> None:
        """Write a line; its line end is added.

        Parameters
        ----------
        raw : bytes
        at : int
            Bytes of all lines before. What stands behind them is dropped first.

        Raises
        ------
        OSError
            The line may be there in part. The next `append` at the same place drops it.
        """
        if self.size != at:
            self.cut(at)
        self.size = at + len(raw) + 1  # before the write, which may end half way
        data = raw + b"\n"
        written = self._file.write(data) or 0
        while written < len(data):
            written += self._file.write(data[written:]) or 0

    def cut(self, size: int) -> None:
        """Drop what stands behind the first `size` bytes.

        Raises
        ------
        OSError
            The system cannot shorten the file.
        """
        self._file.truncate(size)
        self.size = size

    def sync(self) -> None:
        """Wait until the file is on its disk.

        Raises
        ------
        OSError
            The system cannot write the file to its disk.
        """
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file and end its lock; a second call does nothing."""
        if self._is_locked:
            self._is_locked = False
            unlock(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close this process's copy of the file, and leave the lock to the parent process."""
        self._is_locked = False
        self._file.close()

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (more := self._file.read(count - len(data))):
            data += more
        return data


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Create a file with some bytes; after any error or interrupt there is none.

    Parameters
    ----------
    path : Path
    data : bytes
    mode : int
        Permissions.

    Raises
    ------
    FileExistsError
        There is a file already, which stays as it is.
    OSError
        The system cannot write the file.
    """
    create = partial(io.FileIO, path, "xb", opener=partial(os.open, mode=mode))
    made: list[io.FileIO] = []
    try:
        made.extend(starmap(create, ((),)))  # one built-in call: no interrupt comes in between
        with io.BufferedWriter(made[0]) as file:
            file.write(data)
    except BaseException:
        if made:
            path.unlink()
        raise


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on its disk; do nothing on Windows."""
    if sys.platform != "win32":
        with Descriptor(os.open, directory, os.O_RDONLY) as opened:
            os.fsync(opened.number)


_open_files: WeakSet[LedgerFile] = WeakSet()


def _abandon_all() -> None:
    for file in list(_open_files):
        file.abandon()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_abandon_all)
