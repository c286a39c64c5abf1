"""Private mappings of a range of an arena's file."""

from __future__ import annotations

import mmap
import sys
from typing import TYPE_CHECKING

from kvpool.arena import ArenaFork
from kvpool.errors import ArenaError
from kvpool_mmap.errors import why
from kvpool_mmap.mapping import map_private

if TYPE_CHECKING:
    from kvpool_mmap.file import ArenaFile

__all__ = ["MmapFork"]


class MmapFork(ArenaFork):
    """A private mapping of the standard library; see `ArenaFork` for the contract.

    Parameters
    ----------
    file : ArenaFile
        The file of the arena.
    offset, nbytes : int
        Bytes; whole pages.

    Raises
    ------
    ForkLimitError
        The forks of this process are as many as there may be.
    OSError
        The system refused.
    """

    def __init__(self, file: ArenaFile, offset: int, nbytes: int) -> None:
        self._mapping = map_private(file, offset, nbytes)

    @property
    def buffer(self) -> memoryview:
        """All bytes."""
        self._check_process()
        return memoryview(self._mapping)

    def decommit(self, offset: int, nbytes: int) -> None:
        """Drop the fork's own pages of a range."""
        assert sys.platform == "linux", "only arenas on Linux can be forked"
        self._check_process()
        try:
            # Not MADV_REMOVE: it would remove pages of the file, not of this mapping.
            self._mapping.madvise(mmap.MADV_DONTNEED, offset, nbytes)
        except OSError as error:
            raise ArenaError(
                f"cannot decommit [{offset}, {offset + nbytes}) of a fork: {why(error)}"
            ) from error
