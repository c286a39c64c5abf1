"""Which pages of a block are committed, which inherited, and what a write costs."""

from __future__ import annotations

import pytest

from kvpool.layout import KVLayout, Packing
from kvpool.pool._pages import CommittedPages

PAGE = 4096
LAYOUT = KVLayout(layers=3, kv_heads=2, head_dim=256, dtype="float32")  # four tokens in a page
STRIDE = 1024


def pages_of(inherited: int = 0, packing: Packing = "head") -> CommittedPages:
    layout = KVLayout(3, 2, 256, "float32", packing)
    return CommittedPages(layout.geometry(64, PAGE), PAGE, inherited)


def test_a_fresh_block_has_no_pages() -> None:
    pages = pages_of()
    assert (pages.charged, pages.committed_pages, list(pages.ranges_above(0))) == (0, [0, 0, 0], [])


@pytest.mark.parametrize(("nbytes", "count"), [(0, 0), (1, 1), (4096, 1), (4097, 2)])
def test_pages_of_bytes(nbytes: int, count: int) -> None:
    assert pages_of().pages(nbytes) == count


def test_a_write_is_charged_by_group() -> None:
    pages = pages_of()
    assert pages.missing(1, 0, 5 * STRIDE) == 2 * 4 * PAGE
    pages.commit(1, 0, 5 * STRIDE)
    assert (pages.committed_pages, pages.charged) == ([0, 2, 0], 8 * PAGE)
    assert pages.missing(1, 5 * STRIDE, 8 * STRIDE) == 0
    assert pages.missing(None, 0, 8 * STRIDE) == 16 * PAGE
    pages.commit(None, 5 * STRIDE, 9 * STRIDE)
    assert (pages.committed_pages, pages.charged) == ([3, 3, 3], 36 * PAGE)


def test_ranges_are_those_of_the_stripes() -> None:
    pages = pages_of()
    pages.commit(1, 0, 9 * STRIDE)
    length = 64 * STRIDE
    assert list(pages.ranges_above(1)) == [
        (offset * length + PAGE, 2 * PAGE) for offset in (2, 3, 8, 9)
    ]
    assert sum(size for _, size in pages.ranges_above(1)) == pages.bytes_above(1)


def test_cut_takes_the_pages_above() -> None:
    pages = pages_of()
    pages.commit(0, 0, 9 * STRIDE)
    pages.commit(1, 0, 1)
    pages.cut(2)
    assert (pages.committed_pages, pages.charged) == ([2, 1, 0], 12 * PAGE)


def test_a_fork_pays_from_the_boundary_page_on() -> None:
    pages = pages_of(inherited=6 * STRIDE)
    assert (pages.inherited_pages, pages.committed_pages, pages.charged) == (1, [1, 1, 1], 0)
    assert pages.missing(None, 6 * STRIDE, 7 * STRIDE) == 12 * PAGE
    pages.commit(None, 6 * STRIDE, 9 * STRIDE)
    assert (pages.inherited_bytes, pages.charged) == (6 * STRIDE, 24 * PAGE)


def test_a_fork_that_writes_below_pays_for_all_above() -> None:
    pages = pages_of(inherited=12 * STRIDE)
    pages.commit(0, 12 * STRIDE, 13 * STRIDE)
    missing = pages.missing(0, 2 * STRIDE, 3 * STRIDE)
    before = pages.charged
    pages.commit(0, 2 * STRIDE, 3 * STRIDE)
    assert (pages.inherited_bytes, pages.inherited_pages) == (2 * STRIDE, 0)
    assert pages.charged == before + missing == (4 + 3 + 3) * 4 * PAGE


@pytest.mark.parametrize(("packing", "groups", "width"), [("layer", 3, 2), ("token", 1, 1)])
def test_other_packings_have_fewer_stripes(packing: Packing, groups: int, width: int) -> None:
    pages = pages_of(packing=packing)
    assert len(pages.committed_pages) == groups
    pages.commit(None, 0, 1)
    assert pages.charged == groups * width * PAGE


@pytest.mark.parametrize(
    ("group", "start", "end", "is_there"),
    [
        (0, 0, 2 * PAGE, True),
        (0, 0, 2 * PAGE + 1, False),
        (1, 0, PAGE, True),
        (1, PAGE - 1, PAGE + 1, False),
        (None, 0, PAGE, True),
        (None, 0, PAGE + 1, False),
    ],
)
def test_pages_are_there_up_to_the_last_committed(
    group: int | None, start: int, end: int, is_there: bool
) -> None:
    held = pages_of()
    held.commit(0, 0, 2 * PAGE)
    held.commit(1, 0, 1)
    held.commit(2, 0, 1)
    assert held.has(group, start, end) is is_there


@pytest.mark.parametrize("group", [0, None])
def test_what_a_fork_inherits_is_not_its_own_to_write(group: int | None) -> None:
    held = pages_of(inherited=PAGE + 256)
    held.commit(None, PAGE + 256, 2 * PAGE)
    assert held.has(group, PAGE + 256, 2 * PAGE)
    assert not held.has(group, PAGE + 255, 2 * PAGE)
