"""Marks of tests: where they can run, and with what."""

from __future__ import annotations

import sys

import pytest

__all__ = ["elastic", "needs_pages"]

elastic = pytest.mark.parametrize("backend", ["mmap", "ctypes"])
"""Runs a test with each backend that has elastic arenas."""

needs_pages = pytest.mark.skipif(
    sys.platform != "linux", reason="arenas give pages back and fork on Linux only"
)
"""Skips a test where no arena is elastic."""
