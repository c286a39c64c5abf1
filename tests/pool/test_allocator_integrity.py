"""Each private index of the allocator is damaged once: `check_integrity` sees every one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvpool.errors import IntegrityError
from kvpool.pool._allocator import OffsetAllocator

Damage = Callable[[OffsetAllocator], None]


def healthy() -> OffsetAllocator:
    """Return: taken [0, 128), free [128, 192), taken [192, 256), free [256, 1024)."""
    allocator = OffsetAllocator(1024)
    for size in (128, 64, 64):
        allocator.allocate(size)
    allocator.free(128)
    allocator.check_integrity()
    return allocator


def bin_with(allocator: OffsetAllocator, size: int) -> int:
    (index,) = [index for index, sizes in enumerate(allocator._bins) if size in sizes]
    return index


def count_a_free_granule_too_many(allocator: OffsetAllocator) -> None:
    allocator.free_bytes += 64


def grow_the_capacity(allocator: OffsetAllocator) -> None:
    allocator.capacity += 64


def lose_a_taken_range(allocator: OffsetAllocator) -> None:
    del allocator._live[192]


def lose_the_first_taken_range(allocator: OffsetAllocator) -> None:
    del allocator._live[0]


def let_a_taken_range_overlap(allocator: OffsetAllocator) -> None:
    allocator._live[0] = 192


def let_a_taken_range_have_no_granules(allocator: OffsetAllocator) -> None:
    allocator._live[0], allocator._live[100] = 100, 28


def invent_an_empty_range(allocator: OffsetAllocator) -> None:
    allocator._live[1024] = 0


def lose_a_hole(allocator: OffsetAllocator) -> None:
    del allocator._hole_at[128]


def shrink_the_last_hole(allocator: OffsetAllocator) -> None:
    allocator._hole_at[256] = 704


def leave_two_holes_apart(allocator: OffsetAllocator) -> None:
    allocator._hole_at[256] = 64
    allocator._hole_at[320] = 704


def lose_the_end_of_a_hole(allocator: OffsetAllocator) -> None:
    del allocator._hole_before[192]


def move_the_end_of_a_hole(allocator: OffsetAllocator) -> None:
    allocator._hole_before[192] = 64


def lose_a_size(allocator: OffsetAllocator) -> None:
    del allocator._starts[64]


def list_a_hole_under_two_sizes(allocator: OffsetAllocator) -> None:
    allocator._starts[64][256] = None


def keep_a_size_that_no_hole_has(allocator: OffsetAllocator) -> None:
    allocator._starts[512] = {}


def lose_a_size_in_its_bin(allocator: OffsetAllocator) -> None:
    allocator._bins[bin_with(allocator, 768)].clear()


def list_a_size_twice_in_its_bin(allocator: OffsetAllocator) -> None:
    allocator._bins[bin_with(allocator, 768)].append(768)


def put_a_size_into_the_next_bin(allocator: OffsetAllocator) -> None:
    index = bin_with(allocator, 768)
    allocator._bins[index + 1].append(allocator._bins[index].pop())
    allocator._occupied ^= 3 << index


def clear_the_bit_of_a_bin(allocator: OffsetAllocator) -> None:
    allocator._occupied ^= 1 << bin_with(allocator, 64)


def set_the_bit_of_an_empty_bin(allocator: OffsetAllocator) -> None:
    allocator._occupied |= 1


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (count_a_free_granule_too_many, "832 free, counted 896"),
        (grow_the_capacity, "ranges end at 1024, not at 1088"),
        (lose_a_taken_range, "gap or overlap at offset 192: next is 256"),
        (lose_the_first_taken_range, "gap or overlap at offset 0: next is 128"),
        (let_a_taken_range_overlap, "gap or overlap at offset 192: next is 128"),
        (let_a_taken_range_have_no_granules, "range 0 has size 100"),
        (invent_an_empty_range, "range 1024 has size 0"),
        (lose_a_hole, "gap or overlap at offset 128: next is 192"),
        (shrink_the_last_hole, "ranges end at 960, not at 1024"),
        (leave_two_holes_apart, "free ranges around 320 are not joined"),
        (lose_the_end_of_a_hole, "index of ends"),
        (move_the_end_of_a_hole, "index of ends"),
        (lose_a_size, "index of sizes"),
        (list_a_hole_under_two_sizes, "index of sizes"),
        (keep_a_size_that_no_hole_has, "bins are unsorted or miss a size"),
        (lose_a_size_in_its_bin, "bins are unsorted or miss a size"),
        (list_a_size_twice_in_its_bin, "bins are unsorted or miss a size"),
        (put_a_size_into_the_next_bin, "size 768 is in bin"),
        (clear_the_bit_of_a_bin, "bits of the bins"),
        (set_the_bit_of_an_empty_bin, "bits of the bins"),
    ],
)
def test_damage_is_found_and_named(damage: Damage, text: str) -> None:
    allocator = healthy()
    damage(allocator)
    with pytest.raises(IntegrityError, match=text):
        allocator.check_integrity()
