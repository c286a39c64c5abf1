"""The calls of libc that the arena needs, typed, with errors as `OSError`. Linux only."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys

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
    "discard",
    "leave_out_of_dumps",
    "lock",
    "map_over",
    "map_private",
    "map_shared",
    "memfd",
    "populate",
    "punch_hole",
    "unmap",
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
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
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


def _check(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def memfd(name: bytes, flags: int = 0) -> int:
    """Create an empty file in memory, and return its descriptor."""
    # Not os.memfd_create, which interpreters built for an old libc lack.
    return _check(_memfd_create(name, MFD_CLOEXEC | flags))


def _map(
    address: int | None,
    length: int,
    protection: int,
    flags: int,
    descriptor: int,
    offset: int = 0,
) -> int:
    mapped: int | None = _mmap(address, length, protection, flags, descriptor, offset)
    if mapped is None or mapped == _MAP_FAILED:
        _check(-1)
        raise AssertionError("a failed call has an error number")
    return mapped


def map_shared(descriptor: int, length: int, alignment: int) -> int:
    """Map a file from its start, readable and writable, and return the address.

    Parameters
    ----------
    descriptor : int
        The file.
    length : int
        Bytes; whole pages.
    alignment : int
        The address is a multiple of this, a multiple of the page size.
    """
    # The kernel only aligns to pages: reserve more, drop what is not needed, map over the rest.
    reserved = length + alignment - mmap.PAGESIZE
    start = _map(None, reserved, PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    end = start + reserved
    address = -(-start // alignment) * alignment
    try:
        if end > address + length:
            unmap(address + length, end - address - length)
            end = address + length
        if start < address:
            unmap(start, address - start)
            start = address
        protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | MAP_FIXED
        return _map(address, length, protection, flags, descriptor)
    except OSError:
        unmap(start, end - start)
        raise


def map_private(descriptor: int, offset: int, length: int) -> int:
    """Map whole pages of a file copy-on-write, and return the address.

    The pages count against memory when they are written, not before: a mapping may be larger
    than what there is.
    """
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | MAP_NORESERVE
    return _map(None, length, protection, flags, descriptor, offset)


def map_over(address: int, length: int, descriptor: int) -> None:
    """Map a file from its start, copy-on-write, in place of what is mapped at an address."""
    flags = mmap.MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED
    _map(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor)


def unmap(address: int, length: int) -> None:
    """Unmap whole pages."""
    _check(_munmap(address, length))


def punch_hole(descriptor: int, offset: int, nbytes: int) -> None:
    """Free a range of a file, which reads zero then; every mapping of it sees that.

    Unlike ``MADV_REMOVE``, which does the same, it works on locked pages too.
    """
    _check(_fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, nbytes))


def discard(address: int, length: int) -> None:
    """Drop the private pages of a range of a private mapping, which shows its file again."""
    _check(_madvise(address, length, mmap.MADV_DONTNEED))


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
