"""The calls of libc that the arena needs, typed, with errors as `OSError`. Linux only."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys

import numpy as np

from kvpool.descriptors import Descriptor

assert sys.platform == "linux", "imported on Linux only"  # type checkers rely on it too

__all__ = [
    "FALLOC_FL_KEEP_SIZE",
    "FALLOC_FL_PUNCH_HOLE",
    "MADV_POPULATE_WRITE",
    "MAP_FIXED",
    "MAP_NORESERVE",
    "MAX_NODES",
    "MFD_CLOEXEC",
    "MFD_HUGETLB_2MB",
    "MLOCK_ONFAULT",
    "MPOL_BIND",
    "NUMA_SYSCALLS",
    "PROT_NONE",
    "advise_huge",
    "bind_to_node",
    "leave_out_of_dumps",
    "lock",
    "map_over",
    "map_private",
    "map_shared",
    "memfd",
    "populate",
    "punch_hole",
]

# What Python's own modules lack; from the kernel's headers, for all machines
# named below, and equal on them unless it is said.
PROT_NONE = 0
MAP_FIXED = 0x10
MAP_NORESERVE = 0x40 if platform.machine().startswith("ppc") else 0x4000
MADV_POPULATE_WRITE = 23
MFD_CLOEXEC = 0x1
MFD_HUGETLB_2MB = 0x4 | (21 << 26)  # the size of the pages is given as its logarithm
FALLOC_FL_KEEP_SIZE = 0x1
FALLOC_FL_PUNCH_HOLE = 0x2
MLOCK_ONFAULT = 0x1
MPOL_BIND = 2

NUMA_SYSCALLS = {"x86_64": 237, "aarch64": 235, "riscv64": 235, "ppc64le": 259, "s390x": 268}
"""Number of the system call ``mbind``, which libc does not wrap, by machine."""

MAX_NODES = 1024  # the kernel's own limit on every machine
_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)
# One array type for all calls: a type made in each call would stay for ever.
_NodeMask = ctypes.c_ulong * (MAX_NODES // _BITS)

_libc = ctypes.CDLL(None, use_errno=True)

_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_madvise = _libc.madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_mlock2 = _libc.mlock2
_mlock2.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
_memfd_create = _libc.memfd_create
_memfd_create.argtypes = (ctypes.c_char_p, ctypes.c_uint)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_MAP_FAILED = ctypes.c_void_p(-1).value
_address_of, _first_byte = ctypes.addressof, ctypes.c_char.from_buffer


def _check(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def memfd(name: bytes, flags: int = 0) -> Descriptor:
    """Create an empty file in memory."""
    # Not os.memfd_create, which interpreters built for an old libc lack.
    created = Descriptor(_memfd_create, name, MFD_CLOEXEC | flags)
    _check(created.number)
    return created


def _map(address: int, length: int, kind: int, descriptor: int, offset: int = 0) -> None:
    """Map a file in place of what is mapped at an address, readable and writable."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    if _mmap(address, length, protection, kind | MAP_FIXED, descriptor, offset) == _MAP_FAILED:
        _check(-1)


def map_shared(descriptor: int, length: int, alignment: int) -> tuple[mmap.mmap, int]:
    """Map a file from its start, readable and writable.

    Parameters
    ----------
    descriptor : int
        The file.
    length : int
        Bytes; whole pages.
    alignment : int
        The address is a multiple of this, a multiple of the page size.

    Returns
    -------
    mmap.mmap
        Owns the addresses: with it, all that is mapped there is unmapped. It does not know that
        a file is mapped there, so the bytes cannot be used through it.
    int
        The address.
    """
    # The kernel only aligns to pages: reserve more.
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    owner = mmap.mmap(-1, length + alignment - mmap.PAGESIZE, kind, PROT_NONE)
    start: int = np.frombuffer(owner, np.uint8).ctypes.data
    address = -(-start // alignment) * alignment
    _map(address, length, mmap.MAP_SHARED, descriptor)
    return owner, address


def map_private(descriptor: int, offset: int, length: int) -> mmap.mmap:
    """Map whole pages of a file copy-on-write.

    The pages count against memory when they are written, not before: a mapping may be larger
    than what there is.

    Returns
    -------
    mmap.mmap
        Shows the pages, and owns their mapping.
    """
    # Not mapped by the standard library, which keeps a descriptor for each mapping of a file
    # before Python 3.13. But it owns the addresses: an address that only a variable holds would
    # be lost in an interrupt.
    kind = mmap.MAP_PRIVATE | MAP_NORESERVE
    owner = mmap.mmap(-1, length, kind | mmap.MAP_ANONYMOUS)
    _map(_address_of(_first_byte(owner)), length, kind, descriptor, offset)
    return owner


def map_over(address: int, length: int, descriptor: int) -> None:
    """Map a file from its start, copy-on-write, in place of what is mapped at an address."""
    _map(address, length, mmap.MAP_PRIVATE | MAP_NORESERVE, descriptor)


def punch_hole(descriptor: int, offset: int, nbytes: int) -> None:
    """Free a range of a file, which reads zero then; every mapping of it sees that.

    Unlike ``MADV_REMOVE``, which does the same, it works on locked pages too.
    """
    _check(_fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, nbytes))


def advise_huge(address: int, length: int) -> None:
    """Ask for transparent huge pages in a range."""
    _check(_madvise(address, length, mmap.MADV_HUGEPAGE))


def leave_out_of_dumps(address: int, length: int) -> None:
    """Keep a range out of core dumps, which would walk through all its addresses."""
    _check(_madvise(address, length, mmap.MADV_DONTDUMP))


def populate(address: int, length: int) -> None:
    """Commit all pages of a range; ``EINVAL`` on kernels before 5.14."""
    _check(_madvise(address, length, MADV_POPULATE_WRITE))


def lock(address: int, length: int) -> None:
    """Keep the pages of a range in RAM, each from its first touch on."""
    _check(_mlock2(address, length, MLOCK_ONFAULT))


def bind_to_node(address: int, length: int, node: int) -> None:
    """Take the pages of a range from one NUMA node and from no other."""
    mask = _NodeMask()
    mask[node // _BITS] = 1 << node % _BITS
    _check(
        _syscall(
            ctypes.c_long(NUMA_SYSCALLS[platform.machine()]),
            ctypes.c_void_p(address),
            ctypes.c_ulong(length),
            ctypes.c_ulong(MPOL_BIND),
            mask,
            ctypes.c_ulong(MAX_NODES),
            ctypes.c_ulong(0),
        )
    )
