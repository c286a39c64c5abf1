"""Mappings of the standard library that keep their file, and what a child of `os.fork` has."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys
import weakref

import numpy as np

from kvpool.arena import ForkLimits
from kvpool_mmap.file import ArenaFile, live_files

__all__ = [
    "KEEPS_DESCRIPTOR",
    "NO_RESERVE",
    "PrivateMapping",
    "SharedMapping",
    "map_private",
    "map_shared",
]

KEEPS_DESCRIPTOR = sys.version_info < (3, 13)
"""Whether a mapping of the standard library keeps a descriptor of its file."""

# The standard library has the name since 3.13; the value is the kernel's.
NO_RESERVE: int = getattr(
    mmap,
    "MAP_NORESERVE",
    0 if sys.platform != "linux" else 0x40 if platform.machine().startswith("ppc") else 0x4000,
)
"""Flag of a mapping whose pages count against memory when they are written, not before."""

_MAP_FIXED = 0x10
_shared: weakref.WeakSet[SharedMapping] = weakref.WeakSet()


class SharedMapping(mmap.mmap):
    """A mapping of a whole file, which it keeps open and locked.

    Attributes
    ----------
    file : ArenaFile
    address : int
    """

    file: ArenaFile
    address: int


class PrivateMapping(mmap.mmap):
    """A private mapping of a part of a file, which it keeps locked.

    Attributes
    ----------
    file : ArenaFile
    """

    file: ArenaFile


def map_shared(file: ArenaFile, size: int) -> SharedMapping:
    """Map a file from its start.

    Parameters
    ----------
    file : ArenaFile
    size : int
        Bytes.

    Raises
    ------
    OSError
        The system refused.
    """
    mapping = SharedMapping(file.descriptor, size)
    mapping.file = file
    mapping.address = np.frombuffer(mapping, np.uint8).ctypes.data
    _shared.add(mapping)
    return mapping


def map_private(file: ArenaFile, offset: int, nbytes: int) -> PrivateMapping:
    """Map whole pages of a file copy-on-write; counted as a fork while the mapping lives.

    Parameters
    ----------
    file : ArenaFile
    offset, nbytes : int
        Bytes; whole pages.

    Raises
    ------
    ForkLimitError
        The forks of this process are as many as there may be.
    OSError
        The system refused.
    """
    assert sys.platform != "win32", "only arenas on Linux can be forked"
    ForkLimits.check(descriptors=KEEPS_DESCRIPTOR)
    flags, protection = mmap.MAP_PRIVATE | NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
    descriptor = file.descriptor
    if sys.version_info >= (3, 13):
        mapping = PrivateMapping(
            descriptor, nbytes, flags, protection, offset=offset, trackfd=False
        )
    else:
        mapping = PrivateMapping(descriptor, nbytes, flags, protection, offset=offset)
    mapping.file = file
    ForkLimits.add(mapping, descriptors=KEEPS_DESCRIPTOR)
    return mapping


if sys.platform != "win32":
    _mmap = ctypes.CDLL(None, use_errno=True).mmap
    _mmap.restype = ctypes.c_void_p
    _mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )

    def _leave_parent() -> None:
        """Give a child its own copy of each mapping, and leave the locks to the parent.

        The standard library cannot map at a given address, so libc does. If the system
        refuses, the mapping stays shared: no call of the arena writes through it.
        """
        flags = mmap.MAP_PRIVATE | _MAP_FIXED | NO_RESERVE
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        for mapping in list(_shared):
            _mmap(mapping.address, len(mapping), protection, flags, mapping.file.descriptor, 0)
        for file in live_files():
            file.unlock()

    os.register_at_fork(after_in_child=_leave_parent)
