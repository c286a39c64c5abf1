from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool.errors import DoubleFreeError
from kvpool.pool._allocator import OffsetAllocator
from tests.support.naive_space import NaiveSpace

CAPACITY = 40 * 64


def allocator_with(sizes: list[int], freed: set[int]) -> tuple[OffsetAllocator, NaiveSpace]:
    """Return an allocator and its model: these ranges were taken, those among them freed."""
    allocator, model = OffsetAllocator(CAPACITY), NaiveSpace(CAPACITY, 64)
    offsets = []
    for size in sizes:
        offset = allocator.allocate(size)
        model.take(offset, size)
        offsets.append(offset)
    for index in freed:
        if index < len(offsets):
            allocator.free(offsets[index])
            model.give(offsets[index])
    return allocator, model


@given(
    st.lists(st.integers(1, 256), max_size=10),
    st.sets(st.integers(0, 9)),
    st.data(),
)
def test_freeing_on_paper_foretells_freeing(
    sizes: list[int], freed: set[int], data: st.DataObject
) -> None:
    allocator, model = allocator_with(sizes, freed)
    before = list(allocator.ranges())
    plan = allocator.free_plan()
    for offset in data.draw(st.permutations(sorted(model.live))):
        model.give(offset)
        assert plan.free(offset) == model.hole_around(offset)
    assert list(allocator.ranges()) == before
    allocator.check_integrity()


def test_a_range_is_joined_with_holes_and_with_what_is_freed_on_paper() -> None:
    allocator, _ = allocator_with([64] * 8, {0, 4})
    plan = allocator.free_plan()
    assert plan.free(64) == (0, 128)
    assert plan.free(192) == (192, 320)
    assert plan.free(128) == (0, 320)
    assert plan.free(448) == (448, CAPACITY)


def test_plans_do_not_know_of_each_other() -> None:
    allocator, _ = allocator_with([64, 64, 64], set())
    assert allocator.free_plan().free(0) == (0, 64)
    assert allocator.free_plan().free(64) == (64, 128)


@pytest.mark.parametrize("offset", [0, 32, 128, CAPACITY])
def test_what_is_not_taken_cannot_be_freed_on_paper(offset: int) -> None:
    allocator, _ = allocator_with([64, 64], {0})
    with pytest.raises(DoubleFreeError, match=f"offset {offset}$"):
        allocator.free_plan().free(offset)


def test_a_double_free_on_paper_changes_nothing() -> None:
    allocator, _ = allocator_with([64, 64, 64], set())
    plan = allocator.free_plan()
    plan.free(0)
    with pytest.raises(DoubleFreeError, match=r"offset 0$"):
        plan.free(0)
    assert plan.free(64) == (0, 128)
    assert allocator.live_count == 3
