from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool.errors import (
    DoubleFreeError,
    InvalidAlignmentError,
    InvalidSizeError,
    KVPoolError,
    PoolExhaustedError,
)
from kvpool.pool._allocator import OffsetAllocator


def with_holes(*sizes: int) -> OffsetAllocator:
    """Return a full allocator with holes of these sizes, in this address order.

    They are freed in that order, so the last one is the youngest.
    """
    allocator = OffsetAllocator(sum(sizes) + 64 * len(sizes))
    offsets = []
    for size in sizes:
        offsets.append(allocator.allocate(size))
        allocator.allocate(64)  # keeps the holes apart
    for offset in offsets:
        allocator.free(offset)
    return allocator


# -- construction --------------------------------------------------------------------------


def test_an_empty_allocator_is_one_hole() -> None:
    allocator = OffsetAllocator(1024)
    assert list(allocator.ranges()) == [(0, 1024, False)]
    assert (allocator.free_bytes, allocator.largest_free) == (1024, 1024)
    assert (allocator.used_bytes, allocator.live_count) == (0, 0)


def test_capacity_is_rounded_down_to_the_granule() -> None:
    allocator = OffsetAllocator(1000, granule=256)
    assert allocator.capacity == 768
    assert allocator.allocate(768) == 0


@pytest.mark.parametrize("capacity", [63, 0, -64])
def test_a_capacity_of_less_than_a_granule_is_refused(capacity: int) -> None:
    with pytest.raises(InvalidSizeError, match=f"capacity of {capacity} bytes .* granule of 64"):
        OffsetAllocator(capacity)


@pytest.mark.parametrize("granule", [0, -64, 48])
def test_a_granule_that_is_no_power_of_two_is_refused(granule: int) -> None:
    with pytest.raises(InvalidAlignmentError, match=str(granule)):
        OffsetAllocator(1024, granule)


def test_the_smallest_capacity_serves_one_range() -> None:
    allocator = OffsetAllocator(1, granule=1)
    assert allocator.allocate(1) == 0
    assert allocator.largest_free == 0
    assert allocator.free(0) == 1
    allocator.check_integrity()


# -- allocate ------------------------------------------------------------------------------


@given(st.integers(1, 4096), st.sampled_from([1, 2, 64, 256]))
def test_a_size_is_rounded_up_to_the_granule(nbytes: int, granule: int) -> None:
    allocator = OffsetAllocator(4096, granule)
    offset = allocator.allocate(nbytes)
    size = allocator.used_bytes
    assert size % granule == 0
    assert nbytes <= size < nbytes + granule
    assert allocator.free(offset) == size


@pytest.mark.parametrize(
    ("nbytes", "hole"),
    [(1, 64), (64, 64), (65, 128), (300, 320), (321, 1024), (1025, 1088), (1088, 1088)],
)
def test_the_smallest_hole_that_fits_is_taken(nbytes: int, hole: int) -> None:
    sizes = (1024, 128, 1088, 64, 320)
    allocator = with_holes(*sizes)
    index = sizes.index(hole)
    assert allocator.allocate(nbytes) == sum(sizes[:index]) + 64 * index


def test_the_size_itself_decides_among_holes_that_share_a_bin() -> None:
    allocator = with_holes(2048, 2240, 2112, 2176)
    assert allocator.allocate(2049) == 2048 + 2240 + 2 * 64


def test_among_holes_of_one_size_the_youngest_is_taken() -> None:
    allocator = with_holes(128, 128, 128)
    assert [allocator.allocate(128) for _ in range(3)] == [384, 192, 0]


def test_a_fresh_space_is_handed_out_from_its_start() -> None:
    allocator = OffsetAllocator(1024)
    assert [allocator.allocate(100) for _ in range(3)] == [0, 128, 256]


def test_a_freed_range_is_handed_out_again() -> None:
    allocator = OffsetAllocator(1024)
    first, _ = allocator.allocate(100), allocator.allocate(100)
    allocator.free(first)
    assert allocator.allocate(100) == first


def test_twenty_thousand_small_holes_do_not_hide_a_large_one() -> None:
    allocator = with_holes(*[64] * 20_000, 128)
    assert allocator.allocate(128) == 20_000 * 128
    with pytest.raises(PoolExhaustedError):
        allocator.allocate(128)
    assert allocator.largest_free == 64
    allocator.check_integrity()


# -- alignment -----------------------------------------------------------------------------


@given(st.integers(0, 5), st.integers(1, 2048), st.integers(0, 12))
def test_an_aligned_offset_is_a_multiple(taken: int, nbytes: int, exponent: int) -> None:
    allocator = OffsetAllocator(1 << 14)
    for _ in range(taken):
        allocator.allocate(64)
    offset = allocator.allocate(nbytes, 1 << exponent)
    assert offset % (1 << exponent) == 0
    allocator.check_integrity()


def test_the_padding_in_front_of_an_aligned_range_stays_free() -> None:
    allocator = OffsetAllocator(1024)
    allocator.allocate(64)
    assert allocator.allocate(128, alignment=512) == 512
    assert list(allocator.ranges()) == [
        (0, 64, True),
        (64, 448, False),
        (512, 128, True),
        (640, 384, False),
    ]
    assert allocator.allocate(448) == 64


def test_an_aligned_range_may_end_its_hole() -> None:
    allocator = OffsetAllocator(1024)
    allocator.allocate(64)
    assert allocator.allocate(512, alignment=512) == 512
    assert list(allocator.ranges())[1:] == [(64, 448, False), (512, 512, True)]


def test_the_best_fit_is_taken_where_it_lies_aligned() -> None:
    allocator = with_holes(1024, 128)  # at 0 and at 1088
    assert allocator.allocate(64, alignment=64) == 1088
    assert allocator.allocate(64, alignment=512) == 0


