"""The shared parts of the suites for arenas."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from kvpool.arena import Arena
from kvpool.backends import create_arena
from kvpool.testing._process import Holdings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kvpool.arena import ArenaFork

__all__ = ["CYCLES", "CYCLE_BYTES", "PAGES", "ArenaSuite", "as_array", "pattern"]

PAGES = 8
CYCLES = 64
CYCLE_BYTES = 1 << 20


def as_array(arena: Arena | ArenaFork) -> NDArray[np.uint8]:
    """Return all bytes of an arena or of a fork as an array, without a copy."""
    return np.frombuffer(arena.buffer, dtype=np.uint8)


def pattern(size: int) -> NDArray[np.uint8]:
    """Return nonzero bytes that differ after a shift by any number of pages."""
    return (np.arange(size, dtype=np.uint64) * 2654435761 >> 7).astype(np.uint8) | np.uint8(1)


class ArenaSuite:
    """Makes the arenas that the tests of a suite use.

    Attributes
    ----------
    backend : str
        Name of the backend.
    options : mapping of str to object
        Options for each arena.
    """

    backend: ClassVar[str]
    options: ClassVar[Mapping[str, object]] = {}

    def create_arena(self, size: int, **options: object) -> Arena:
        """Create a new arena of `size` bytes; `options` override those of the class."""
        return create_arena(size, self.backend, **{**self.options, **options})

    @pytest.fixture
    def page_size(self) -> int:
        """Return the page size of these arenas, in bytes."""
        with contextlib.closing(self.create_arena(1)) as arena:
            return arena.info.page_size

    @pytest.fixture
    def arena(self, page_size: int) -> Iterator[Arena]:
        """Return an arena of `PAGES` pages."""
        with contextlib.closing(self.create_arena(PAGES * page_size)) as arena:
            yield arena

    def _check_leaks(self, cycle: Any) -> None:
        """Run `cycle` many times, and check that the resources of the process do not grow."""
        cycle()  # the first use loads modules and fills caches
        before = Holdings.now()
        for _ in range(CYCLES):
            cycle()
        after = Holdings.now()
        for what, limit in (
            ("descriptors", CYCLES // 2),
            ("mappings", CYCLES // 2),
            ("mapped_bytes", CYCLES * CYCLE_BYTES // 2),
        ):
            held, holds = getattr(before, what), getattr(after, what)
            if held is not None:
                assert holds - held < limit, f"{what} grew from {held} to {holds}"
