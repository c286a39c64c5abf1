"""One writer for each ledger: a lock of the operating system on its first file.

The lock ends with the process, however that ends, and leaves no file behind.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kvpool.receipts.errors import LedgerLockedError

__all__ = ["lock_for_writing", "unlock"]

if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> None:
        # A byte far behind the end, because other processes cannot read locked bytes here.
        os.lseek(fd, 1 << 40, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    def unlock(fd: int) -> None:
        """Do nothing: the lock ends when the file is closed."""

else:
    import fcntl

    def _try_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock(fd: int) -> None:
        """End the lock, even if a child process still has a copy of the open file."""
        fcntl.flock(fd, fcntl.LOCK_UN)


def lock_for_writing(fd: int, path: Path) -> None:
    """Lock an open file until it is closed.

    Raises
    ------
    LedgerLockedError
        Another writer, in this process or another one, holds the lock.
    """
    try:
        _try_lock(fd)
    except OSError as error:
        raise LedgerLockedError(
            f"the ledger {path} is being written by another writer: a ledger has one ({error})"
        ) from error
