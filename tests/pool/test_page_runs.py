"""Which pages of a block are there: levels, floors, and what a write is yet to be charged."""

from __future__ import annotations

import pytest

from kvpool.layout import KVLayout, Packing
from kvpool.pool._pages import PageRuns

PAGE = 4096
LAYOUT = KVLayout(layers=3, kv_heads=2, head_dim=256, dtype="float32")  # four tokens in a page
STRIDE = 1024


def runs_of(shown: int = 0, packing: Packing = "head") -> PageRuns:
    layout = KVLayout(3, 2, 256, "float32", packing)
    return PageRuns(layout.geometry(64, PAGE), PAGE, shown)


def test_a_fresh_block_has_no_pages() -> None:
    runs = runs_of()
    assert (runs.charged, runs.levels, list(runs.ranges_above(0))) == (0, [0, 0, 0], [])


@pytest.mark.parametrize(("nbytes", "pages"), [(0, 0), (1, 1), (4096, 1), (4097, 2)])
def test_pages_of_bytes(nbytes: int, pages: int) -> None:
    assert runs_of().pages(nbytes) == pages


def test_a_write_is_charged_by_group() -> None:
    runs = runs_of()
    assert runs.missing([1], 0, 5 * STRIDE) == 2 * 4 * PAGE
    runs.commit([1], 0, 5 * STRIDE)
    assert (runs.levels, runs.charged) == ([0, 2, 0], 8 * PAGE)
    assert runs.missing([1], 5 * STRIDE, 8 * STRIDE) == 0
    assert runs.missing([0, 1, 2], 0, 8 * STRIDE) == 16 * PAGE
    runs.commit([0, 1, 2], 5 * STRIDE, 9 * STRIDE)
    assert (runs.levels, runs.charged) == ([3, 3, 3], 36 * PAGE)


def test_ranges_are_those_of_the_runs() -> None:
    runs = runs_of()
    runs.commit([1], 0, 9 * STRIDE)
    length = 64 * STRIDE
    assert list(runs.ranges_above(1)) == [
        (offset * length + PAGE, 2 * PAGE) for offset in (2, 3, 8, 9)
    ]
    assert sum(size for _, size in runs.ranges_above(1)) == runs.bytes_above(1)


def test_cut_lowers_levels() -> None:
    runs = runs_of()
    runs.commit([0], 0, 9 * STRIDE)
    runs.commit([1], 0, 1)
    runs.cut(2)
    assert (runs.levels, runs.charged) == ([2, 1, 0], 12 * PAGE)


def test_a_fork_pays_from_the_boundary_page_on() -> None:
    runs = runs_of(shown=6 * STRIDE)
    assert (runs.floor, runs.levels, runs.charged) == (1, [1, 1, 1], 0)
    assert runs.missing([0, 1, 2], 6 * STRIDE, 7 * STRIDE) == 12 * PAGE
    runs.commit([0, 1, 2], 6 * STRIDE, 9 * STRIDE)
    assert (runs.shown, runs.charged) == (6 * STRIDE, 24 * PAGE)


def test_a_fork_that_writes_below_pays_for_all_above() -> None:
    runs = runs_of(shown=12 * STRIDE)
    runs.commit([0], 12 * STRIDE, 13 * STRIDE)
    missing = runs.missing([0], 2 * STRIDE, 3 * STRIDE)
    before = runs.charged
    runs.commit([0], 2 * STRIDE, 3 * STRIDE)
    assert (runs.shown, runs.floor) == (2 * STRIDE, 0)
    assert runs.charged == before + missing == (4 + 3 + 3) * 4 * PAGE


@pytest.mark.parametrize(("packing", "groups", "width"), [("layer", 3, 2), ("token", 1, 1)])
def test_other_packings_have_fewer_runs(packing: Packing, groups: int, width: int) -> None:
    runs = runs_of(packing=packing)
    assert len(runs.levels) == groups
    runs.commit(range(groups), 0, 1)
    assert runs.charged == groups * width * PAGE
