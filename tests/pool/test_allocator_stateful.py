"""The allocator against the naive model, over sequences of operations."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvpool.errors import DoubleFreeError, InvalidSizeError, PoolExhaustedError
from kvpool.pool._allocator import OffsetAllocator
from tests.support.naive_space import NaiveSpace

pytestmark = pytest.mark.no_cover

sizes = st.integers(1, 600)
spaces = st.integers(1, 40) | st.integers(200, 500)  # granules
exponents = st.integers(0, 9)


class AllocatorMachine(RuleBasedStateMachine):
    """Every step is done twice; nothing may differ, and nothing may be damaged."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = OffsetAllocator(1, granule=1)
        self.model = NaiveSpace(1, 1)

    @initialize(granules=spaces, exponent=st.integers(0, 7), rest=st.integers(0, 99))
    def start(self, granules: int, exponent: int, rest: int) -> None:
        granule = 1 << exponent
        capacity = granules * granule
        self.allocator = OffsetAllocator(capacity + rest % granule, granule)
        self.model = NaiveSpace(capacity, granule)

    @rule(nbytes=sizes)
    def allocate(self, nbytes: int) -> None:
        expected = self.model.best_place(nbytes)
        assert self.allocator.fits(nbytes) is (expected is not None)
        if expected is None:
            self.refuse(nbytes, 1)
        else:
            assert self.allocator.allocate(nbytes) == expected
            self.model.take(expected, nbytes)

    @rule(nbytes=sizes, exponent=exponents)
    def allocate_aligned(self, nbytes: int, exponent: int) -> None:
        alignment = 1 << exponent
        places = self.model.places(nbytes, alignment)
        assert self.allocator.fits(nbytes, alignment) is bool(places)
        if not places:
            self.refuse(nbytes, alignment)
        else:
            offset = self.allocator.allocate(nbytes, alignment)
            assert offset in places
            self.model.take(offset, nbytes)

    @rule(holes=st.data(), less=st.integers(0, 3), exponent=exponents)
    def allocate_nearly_a_hole(self, holes: st.DataObject, less: int, exponent: int) -> None:
        sizes = sorted({size for _, size in self.model.holes()})
        if sizes:
            size = holes.draw(st.sampled_from(sizes), label="size of a hole")
            nbytes = max(1, size - less * self.model.granule)
            self.allocate(nbytes)
            self.allocate_aligned(nbytes, exponent)

    @rule(base=st.sampled_from([32, 64]), more=st.lists(st.integers(0, 7), max_size=5))
    def make_holes_of_nearly_equal_sizes(self, base: int, more: list[int]) -> None:
        """Holes that meet in one bin, and whose order in there matters."""
        kept_apart = []
        for granules in more:
            nbytes = (base + granules) * self.model.granule
            offset = self.model.best_place(nbytes)
            if offset is not None:
                self.allocate(nbytes)
                kept_apart.append(offset)
                self.allocate(1)
        for offset in kept_apart:
            assert self.allocator.free(offset) == self.model.give(offset)

    @precondition(lambda self: self.model.live)
    @rule(ranges=st.data())
    def free(self, ranges: st.DataObject) -> None:
        offset = ranges.draw(st.sampled_from(sorted(self.model.live)), label="offset")
        assert self.allocator.free(offset) == self.model.give(offset)
        with pytest.raises(DoubleFreeError):
            self.allocator.free(offset)

    @rule(offset=st.integers(-1, 8192))
    def free_what_is_not_taken(self, offset: int) -> None:
        if offset not in self.model.live:
            with pytest.raises(DoubleFreeError, match=f"offset {offset}$"):
                self.allocator.free(offset)

    @rule(nbytes=st.integers(-400, 0), exponent=exponents)
    def allocate_nothing(self, nbytes: int, exponent: int) -> None:
        with pytest.raises(InvalidSizeError, match=f"{nbytes} bytes"):
            self.allocator.allocate(nbytes, 1 << exponent)

    @precondition(lambda self: self.model.live)
    @rule(ranges=st.data())
    def free_on_paper_and_then_really(self, ranges: st.DataObject) -> None:
        live = sorted(self.model.live)
        order = ranges.draw(st.lists(st.sampled_from(live), max_size=4, unique=True), label="order")
        plan = self.allocator.free_plan()
        foretold = [plan.free(offset) for offset in order]
        for offset, hole in zip(order, foretold, strict=True):
            assert self.allocator.free(offset) == self.model.give(offset)
            assert self.model.hole_around(offset) == hole

    def refuse(self, nbytes: int, alignment: int) -> None:
        with pytest.raises(PoolExhaustedError) as caught:
            self.allocator.allocate(nbytes, alignment)
        error = caught.value
        assert error.requested == self.model.charge(nbytes)
        assert (error.free, error.largest_free) == (
            self.model.free_bytes(),
            self.model.largest_free(),
        )

    @invariant()
    def nothing_differs(self) -> None:
        allocator, model = self.allocator, self.model
        # The model joins neighbours by itself: equal ranges are complete coalescing.
        assert list(allocator.ranges()) == model.ranges()
        assert {o: s for o, s, taken in allocator.ranges() if taken} == model.live
        assert allocator.free_bytes == model.free_bytes()
        assert allocator.used_bytes + allocator.free_bytes == allocator.capacity
        assert allocator.largest_free == model.largest_free()
        assert allocator.live_count == len(model.live)

    @invariant()
    def nothing_is_damaged(self) -> None:
        self.allocator.check_integrity()


AllocatorMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestAllocator = AllocatorMachine.TestCase
