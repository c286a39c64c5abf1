"""The contract of `kvpool.arena.Arena` as tests."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from kvpool.arena import MIN_ALIGNMENT, Arena
from kvpool.backends import registry
from kvpool.errors import ArenaError, ForkedProcessError, InvalidOptionError, KVPoolError
from kvpool.testing._process import run_in_child
from kvpool.testing._suites.arena_suite import CYCLE_BYTES, CYCLES, PAGES, as_array, pattern
from kvpool.testing._suites.elastic import ElasticConformance
from kvpool.testing._suites.forks import ForkConformance

__all__ = ["ArenaConformance"]


class ArenaConformance(ElasticConformance, ForkConformance):
    """Tests that every backend must pass. Subclass it in a test module, and set `backend`.

    Attributes
    ----------
    backend : str
        Name of the backend.
    options : mapping of str to object
        Options for each arena.

    Notes
    -----
    Override `create_arena` if arenas need more, for example a separate path for each.
    """

    # -- properties ------------------------------------------------------------------------

    def test_info_describes_the_arena(self, arena: Arena, page_size: int) -> None:
        """`info` has the right backend and size, and only the announced capabilities."""
        info = arena.info
        assert info.backend == self.backend
        assert info.size == PAGES * page_size
        assert info.page_size.bit_count() == 1
        assert info.alignment.bit_count() == 1
        assert info.alignment >= MIN_ALIGNMENT
        announced = registry.choose(self.backend).capabilities
        assert info.capabilities | announced == announced

    @pytest.mark.parametrize("size", [1, 63, 64, 4095, 4097, 3 * 65536 + 17])
    def test_size_is_exactly_what_was_asked_for(self, size: int) -> None:
        """Any size works, and the last byte is writable."""
        with contextlib.closing(self.create_arena(size)) as arena:
            buffer = arena.buffer
            buffer[size - 1] = 255
            assert arena.info.size == buffer.nbytes == size
            assert arena.buffer[size - 1] == 255

    def test_numpy_integer_is_a_size(self) -> None:
        """A NumPy integer is accepted as a size."""
        size: Any = np.int64(4096)
        with contextlib.closing(self.create_arena(size)) as arena:
            assert type(arena.info.size) is int

    @pytest.mark.parametrize("size", [0, -1, -4096, 1.5, "4096", None, True, 1 << 64])
    def test_bad_size_is_refused(self, size: Any) -> None:
        """The error is a `ValueError` of kvpool that shows the size."""
        with pytest.raises(ValueError, match="size") as caught:
            self.create_arena(size)
        assert isinstance(caught.value, KVPoolError)
        assert repr(size) in str(caught.value)

    def test_size_beyond_the_address_space_is_refused(self) -> None:
        """A size that the system cannot map is an error, not a crash."""
        with pytest.raises(ArenaError):
            self.create_arena(1 << 62)

    def test_unknown_option_is_refused(self) -> None:
        """The error names the option and its value."""
        with pytest.raises(InvalidOptionError, match=r"no_such_option.*'a value'"):
            self.create_arena(4096, no_such_option="a value")

    # -- the bytes -------------------------------------------------------------------------

    def test_bytes_are_zero_at_first(self, arena: Arena) -> None:
        """All bytes of a new arena are zero."""
        assert arena.info.zeroed
        assert not as_array(arena).any()

    def test_buffer_is_plain_writable_bytes(self, arena: Arena) -> None:
        """The buffer has the format, dimensions and length of the contract."""
        buffer = arena.buffer
        assert isinstance(buffer, memoryview)
        assert (buffer.format, buffer.itemsize, buffer.ndim) == ("B", 1, 1)
        assert buffer.nbytes == arena.info.size
        assert buffer.c_contiguous
        assert not buffer.readonly

    def test_address_is_aligned_and_stays(self, arena: Arena) -> None:
        """Every buffer starts at the same aligned address."""
        address = as_array(arena).ctypes.data
        assert address % arena.info.alignment == 0
        as_array(arena)[:] = 1
        assert as_array(arena).ctypes.data == address

    def test_many_arenas_are_all_aligned(self) -> None:
        """Arenas that exist at the same time are all aligned."""
        with contextlib.ExitStack() as stack:
            for size in range(1, 4000, 257):
                arena = stack.enter_context(contextlib.closing(self.create_arena(size)))
                assert as_array(arena).ctypes.data % arena.info.alignment == 0

    def test_every_byte_keeps_what_is_written(self, arena: Arena) -> None:
        """Bytes written through one buffer are read through another."""
        expected = pattern(arena.info.size)
        as_array(arena)[:] = expected
        assert np.array_equal(as_array(arena), expected)

    def test_buffers_are_independent(self, arena: Arena) -> None:
        """Releasing one buffer does not affect another."""
        with arena.buffer as first:
            first[0] = 7
        assert arena.buffer[0] == 7

    def test_arenas_share_nothing(self, arena: Arena) -> None:
        """A write to one arena does not change another."""
        with contextlib.closing(self.create_arena(arena.info.size)) as other:
            as_array(arena)[:] = 1
            assert not as_array(other).any()

    def test_threads_write_disjoint_ranges(self, arena: Arena) -> None:
        """Writes of several threads are all kept, each at its place."""
        expected = pattern(arena.info.size)
        bounds = np.linspace(0, arena.info.size, 9, dtype=int).tolist()

        def write(first: int, last: int) -> None:
            for _ in range(20):
                as_array(arena)[first:last] = expected[first:last]

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(write, bounds[:-1], bounds[1:]))
        assert np.array_equal(as_array(arena), expected)

    # -- room for the bytes ------------------------------------------------------------------

    def test_commit_keeps_every_byte(self, arena: Arena, page_size: int) -> None:
        """Pages are there afterwards, at any offsets, and what was written stays."""
        expected = pattern(arena.info.size)
        as_array(arena)[:] = expected
        arena.commit(page_size + 1, 3 * page_size)
        arena.commit(0, 0)
        arena.commit(0, arena.info.size)
        assert np.array_equal(as_array(arena), expected)

    def test_commit_of_a_fresh_arena_reads_zero(self, arena: Arena) -> None:
        """A page that was committed and not written has no one's bytes."""
        arena.commit(0, arena.info.size)
        assert not as_array(arena).any()

    @pytest.mark.parametrize(("offset", "nbytes"), [(-1, 1), (0, -1), (PAGES, 1), (0, PAGES + 1)])
    def test_commit_of_a_bad_range_is_refused(
        self, arena: Arena, page_size: int, offset: int, nbytes: int
    ) -> None:
        """A range (here in pages) that is not inside the arena."""
        with pytest.raises(ArenaError, match="commit"):
            arena.commit(offset * page_size, nbytes * page_size)

    # -- a child of the process --------------------------------------------------------------

    def test_child_is_refused(self, arena: Arena, page_size: int) -> None:
        """In a child of `os.fork` each call raises `ForkedProcessError`; `info` stays."""
        calls: tuple[Callable[[], object], ...] = (
            lambda: arena.buffer,
            lambda: arena.commit(0, page_size),
            lambda: arena.decommit(0, page_size),
            arena.committed_bytes,
            lambda: arena.fork(0, page_size),
        )

        def act() -> str:
            for call in calls:
                with pytest.raises(ForkedProcessError, match=rf"{os.getppid()}.*{os.getpid()}"):
                    call()
            return str(arena.info.size)

        assert run_in_child(act) in (None, str(arena.info.size))

    def test_child_leaves_the_bytes_alone(self, arena: Arena) -> None:
        """What a child writes through a view stays its own; closing there changes nothing here."""
        expected = pattern(arena.info.size)
        view = as_array(arena)
        view[:] = expected

        def act() -> str:
            seen = np.array_equal(view, expected)
            view[:] = 0
            arena.close()
            arena.close()
            gc.collect()
            return f"{seen} {view.any()}"

        assert run_in_child(act) in (None, "True False")
        assert np.array_equal(view, expected)
        assert np.array_equal(as_array(arena), expected)

    def test_child_keeps_views_of_an_arena_that_was_closed(self, page_size: int) -> None:
        """What a child writes through a view of a closed arena stays its own as well."""
        arena = self.create_arena(PAGES * page_size)
        view = as_array(arena)
        view[:] = 1
        arena.close()

        def act() -> str:
            view[:] = 2
            return str(int(view.min()))

        assert run_in_child(act) in (None, "2")
        assert view.max() == 1

    def test_child_has_arenas_of_its_own(self, page_size: int) -> None:
        """An arena that a child creates works there."""

        def act() -> str:
            with contextlib.closing(self.create_arena(page_size)) as arena:
                as_array(arena)[:] = 7
                return str(int(as_array(arena).sum()))

        assert run_in_child(act) in (None, str(7 * page_size))

    # -- the end ---------------------------------------------------------------------------

    def test_closing_twice_is_fine(self, arena: Arena) -> None:
        """The second call does nothing, and `info` stays readable."""
        info = arena.info
        arena.close()
        arena.close()
        assert arena.info == info

    def test_closed_arena_has_no_bytes(self, arena: Arena, page_size: int) -> None:
        """`buffer` and `decommit` raise errors after `close`."""
        arena.close()
        with pytest.raises(ArenaError):
            _ = arena.buffer
        with pytest.raises(ArenaError):
            arena.decommit(0, page_size)
        if arena.info.needs_commit:
            with pytest.raises(ArenaError):
                arena.commit(0, page_size)

    def test_views_survive_close(self, page_size: int) -> None:
        """Views can be read and written after `close`, and after the arena object was deleted."""
        arena = self.create_arena(PAGES * page_size)
        expected = pattern(PAGES * page_size)
        buffer, view = arena.buffer, as_array(arena)
        view[:] = expected
        part = view[page_size:].view(np.int32)
        arena.close()
        del arena, view
        gc.collect()
        assert np.array_equal(buffer, expected)
        part[-1] = 0x01010101
        assert bytes(buffer[-4:]) == b"\1\1\1\1"

    @pytest.mark.parametrize("how", ["closed", "closed with a view", "dropped"])
    def test_cycles_leak_nothing(self, how: str) -> None:
        """Closed arenas keep no descriptor and no memory."""

        def cycle() -> None:
            arena = self.create_arena(CYCLE_BYTES)
            view = as_array(arena)[::4096]
            view[:] = 1
            if how == "closed":
                del view
            if how != "dropped":
                arena.close()

        self._check_leaks(cycle)

    def test_failures_leak_nothing(self) -> None:
        """An arena that could not be created keeps no resources, even while its error is kept."""
        errors: list[ArenaError] = []

        def cycle() -> None:
            for options in ({"no_such_option": 1}, {}):
                try:
                    self.create_arena(1 << 62, **options)
                except ArenaError as error:
                    errors.append(error)

        self._check_leaks(cycle)
        assert len(errors) == 2 * (CYCLES + 1)
