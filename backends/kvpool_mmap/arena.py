"""An arena over a mapping of the standard library."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from typing import TYPE_CHECKING

from kvpool.arena import Arena, ArenaFork, ForkLimits
from kvpool.errors import ArenaError, ArenaFullError
from kvpool_mmap.errors import why
from kvpool_mmap.fork import MmapFork

if TYPE_CHECKING:
    from kvpool.arena import ArenaInfo
    from kvpool_mmap.file import ArenaFile

__all__ = ["FULL", "MmapArena", "remove_pages"]

FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""Numbers of the errors by which a system says that a file system has no room."""


class MmapArena(Arena):
    """An arena over a shared mapping; see `Arena` for the contract.

    Parameters
    ----------
    mapping : mmap.mmap
    info : ArenaInfo
    file : ArenaFile, optional
        The mapped file, if there is one; the mapping keeps it too.

    Notes
    -----
    A view keeps the mapping alive, and the mapping unmaps itself, and closes and unlocks its
    file, when the last view is gone. So `close` only lets go: `mmap.close` would refuse while
    there are views.
    """

    def __init__(self, mapping: mmap.mmap, info: ArenaInfo, file: ArenaFile | None = None) -> None:
        self._mapping: mmap.mmap | None = mapping
        self._info = info
        self._file = file

    @property
    def info(self) -> ArenaInfo:
        """What this arena is."""
        return self._info

    @property
    def buffer(self) -> memoryview:
        """All bytes."""
        self._check_process()
        return memoryview(self._open_mapping())

    def close(self) -> None:
        """Let go of the mapping, and of its file."""
        self._mapping = None
        self._file = None

    def committed_bytes(self) -> int | None:
        """Return the bytes of the pages that the file has; None if there is no file."""
        self._check_process()
        self._open_mapping()
        if self._file is None or sys.platform == "win32":
            return None
        return os.fstat(self._file.descriptor).st_blocks * 512

    def _commit(self, offset: int, nbytes: int) -> None:
        self._open_mapping()
        if not self._info.needs_commit or self._file is None:
            return
        assert sys.platform == "linux", "only arenas on Linux ask for it"
        try:
            os.posix_fallocate(self._file.descriptor, offset, nbytes)
        except OSError as error:
            what = f"cannot commit [{offset}, {offset + nbytes}): {why(error)}"
            if error.errno in FULL:
                raise ArenaFullError(
                    f"{what}; make room on the file system of the arena, or evict sessions"
                ) from error
            raise ArenaError(what) from error

    def _decommit(self, offset: int, nbytes: int) -> None:
        mapping = self._open_mapping()
        try:
            if self._file is None and sys.platform == "linux":
                mapping.madvise(mmap.MADV_DONTNEED, offset, nbytes)  # private memory
            else:
                remove_pages(mapping, offset, nbytes)
        except OSError as error:
            raise ArenaError(
                f"cannot decommit [{offset}, {offset + nbytes}): {why(error)}"
            ) from error

    def _fork(self, offset: int, nbytes: int) -> ArenaFork:
        self._open_mapping()
        if self._file is None:
            raise ArenaError(f"cannot fork [{offset}, {offset + nbytes}): there is no file")
        try:
            return MmapFork(self._file, offset, nbytes)
        except OSError as error:
            raise ForkLimits.refusal(error, offset, nbytes) from error

    def _open_mapping(self) -> mmap.mmap:
        if self._mapping is None:
            raise ArenaError(f"the mmap arena of {self._info.size} bytes is closed")
        return self._mapping


def remove_pages(mapping: mmap.mmap, offset: int, nbytes: int) -> None:
    """Give pages of a shared mapping back, in the mapping and in what it maps.

    ``MADV_DONTNEED`` would only drop this mapping's pages: the file would keep the bytes, and
    show them again.

    Raises
    ------
    OSError
        The file system cannot punch holes, or the system is not Linux.
    """
    if sys.platform == "linux":
        mapping.madvise(mmap.MADV_REMOVE, offset, nbytes)
    else:
        raise OSError(errno.ENOTSUP, "pages are only given back on Linux")
