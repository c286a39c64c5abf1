"""One writer for each ledger: a lock of the operating system on its first file.

The lock ends with the process, however that ends; no file is left behind that would have to
be removed by hand.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kvpool.receipts.errors import LedgerLockedError

__all__ = ["lock_for_writing"]

if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> None:
        # A byte far behind the end, because locked bytes cannot be read by others here.
        os.lseek(fd, 1 << 40, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_for_writing(fd: int, path: Path) -> None:
    """Lock an open file until it is closed.

    Raises
    ------
    LedgerLockedError
        Another writer, in this process or another, holds the lock.
    """
    try:
        _try_lock(fd)
    except OSError as error:
        holder = _holder(fd)
        who = f"process {holder}" if holder else "another writer"
        raise LedgerLockedError(
            f"the ledger {path} is being written by {who}: a ledger has one writer ({error})"
        ) from error


def _holder(fd: int) -> int | None:
    """Return the process that holds the lock, where Linux tells."""
    inode = str(os.fstat(fd).st_ino)
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in locks:  # number: FLOCK ADVISORY WRITE process device:device:inode 0 EOF
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
            return int(words[4]) if words[4].isdecimal() and words[4] != "0" else None
    return None
