"""An arena over a mapping of the standard library."""

from __future__ import annotations

import errno
import mmap
import sys
from typing import TYPE_CHECKING

from kvpool.arena import Arena
from kvpool.errors import ArenaError

if TYPE_CHECKING:
    from kvpool.arena import ArenaInfo

__all__ = ["MmapArena", "remove_pages", "why"]


class MmapArena(Arena):
    """An arena over a shared mapping; see `Arena` for the contract.

    A view keeps the mapping alive, and the mapping unmaps itself when the last view is gone.
    So `close` only lets go: `mmap.close` would refuse while there are views.
    """

    def __init__(self, mapping: mmap.mmap, info: ArenaInfo) -> None:
        self._mapping: mmap.mmap | None = mapping
        self._info = info

    @property
    def info(self) -> ArenaInfo:
        """What this arena is."""
        return self._info

    @property
    def buffer(self) -> memoryview:
        """All bytes."""
        return memoryview(self._open_mapping())

    def close(self) -> None:
        """Let go of the mapping."""
        self._mapping = None

    def _decommit(self, offset: int, nbytes: int) -> None:
        try:
            remove_pages(self._open_mapping(), offset, nbytes)
        except OSError as error:
            raise ArenaError(
                f"cannot decommit [{offset}, {offset + nbytes}): {why(error)}"
            ) from error

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


def why(error: OSError) -> str:
    """Return the reason of a system error with the name of its number."""
    return f"{errno.errorcode.get(error.errno or 0, 'error')}: {error.strerror or error}"
