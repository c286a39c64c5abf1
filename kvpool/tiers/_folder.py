"""The directory of a tier on a disk: private, without links, and locked while it is in use."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import Final

from kvpool.errors import TierError

if sys.platform != "win32":
    import fcntl

__all__ = ["Folder"]

_LOCK: Final = "in-use"
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class Folder:
    """A directory with the files of a store, which several processes may use at a time.

    Parameters
    ----------
    path : Path
        Created, for its owner only, unless it is there or `readonly` is True.
    files : sequence of str
        Names of the files of the store.
    readonly : bool

    Raises
    ------
    TierError
        It cannot be created or read; it, or a file in it, is a link, or can be written by others
        than its owner.

    Attributes
    ----------
    path : Path
        Absolute.
    is_alone : bool
        Whether no other process used the store when this one came, and none can come before
        `share` is called. Always False on Windows, and for a reader that may not write.
    """

    def __init__(self, path: Path, files: tuple[str, ...], *, readonly: bool = False) -> None:
        self.path = path.absolute()
        self._files = files
        self._lock: int | None = None
        self.is_alone = False
        try:
            if not readonly:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.check()
            self._open_lock(readonly=readonly)
        except OSError as error:
            raise TierError(f"cannot use the directory {self.path}: {error.strerror}") from error

    def check(self) -> None:
        """Raise `TierError` if the directory, or a file of it, is not private."""
        found = os.lstat(self.path)
        if stat.S_ISLNK(found.st_mode):
            raise TierError(f"{self.path} is a symbolic link; name the directory itself")
        if not stat.S_ISDIR(found.st_mode):
            raise TierError(f"{self.path} is not a directory")
        self._check_private(self.path, found)
        for name in (*self._files, _LOCK):
            file = self.path / name
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(file)
                if not stat.S_ISREG(found.st_mode):
                    raise TierError(f"{file} is a link or not a file; nothing was opened")
                if found.st_nlink > 1:
                    raise TierError(f"{file} has a second name, a hard link; nothing was opened")
                self._check_private(file, found)

    @staticmethod
    def _check_private(path: Path, found: os.stat_result) -> None:
        if sys.platform != "win32" and found.st_mode & _OTHERS_WRITE:
            raise TierError(
                f"{path} can be written by others than its owner (mode "
                f"{stat.S_IMODE(found.st_mode):o}); take that right away with: chmod go-w {path}"
            )

    def _open_lock(self, *, readonly: bool) -> None:
        if sys.platform == "win32":
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._lock = os.open(self.path / _LOCK, flags, 0o600)
        except OSError:
            if readonly:  # a directory that may be read alone
                return
            raise
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_alone = True
        except BlockingIOError:
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def share(self) -> None:
        """Let other processes use the store as well."""
        if sys.platform != "win32" and self._lock is not None:
            self.is_alone = False
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def be_alone(self) -> bool:
        """Keep other processes from using the store, if none does; return whether none does."""
        if sys.platform == "win32" or self._lock is None:
            return False
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_alone = True
        if not self.is_alone:
            fcntl.flock(self._lock, fcntl.LOCK_SH)  # a failed try may have given it up
        return self.is_alone

    def close(self) -> None:
        """Stop using the store; a second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
