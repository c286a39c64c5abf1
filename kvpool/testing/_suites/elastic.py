"""The contract of `Capability.ELASTIC` as tests."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvpool.arena import Capability
from kvpool.backends import registry
from kvpool.errors import ArenaError, UnsupportedError
from kvpool.testing._process import pages_present
from kvpool.testing._suites.arena_suite import PAGES, ArenaSuite, as_array, pattern

if TYPE_CHECKING:
    from kvpool.arena import Arena

__all__ = ["ElasticConformance"]


class ElasticConformance(ArenaSuite):
    """Pages are committed at the first access, and decommitted on request."""

    def test_decommitted_pages_read_zero(self, arena: Arena, page_size: int) -> None:
        """The pages of the range read zero, also in older views; other pages are unchanged."""
        view = as_array(arena)
        expected = pattern(arena.info.size)
        view[:] = expected
        if Capability.ELASTIC in arena.info.capabilities:
            arena.decommit(2 * page_size, 3 * page_size)
            expected[2 * page_size : 5 * page_size] = 0
        else:
            with pytest.raises(UnsupportedError, match=self.backend):
                arena.decommit(2 * page_size, 3 * page_size)
        assert np.array_equal(view, expected)
        assert np.array_equal(as_array(arena), expected)

    def test_decommitted_pages_can_be_used_again(self, arena: Arena, page_size: int) -> None:
        """A decommitted page is committed again at the next access, repeatedly."""
        if Capability.ELASTIC not in arena.info.capabilities:
            return
        view = as_array(arena)
        for value in (1, 2, 3):
            view[:] = value
            arena.decommit(0, arena.info.size)
            arena.decommit(page_size, page_size)  # nothing is there
            assert not view.any()

    def test_decommit_gives_memory_back(self, arena: Arena, page_size: int) -> None:
        """The operating system counts exactly the pages of the range less."""
        if Capability.ELASTIC not in arena.info.capabilities:
            return
        view = as_array(arena)
        view[:] = 1
        before = pages_present(view.ctypes.data, view.nbytes)
        arena.decommit(page_size, 4 * page_size)
        after = pages_present(view.ctypes.data, view.nbytes)
        if before is not None and after is not None:
            assert before * (PAGES - 4) == after * PAGES

    @pytest.mark.parametrize(
        ("offset", "nbytes"),
        [(0.5, 1), (0, 0.5), (-1, 1), (0, -1), (-1, 2), (PAGES, 1), (0, PAGES + 1), (PAGES - 1, 2)],
    )
    def test_decommit_of_a_bad_range_changes_nothing(
        self, arena: Arena, page_size: int, offset: float, nbytes: float
    ) -> None:
        """A range (here in pages) of partial pages, or outside, is an error without effect."""
        expected = pattern(arena.info.size)
        as_array(arena)[:] = expected
        with pytest.raises(ArenaError):
            arena.decommit(int(offset * page_size), int(nbytes * page_size))
        assert np.array_equal(as_array(arena), expected)

    def test_decommit_beside_writers(self, arena: Arena, page_size: int) -> None:
        """One half is committed and decommitted while a thread writes to the other half."""
        if Capability.ELASTIC not in arena.info.capabilities:
            return
        half = PAGES // 2 * page_size
        expected = pattern(half)

        def come_and_go() -> bool:
            view = as_array(arena)[half:]
            for _ in range(100):
                view[:] = 1
                arena.decommit(half, half)
            return not view.any()

        with ThreadPoolExecutor(1) as thread:
            zeroed = thread.submit(come_and_go)
            for _ in range(100):
                as_array(arena)[:half] = expected
                assert np.array_equal(as_array(arena)[:half], expected)
            assert zeroed.result()

    def test_touched_pages_are_committed(self, arena: Arena, page_size: int) -> None:
        """`committed_bytes` grows with written pages, and falls with decommitted ones."""
        if Capability.ELASTIC not in arena.info.capabilities:
            return
        arena.decommit(0, arena.info.size)  # with some options all pages are there at first
        if arena.committed_bytes() is None:  # the system does not tell
            return
        view = as_array(arena)
        for page, committed in ((5, 1), (1, 2), (5, 2), (2, 3)):
            view[page * page_size + 1] = 1
            assert arena.committed_bytes() == committed * page_size
        arena.decommit(page_size, page_size)
        assert arena.committed_bytes() == 2 * page_size
        arena.decommit(0, arena.info.size)
        assert arena.committed_bytes() == 0

    def test_commit_takes_room_at_once(self, arena: Arena, page_size: int) -> None:
        """If `info.needs_commit` is True, a page takes its room before it is written."""
        if Capability.ELASTIC not in arena.info.capabilities or not arena.info.needs_commit:
            return
        arena.decommit(0, arena.info.size)
        arena.commit(page_size, 2 * page_size)
        assert arena.committed_bytes() in (None, 2 * page_size)
        as_array(arena)[page_size : 3 * page_size] = 1
        assert arena.committed_bytes() in (None, 2 * page_size)
        arena.decommit(page_size, page_size)
        assert arena.committed_bytes() in (None, page_size)

    def test_sparse_arena_costs_what_is_touched(self) -> None:
        """A new arena of the largest sparse size, or of a size that works, holds no pages."""
        sparse = registry.choose(self.backend).sparse
        size = sparse(self.options) if sparse is not None else 0
        while size:
            try:
                arena = self.create_arena(size)
            except ArenaError:  # a limit of this process, or of the file system
                size //= 8
                continue
            with contextlib.closing(arena):
                assert Capability.ELASTIC in arena.info.capabilities
                before = arena.committed_bytes()
                as_array(arena)[-1] = 1
                after = arena.committed_bytes()
                assert (before, after) in ((0, arena.info.page_size), (None, None))
            return
