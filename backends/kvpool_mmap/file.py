"""The file of an arena: one owner, whose lock of the operating system ends with the process."""

from __future__ import annotations

import os
import stat
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from kvpool.descriptors import Descriptor
from kvpool.errors import ArenaError
from kvpool_mmap.errors import why

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["ArenaFile", "live_files", "open_locked", "require_private"]

_ATTEMPTS = 100
"""How often another process may replace a path while it is opened."""

_live: weakref.WeakSet[ArenaFile] = weakref.WeakSet()


class ArenaFile:
    """Owner of the descriptors of a mapped file, which close with the last reference to it.

    Parameters
    ----------
    opened : Descriptor
        The file that is mapped.
    lock : Descriptor, optional
        A second descriptor of the file, opened by itself, which holds the lock. A mapping
        does not refer to it, so a child of `os.fork` can give up its copy.

    Attributes
    ----------
    descriptor : int
    """

    def __init__(self, opened: Descriptor, lock: Descriptor | None = None) -> None:
        self.descriptor = opened.number
        self._opened = opened
        self._lock = lock
        _live.add(self)

    def close(self) -> None:
        """Close the descriptors; a second call does nothing."""
        self._opened.close()
        self.unlock()

    def unlock(self) -> None:
        """Close the descriptor that holds the lock.

        In a child of `os.fork` the parent keeps the lock: it ends when all copies are closed.
        """
        if self._lock is not None:
            self._lock.close()


def live_files() -> Iterator[ArenaFile]:
    """Yield the files that are open in this process."""
    yield from list(_live)


def open_locked(path: Path) -> tuple[ArenaFile, bool]:
    """Open a file for one owner, and create it if it is missing.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    ArenaFile
        Locked until it is closed.
    bool
        Whether the file was created; its owner alone can read it then.

    Raises
    ------
    ArenaError
        The file is not a regular file, has another owner, or cannot be locked.
    OSError
        The file cannot be opened.
    """
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0)
    for _ in range(_ATTEMPTS):
        try:
            lock = Descriptor(os.open, path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            created = True
        except FileExistsError:
            try:
                lock, created = Descriptor(os.open, path, flags), False
            except FileNotFoundError:
                continue  # whose creation failed meanwhile
        try:
            _lock(lock.number, path)
            # An owner whose creation failed may have removed the file before it was locked here.
            opened = _open_again(path, flags, lock)
        except BaseException:
            lock.close()  # now, not when the traceback lets go of it
            raise
        if opened is not None:
            return ArenaFile(opened, lock), created
        lock.close()
    raise ArenaError(f"path={str(path)!r} is replaced by another process again and again")


def _open_again(path: Path, flags: int, lock: Descriptor) -> Descriptor | None:
    """Open the path a second time; None if it is not the locked file any more."""
    try:
        opened = Descriptor(os.open, path, flags)
    except FileNotFoundError:
        return None
    return opened if os.path.samestat(os.fstat(opened.number), os.fstat(lock.number)) else None


def require_private(descriptor: int, path: Path) -> None:
    """Allow only the owner of a file to read and write it.

    Raises
    ------
    ArenaError
        The file has content, and others may read or write it.
    OSError
        The permissions of an empty file cannot be changed.
    """
    if sys.platform == "win32":  # has no such permissions
        return
    status = os.fstat(descriptor)
    mode = stat.S_IMODE(status.st_mode)
    if not mode & 0o077:
        return
    if status.st_size:
        raise ArenaError(
            f"path={str(path)!r} can be read or written by other users (mode {mode:04o}); "
            f"check its content, then run: chmod 600 {path}"
        )
    os.fchmod(descriptor, 0o600)


def _lock(descriptor: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise ArenaError(f"path={str(path)!r} is not a regular file")
    try:
        if sys.platform == "win32":
            # A byte far behind the end, because a locked byte cannot be used by others here.
            os.lseek(descriptor, 1 << 40, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        holder = _holder(descriptor)
        who = "another arena" if holder is None else f"an arena of process {holder}"
        if holder == os.getpid():
            who += ", which is this one"
        raise ArenaError(
            f"path={str(path)!r} is in use by {who}; close that arena and drop its views, "
            "or take another path"
        ) from error
    except OSError as error:
        raise ArenaError(f"path={str(path)!r} cannot be locked: {why(error)}") from error


def _holder(descriptor: int) -> int | None:
    """Return the process that holds the lock of a file; None if the system does not tell."""
    inode = str(os.fstat(descriptor).st_ino)
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in locks:  # number: FLOCK ADVISORY WRITE process device:device:inode 0 EOF
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
            return int(words[4]) if words[4].isdecimal() and words[4] != "0" else None
    return None
