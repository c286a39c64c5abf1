"""An arena over a memfd that libc maps. Linux only."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import weakref
from typing import TYPE_CHECKING

import numpy as np

from kvpool.arena import Arena, ArenaFork, ForkLimits
from kvpool.errors import ArenaError
from kvpool_ctypes import libc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvpool.arena import ArenaInfo
    from kvpool.descriptors import Descriptor

assert sys.platform == "linux", "imported on Linux only"  # type checkers rely on it too

__all__ = ["CtypesArena", "CtypesFork", "SharedMapping", "why"]


class SharedMapping:
    """Owner of a memfd and of the range where all of it is mapped, until the last view is gone.

    Parameters
    ----------
    memfd : Descriptor
    addresses : mmap.mmap
        From `libc.map_shared`, like `address`.
    address : int
    size : int
        Bytes that views show.
    length : int
        Bytes that are mapped: `size`, rounded up to whole pages.

    Notes
    -----
    `numpy.asarray` of it makes an array that holds it, and so does each view of that array. A
    ctypes array would do so as well, but needs a type for each size, which is never freed.
    """

    def __init__(
        self, memfd: Descriptor, addresses: mmap.mmap, address: int, size: int, length: int
    ) -> None:
        self._memfd = memfd
        self._addresses = addresses
        self.address = address
        self.size = size
        self.length = length
        _shared.add(self)

    @property
    def descriptor(self) -> int:
        """The memfd."""
        return self._memfd.number

    @property
    def __array_interface__(self) -> dict[str, object]:
        return {
            "version": 3,
            "typestr": "|u1",
            "shape": (self.size,),
            "data": (self.address, False),  # not read-only
        }

    def array(self) -> NDArray[np.uint8]:
        """Return all bytes as an array that keeps this mapping."""
        return np.asarray(self, dtype=np.uint8)

    def close(self) -> None:
        """Unmap and close at once; no view may be used any more."""
        _shared.discard(self)
        self._addresses.close()
        self._memfd.close()


_shared: weakref.WeakSet[SharedMapping] = weakref.WeakSet()


def _leave_parent() -> None:
    """Give a child of `os.fork` its own copy of each mapping.

    If the system refuses, the mapping stays shared: no call of the arena writes through it.
    """
    for mapping in list(_shared):
        with contextlib.suppress(OSError):
            libc.map_over(mapping.address, mapping.length, mapping.descriptor)


os.register_at_fork(after_in_child=_leave_parent)


class CtypesFork(ArenaFork):
    """A private mapping; see `ArenaFork` for the contract.

    Parameters
    ----------
    descriptor : int
        The memfd of the arena.
    offset, nbytes : int
        Bytes; whole pages.

    Raises
    ------
    ForkLimitError
        The forks of this process are as many as there may be.
    OSError
        The system refused.
    """

    def __init__(self, descriptor: int, offset: int, nbytes: int) -> None:
        ForkLimits.check(descriptors=False)
        self._mapping = libc.map_private(descriptor, offset, nbytes)
        ForkLimits.add(self._mapping, descriptors=False)

    @property
    def buffer(self) -> memoryview:
        """All bytes."""
        self._check_process()
        return memoryview(self._mapping)

    def decommit(self, offset: int, nbytes: int) -> None:
        """Drop the fork's own pages of a range."""
        self._check_process()
        try:
            self._mapping.madvise(mmap.MADV_DONTNEED, offset, nbytes)
        except OSError as error:
            raise ArenaError(
                f"cannot decommit [{offset}, {offset + nbytes}) of a fork: {why(error)}"
            ) from error


class CtypesArena(Arena):
    """An arena over a memfd; see `Arena` for the contract.

    Parameters
    ----------
    mapping : SharedMapping
        All of the memfd, which closes with it.
    info : ArenaInfo
        What the arena is.
    """

    def __init__(self, mapping: SharedMapping, info: ArenaInfo) -> None:
        self._array: NDArray[np.uint8] | None = mapping.array()
        self._descriptor = mapping.descriptor
        self._info = info

    @property
    def info(self) -> ArenaInfo:
        """What this arena is."""
        return self._info

    @property
    def buffer(self) -> memoryview:
        """All bytes."""
        self._check_process()
        return self._open_array().data

    def close(self) -> None:
        """Let go of the mapping, which views keep."""
        self._array = None

    def _decommit(self, offset: int, nbytes: int) -> None:
        self._open_array()
        try:
            libc.punch_hole(self._descriptor, offset, nbytes)
        except OSError as error:
            raise ArenaError(
                f"cannot decommit [{offset}, {offset + nbytes}): {why(error)}"
            ) from error

    def committed_bytes(self) -> int:
        """Return the bytes of the pages that the memfd has."""
        self._check_process()
        self._open_array()
        return os.fstat(self._descriptor).st_blocks * 512

    def _fork(self, offset: int, nbytes: int) -> CtypesFork:
        self._open_array()
        try:
            return CtypesFork(self._descriptor, offset, nbytes)
        except OSError as error:
            raise ForkLimits.refusal(error, offset, nbytes) from error

    def _open_array(self) -> NDArray[np.uint8]:
        if self._array is None:
            raise ArenaError(f"the ctypes arena of {self._info.size} bytes is closed")
        return self._array


def why(error: OSError) -> str:
    """Return the reason of a system error with the name of its number, and what to do about it."""
    reason = f"{errno.errorcode.get(error.errno or 0, 'error')}: {error.strerror or error}"
    if error.errno == errno.EFBIG:
        reason += " (`ulimit -f` limits files, and memory that can be shared is one: raise it)"
    return reason
