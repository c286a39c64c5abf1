"""The contract of `Capability.FORK` as tests."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kvpool.arena import Capability
from kvpool.backends import registry
from kvpool.errors import ArenaError, ForkedProcessError, UnsupportedError
from kvpool.testing._process import pages_present, run_in_child
from kvpool.testing._suites.arena_suite import CYCLE_BYTES, PAGES, ArenaSuite, as_array, pattern

if TYPE_CHECKING:
    from kvpool.arena import Arena

__all__ = ["ForkConformance"]


class ForkConformance(ArenaSuite):
    """A page of a fork shows the arena until it is written through the fork."""

    def can_fork(self, arena: Arena) -> bool:
        """Return whether an arena has `Capability.FORK`."""
        return Capability.FORK in arena.info.capabilities

    def test_forks_are_there_or_refused(self, arena: Arena, page_size: int) -> None:
        """An arena with forks is elastic, and its limit is at least one fork."""
        if self.can_fork(arena):
            assert arena.info.fork_limit > 0
            assert Capability.ELASTIC in arena.info.capabilities
            buffer = arena.fork(page_size, 2 * page_size).buffer
            assert (buffer.format, buffer.nbytes, buffer.readonly) == ("B", 2 * page_size, False)
        else:
            assert arena.info.fork_limit == 0
            with pytest.raises(UnsupportedError, match=f"{self.backend}.*fork"):
                arena.fork(page_size, 2 * page_size)

    def test_fork_is_private_both_ways(self, arena: Arena, page_size: int) -> None:
        """A fork shows the arena; a write to either of them is not visible in the other."""
        if not self.can_fork(arena):
            return
        view = as_array(arena)
        view[:] = expected = pattern(arena.info.size)
        fork = as_array(arena.fork(page_size, 4 * page_size))
        assert np.array_equal(fork, expected[page_size : 5 * page_size])
        fork[page_size + 7] = 0
        assert np.array_equal(view, expected)
        view[2 * page_size : 3 * page_size] = 0
        shown = expected[page_size : 5 * page_size].copy()
        shown[page_size + 7] = 0
        assert np.array_equal(fork, shown)

    def test_forks_share_nothing_that_they_wrote(self, arena: Arena, page_size: int) -> None:
        """Two forks of one range are independent of each other."""
        if not self.can_fork(arena):
            return
        first, second = (arena.fork(0, 2 * page_size) for _ in range(2))
        as_array(first)[0], as_array(second)[0] = 1, 2
        assert (as_array(first)[0], as_array(second)[0], as_array(arena)[0]) == (1, 2, 0)

    def test_fork_follows_the_arena_until_it_writes(self, arena: Arena, page_size: int) -> None:
        """Pages that the fork has not written show the present bytes of the arena."""
        if not self.can_fork(arena):
            return
        view = as_array(arena)
        view[:] = 1
        fork = as_array(arena.fork(0, 4 * page_size))
        fork[0] = 9
        view[: 2 * page_size] = 2
        arena.decommit(2 * page_size, page_size)
        assert fork[:page_size].tolist() == [9] + [1] * (page_size - 1)
        for page, value in ((1, 2), (2, 0), (3, 1)):
            assert np.all(fork[page * page_size : (page + 1) * page_size] == value)

    def test_own_pages_outlive_those_below(self, arena: Arena, page_size: int) -> None:
        """Pages that a fork has written stay when the arena decommits its own."""
        if not self.can_fork(arena):
            return
        as_array(arena)[:] = 1
        fork = as_array(arena.fork(0, arena.info.size))
        fork[::page_size] = 2
        arena.decommit(0, arena.info.size)
        assert fork.sum() == arena.info.size + PAGES

    def test_decommit_of_a_fork_shows_the_arena_again(self, arena: Arena, page_size: int) -> None:
        """Decommitting a range of a fork drops only the private pages of that range."""
        if not self.can_fork(arena):
            return
        as_array(arena)[:] = 1
        fork = arena.fork(page_size, 4 * page_size)
        view = as_array(fork)
        view[:] = 2
        fork.decommit(page_size, 2 * page_size)
        assert view[:: page_size // 2].tolist() == [2, 2, 1, 1, 1, 1, 2, 2]
        present = pages_present(view.ctypes.data, view.nbytes)
        assert present in (None, view.nbytes // 4096)
        view[page_size] = 3
        assert as_array(arena).max() == 1

    def test_pages_of_forks_are_not_the_arenas(self, arena: Arena, page_size: int) -> None:
        """`committed_bytes` does not count private pages of forks."""
        if not self.can_fork(arena) or arena.committed_bytes() is None:
            return
        arena.decommit(0, arena.info.size)
        as_array(arena)[: 2 * page_size] = 1
        fork = as_array(arena.fork(0, arena.info.size))
        fork[: 2 * page_size] = 2
        assert arena.committed_bytes() == 2 * page_size
        fork[2 * page_size] = 2
        assert arena.committed_bytes() in (2 * page_size, 3 * page_size)
        arena.decommit(0, arena.info.size)
        assert arena.committed_bytes() == 0
        assert fork[: 2 * page_size + 1].min() == 2

    @pytest.mark.parametrize(
        ("offset", "nbytes"),
        [(0.5, 1), (0, 0.5), (-1, 1), (0, -1), (0, 0), (PAGES, 1), (0, PAGES + 1), (PAGES - 1, 2)],
    )
    def test_fork_of_a_bad_range_is_refused(
        self, arena: Arena, page_size: int, offset: float, nbytes: float
    ) -> None:
        """A range (here in pages) that is empty, partial, or outside is an error."""
        view = as_array(arena)
        view[:] = expected = pattern(arena.info.size)
        with pytest.raises(ArenaError, match="fork"):
            arena.fork(int(offset * page_size), int(nbytes * page_size))
        assert np.array_equal(view, expected)

    def test_fork_of_a_closed_arena_is_refused(self, arena: Arena, page_size: int) -> None:
        """A closed arena raises `ArenaError`."""
        arena.close()
        with pytest.raises(ArenaError):
            arena.fork(0, page_size)

    def test_fork_survives_the_arena(self, page_size: int) -> None:
        """A view of a fork can be read and written after arena and fork were deleted."""
        with contextlib.closing(self.create_arena(PAGES * page_size)) as arena:
            if not self.can_fork(arena):
                return
            as_array(arena)[:] = expected = pattern(arena.info.size)
            view = as_array(arena.fork(page_size, 2 * page_size))[5:]
        del arena
        gc.collect()
        assert np.array_equal(view, expected[page_size + 5 : 3 * page_size])
        view[:] = 7
        assert view.sum() == 7 * view.size

    def test_fork_may_be_larger_than_memory(self) -> None:
        """Forking an arena of the size that the backend suggests takes no memory."""
        sparse = registry.choose(self.backend).sparse
        size = sparse(self.options) if sparse is not None else 0
        while size:
            try:
                arena = self.create_arena(size)
            except ArenaError:  # a limit of this process, or of the file system
                size //= 8
                continue
            with contextlib.closing(arena):
                if self.can_fork(arena):
                    view = as_array(arena.fork(0, size // 4))
                    view[-1] = 7
                    assert as_array(arena)[size // 4 - 1] == 0
            return

    def test_child_keeps_what_a_fork_wrote(self, arena: Arena, page_size: int) -> None:
        """In a child of `os.fork` a view of a fork shows the same; calls are refused."""
        if not self.can_fork(arena):
            return
        fork = arena.fork(0, 2 * page_size)
        view = as_array(fork)
        view[:] = 5

        def act() -> str:
            seen = int(view.min())
            view[:] = 6
            for call in (lambda: fork.buffer, lambda: fork.decommit(0, page_size)):
                with pytest.raises(ForkedProcessError):
                    call()
            return str(seen)

        assert run_in_child(act) in (None, "5")
        assert view.max() == 5
        assert as_array(arena).max() == 0

    def test_forks_leak_nothing(self, page_size: int) -> None:
        """Deleted forks keep no descriptor and no memory."""
        size = -(-CYCLE_BYTES // page_size) * page_size
        with contextlib.closing(self.create_arena(size)) as arena:
            if not self.can_fork(arena):
                return

            def cycle() -> None:
                as_array(arena.fork(0, size))[::4096] = 1

            self._check_leaks(cycle)
