"""An arena over a mapping of the standard library."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import weakref
from typing import TYPE_CHECKING

from kvpool.arena import Arena, ArenaFork
from kvpool.errors import ArenaError
from kvpool_mmap.errors import why
from kvpool_mmap.fork import MmapFork

if TYPE_CHECKING:
    from kvpool.arena import ArenaInfo

__all__ = ["MmapArena", "remove_pages"]


class MmapArena(Arena):
    """An arena over a shared mapping; see `Arena` for the contract.

    Parameters
    ----------
    mapping : mmap.mmap
    info : ArenaInfo
    descriptor : int, optional
        The mapped file, if there is one; the arena closes it.

    Notes
    -----
    A view keeps the mapping alive, and the mapping unmaps itself when the last view is gone.
    So `close` only lets go: `mmap.close` would refuse while there are views.
    """

    def __init__(self, mapping: mmap.mmap, info: ArenaInfo, descriptor: int | None = None) -> None:
        self._mapping: mmap.mmap | None = mapping
        self._info = info
        self._descriptor = descriptor
        self._close_descriptor = (
            None if descriptor is None else weakref.finalize(self, os.close, descriptor)
        )

    @property
    def info(self) -> ArenaInfo:
        """What this arena is."""
        return self._info

    @property
    def buffer(self) -> memoryview:
        """All bytes."""
        return memoryview(self._open_mapping())

    def close(self) -> None:
        """Let go of the mapping, and close the file."""
        self._mapping = None
        if self._close_descriptor is not None:
            self._close_descriptor()

    def committed_bytes(self) -> int | None:
        """Return the bytes of the pages that the file has; None where there is no file."""
        self._open_mapping()
        if self._descriptor is None or sys.platform == "win32":
            return None
        return os.fstat(self._descriptor).st_blocks * 512

    def _decommit(self, offset: int, nbytes: int) -> None:
        try:
            remove_pages(self._open_mapping(), offset, nbytes)
        except OSError as error:
            raise ArenaError(
                f"cannot decommit [{offset}, {offset + nbytes}): {why(error)}"
            ) from error

    def _fork(self, offset: int, nbytes: int) -> ArenaFork:
        self._open_mapping()
        if self._descriptor is None:
            raise ArenaError(f"cannot fork [{offset}, {offset + nbytes}): there is no file")
        try:
            return MmapFork(self._descriptor, offset, nbytes)
        except OSError as error:
            raise ArenaError(f"cannot fork [{offset}, {offset + nbytes}): {why(error)}") from error

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
