"""Private mappings of a range of an arena's file, and how many of them a process can have."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

from kvpool.arena import ArenaFork
from kvpool.errors import ArenaError
from kvpool_mmap.errors import why

if sys.platform == "linux":
    import resource

__all__ = ["MmapFork", "fork_limit"]

# Since 3.13, a mapping of the standard library need not keep a descriptor of its file.
_KEEPS_DESCRIPTOR = sys.version_info < (3, 13)


class MmapFork(ArenaFork):
    """A private mapping of the standard library; see `ArenaFork` for the contract.

    Parameters
    ----------
    descriptor : int
        The file of the arena.
    offset, nbytes : int
        Whole pages.

    Raises
    ------
    OSError
        The system refused.
    """

    def __init__(self, descriptor: int, offset: int, nbytes: int) -> None:
        assert sys.platform != "win32", "only arenas on Linux can be forked"
        flags, protection = mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
        if sys.version_info >= (3, 13):
            self._mapping = mmap.mmap(
                descriptor, nbytes, flags, protection, offset=offset, trackfd=False
            )
        else:
            self._mapping = mmap.mmap(descriptor, nbytes, flags, protection, offset=offset)

    @property
    def buffer(self) -> memoryview:
        """All bytes."""
        return memoryview(self._mapping)

    def decommit(self, offset: int, nbytes: int) -> None:
        """Drop the fork's own pages of a range."""
        assert sys.platform == "linux", "only arenas on Linux can be forked"
        try:
            # Not MADV_REMOVE: that is for the file, and this mapping's own pages are none of it.
            self._mapping.madvise(mmap.MADV_DONTNEED, offset, nbytes)
        except OSError as error:
            raise ArenaError(
                f"cannot decommit [{offset}, {offset + nbytes}) of a fork: {why(error)}"
            ) from error


def fork_limit() -> int:
    """Return how many forks may live at a time: half of what the system allows."""
    if sys.platform != "linux":
        return 0
    limits = [_max_mappings()]
    if _KEEPS_DESCRIPTOR:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    return min(limits) // 2


def _max_mappings() -> int:
    """Return the mappings that a process may have; the kernel's default if it does not tell."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 65530
