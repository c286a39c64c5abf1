"""What the kernel says of the pages of a pool, to hold against its books."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kvpool.pool import MemoryBlock, MemoryPool

__all__ = ["forks", "kernel_bytes", "private_bytes", "smaps"]

_PRESENT_OR_SWAPPED = np.uint64(0b11 << 62)
_OF_A_FILE = np.uint64(1 << 61)


def forks(pool: MemoryPool) -> Iterator[tuple[MemoryBlock, int, int]]:
    """Yield each fork with the address and the bytes of its mapping."""
    for usage in pool.usage():
        if usage.is_fork and usage.is_live:  # a draining fork cannot be viewed
            view = pool.lease(usage.block)
            yield usage.block, view.ctypes.data, -(-view.nbytes // pool.granule) * pool.granule


def private_bytes(pool: MemoryPool) -> int:
    """Return the bytes of the pages that forks have for themselves, by the page tables."""
    pages = 0
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        for _, address, nbytes in forks(pool):
            pagemap.seek(address // mmap.PAGESIZE * 8)
            words = np.frombuffer(pagemap.read(nbytes // mmap.PAGESIZE * 8), np.uint64)
            own = (words & _PRESENT_OR_SWAPPED != 0) & (words & _OF_A_FILE == 0)
            pages += int(np.count_nonzero(own))
    return pages * mmap.PAGESIZE


def kernel_bytes(pool: MemoryPool) -> int:
    """Return what the kernel has committed for a pool: the arena's pages and the forks' own."""
    committed = pool.committed_bytes()
    assert committed is not None
    return committed + private_bytes(pool)


def smaps(pool: MemoryPool, figure: str) -> int:
    """Return the sum of a figure of ``smaps``, in bytes, over the mappings of forks.

    The kernel may show two neighbours as one mapping, so they are found by the ranges.
    """
    wanted = [(address, address + nbytes) for _, address, nbytes in forks(pool)]
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = int(found[1], 16), int(found[2], 16)
            counts = any(first < end and start < last for first, last in wanted)
        elif counts and (found := re.match(rf"{figure}:\s+(\d+) kB", line)):
            total += int(found[1]) << 10
    return total
