"""The calls of libc: mappings that are aligned, and nothing left of one that fails."""

from __future__ import annotations

import mmap
import os
import sys

import pytest

from kvpool.testing import Holdings
from tests.support.process_usage import assert_nothing_is_left, mapped

if sys.platform == "linux":
    from kvpool_ctypes import libc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the backend is for Linux")

PAGE = mmap.PAGESIZE
HUGE = 2 << 20


def test_constants_are_those_of_this_python() -> None:
    for name in ("MFD_CLOEXEC", "FALLOC_FL_KEEP_SIZE", "FALLOC_FL_PUNCH_HOLE"):
        assert getattr(os, name, getattr(libc, name)) == getattr(libc, name)
    if hasattr(os, "MFD_HUGE_2MB"):
        assert libc.MFD_HUGETLB_2MB == os.MFD_HUGETLB | os.MFD_HUGE_2MB


def test_mapping_is_aligned_and_as_long_as_asked_for() -> None:
    """Without huge pages too: the kernel aligns nothing to them by itself."""
    memfd = libc.memfd(b"kvpool")
    os.ftruncate(memfd.number, 3 * PAGE)
    found = [libc.map_shared(memfd.number, 3 * PAGE, HUGE) for _ in range(10)]
    assert [address % HUGE for _, address in found] == [0] * 10
    ranges = [f"{address:x}-{address + 3 * PAGE:x}" for _, address in found]
    assert sorted(line.split()[0] for line in mapped("memfd:kvpool")) == sorted(ranges)
    del found, memfd
    assert_nothing_is_left()


def test_failed_mapping_reserves_nothing() -> None:
    descriptor = os.open("/proc/self/exe", os.O_RDONLY)
    before = Holdings.now().mapped_bytes
    with pytest.raises(OSError, match="Permission denied"):
        libc.map_shared(descriptor, 1 << 40, HUGE)
    os.close(descriptor)
    after = Holdings.now().mapped_bytes
    assert before is not None
    assert after is not None
    assert after - before < 1 << 39