def test_an_aligned_request_fails_only_if_it_must() -> None:
    # The hole of 192 bytes at 64 is the best fit, and misses; none has room for any padding;
    # of the two in which the request does fit, the smaller one is taken first.
    allocator = OffsetAllocator(1536)
    offsets = [allocator.allocate(size) for size in (64, 192, 256, 320, 448, 256)]
    assert offsets == [0, 64, 256, 512, 832, 1280]
    for offset in (64, 512, 1280):
        allocator.free(offset)
    assert allocator.allocate(192, alignment=256) == 1280
    assert allocator.allocate(192, alignment=256) == 512
    with pytest.raises(PoolExhaustedError):
        allocator.allocate(192, alignment=256)
    assert allocator.allocate(192) == 64
    allocator.check_integrity()


def test_exhaustion_for_an_alignment_names_it() -> None:
    allocator = OffsetAllocator(1024)
    allocator.allocate(64)
    with pytest.raises(PoolExhaustedError, match=r"960, and no range has 576 .* of 512$"):
        allocator.allocate(520, alignment=512)


# -- free and coalescing -------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0), (2, 0, 1)])
def test_neighbouring_holes_are_joined(order: tuple[int, ...]) -> None:
    allocator = OffsetAllocator(192)
    offsets = [allocator.allocate(64) for _ in range(3)]
    for index in order:
        assert allocator.free(offsets[index]) == 64
        allocator.check_integrity()
    assert list(allocator.ranges()) == [(0, 192, False)]


def test_free_returns_the_bytes_that_became_free() -> None:
    allocator = OffsetAllocator(1024)
    offset = allocator.allocate(65)
    assert allocator.free(offset) == 128
    assert list(allocator.ranges()) == [(0, 1024, False)]


# -- fits ----------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=12),
    st.sets(st.integers(0, 11)),
    st.integers(1, 1024),
    st.integers(0, 10),
)
def test_fits_foretells_allocate(
    sizes: list[int], freed: set[int], nbytes: int, exponent: int
) -> None:
    allocator = OffsetAllocator(1 << 13)
    offsets = [allocator.allocate(size) for size in sizes]
    allocator.allocate(allocator.largest_free)  # only the freed ones are holes
    for index in freed:
        if index < len(offsets):
            allocator.free(offsets[index])
    fits = allocator.fits(nbytes, 1 << exponent)
    try:
        allocator.allocate(nbytes, 1 << exponent)
    except PoolExhaustedError:
        assert not fits
    else:
        assert fits


# -- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nbytes", "alignment", "error", "text"),
    [
        (0, 1, InvalidSizeError, "cannot allocate 0 bytes"),
        (-1, 1, InvalidSizeError, "cannot allocate -1 bytes"),
        (-4096, 256, InvalidSizeError, "cannot allocate -4096 bytes"),
        (64, 0, InvalidAlignmentError, "alignment 0 is not"),
        (64, -64, InvalidAlignmentError, "alignment -64 is not"),
        (64, 48, InvalidAlignmentError, "alignment 48 is not"),
        (64, 96, InvalidAlignmentError, "alignment 96 is not"),
        (385, 1, PoolExhaustedError, "448 bytes: 512 bytes are free, .* free range has 384"),
        (1 << 80, 1, PoolExhaustedError, f"{1 << 80} bytes: 512 bytes are free"),
        (64, 1 << 80, PoolExhaustedError, f"behind a multiple of {1 << 80}"),
    ],
)
def test_a_refused_request_changes_nothing(
    nbytes: int, alignment: int, error: type[KVPoolError], text: str
) -> None:
    allocator = with_holes(64, 128, 384)
    allocator.allocate(64)  # offset 0 would suit any alignment
    before = list(allocator.ranges())
    with pytest.raises(error, match=text):
        allocator.allocate(nbytes, alignment)
    assert list(allocator.ranges()) == before
    allocator.check_integrity()


@pytest.mark.parametrize("alignment", [0, -1, 3, 48, 96])
def test_fits_refuses_what_is_no_alignment(alignment: int) -> None:
    with pytest.raises(InvalidAlignmentError, match=f"alignment {alignment} is not"):
        OffsetAllocator(1024).fits(64, alignment)


@pytest.mark.parametrize("nbytes", [0, -1, -4096])
def test_fits_refuses_what_is_no_size(nbytes: int) -> None:
    with pytest.raises(InvalidSizeError, match=f"{nbytes} bytes"):
        OffsetAllocator(1024).fits(nbytes)


def test_exhaustion_carries_its_numbers() -> None:
    allocator = with_holes(128, 384)
    with pytest.raises(PoolExhaustedError) as caught:
        allocator.allocate(500)
    error = caught.value
    assert (error.requested, error.free, error.largest_free) == (512, 512, 384)
    assert isinstance(error, MemoryError)


@pytest.mark.parametrize("offset", [128, 1, 65, 300, 768, -64, 1 << 40])
def test_freeing_what_is_not_taken_changes_nothing(offset: int) -> None:
    allocator = with_holes(64, 128, 384)  # holes: [0, 64), [128, 256), [320, 704)
    before = list(allocator.ranges())
    with pytest.raises(DoubleFreeError, match=f"offset {offset}$"):
        allocator.free(offset)
    assert list(allocator.ranges()) == before
    allocator.check_integrity()


def test_a_double_free_changes_nothing() -> None:
    allocator = with_holes(64, 128)
    allocator.free(64)
    before = list(allocator.ranges())
    with pytest.raises(DoubleFreeError, match=r"offset 64$"):
        allocator.free(64)
    assert list(allocator.ranges()) == before
    allocator.check_integrity()
