"""Each private index of the allocator is damaged once: `check_integrity` sees every one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvpool.errors import IntegrityError
from kvpool.pool._allocator import OffsetAllocator


class DamagedAllocator(OffsetAllocator):
    """An allocator that can spoil its own indexes, one in one place."""

    def _bin_with(self, size: int) -> int:
        (index,) = [index for index, sizes in enumerate(self._bins) if size in sizes]
        return index

    def count_a_free_granule_too_many(self) -> None:
        self.free_bytes += 64

    def grow_the_capacity(self) -> None:
        self.capacity += 64

    def lose_a_taken_range(self) -> None:
        del self._live[192]

    def lose_the_first_taken_range(self) -> None:
        del self._live[0]

    def let_a_taken_range_overlap(self) -> None:
        self._live[0] = 192

    def let_a_taken_range_have_no_granules(self) -> None:
        self._live[0], self._live[100] = 100, 28

    def invent_an_empty_range(self) -> None:
        self._live[1024] = 0

    def lose_a_hole(self) -> None:
        del self._hole_at[128]

    def shrink_the_last_hole(self) -> None:
        self._hole_at[256] = 704

    def leave_two_holes_apart(self) -> None:
        self._hole_at[256] = 64
        self._hole_at[320] = 704

    def lose_the_end_of_a_hole(self) -> None:
        del self._hole_before[192]

    def move_the_end_of_a_hole(self) -> None:
        self._hole_before[192] = 64

    def lose_a_size(self) -> None:
        del self._starts[64]

    def list_a_hole_under_two_sizes(self) -> None:
        self._starts[64][256] = None

    def keep_a_size_that_no_hole_has(self) -> None:
        self._starts[512] = {}

    def lose_a_size_in_its_bin(self) -> None:
        self._bins[self._bin_with(768)].clear()

    def list_a_size_twice_in_its_bin(self) -> None:
        self._bins[self._bin_with(768)].append(768)

    def put_a_size_into_the_next_bin(self) -> None:
        index = self._bin_with(768)
        self._bins[index + 1].append(self._bins[index].pop())
        self._occupied ^= 3 << index

    def clear_the_bit_of_a_bin(self) -> None:
        self._occupied ^= 1 << self._bin_with(64)

    def set_the_bit_of_an_empty_bin(self) -> None:
        self._occupied |= 1


def healthy() -> DamagedAllocator:
    """Return: taken [0, 128), free [128, 192), taken [192, 256), free [256, 1024)."""
    allocator = DamagedAllocator(1024)
    for size in (128, 64, 64):
        allocator.allocate(size)
    allocator.free(128)
    allocator.check_integrity()
    return allocator


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (DamagedAllocator.count_a_free_granule_too_many, "832 free, counted 896"),
        (DamagedAllocator.grow_the_capacity, "ranges end at 1024, not at 1088"),
        (DamagedAllocator.lose_a_taken_range, "gap or overlap at offset 192: next is 256"),
        (DamagedAllocator.lose_the_first_taken_range, "gap or overlap at offset 0: next is 128"),
        (DamagedAllocator.let_a_taken_range_overlap, "gap or overlap at offset 192: next is 128"),
        (DamagedAllocator.let_a_taken_range_have_no_granules, "range 0 has size 100"),
        (DamagedAllocator.invent_an_empty_range, "range 1024 has size 0"),
        (DamagedAllocator.lose_a_hole, "gap or overlap at offset 128: next is 192"),
        (DamagedAllocator.shrink_the_last_hole, "ranges end at 960, not at 1024"),
        (DamagedAllocator.leave_two_holes_apart, "free ranges around 320 are not joined"),
        (DamagedAllocator.lose_the_end_of_a_hole, "index of ends"),
        (DamagedAllocator.move_the_end_of_a_hole, "index of ends"),
        (DamagedAllocator.lose_a_size, "index of sizes"),
        (DamagedAllocator.list_a_hole_under_two_sizes, "index of sizes"),
        (DamagedAllocator.keep_a_size_that_no_hole_has, "bins are unsorted or miss a size"),
        (DamagedAllocator.lose_a_size_in_its_bin, "bins are unsorted or miss a size"),
        (DamagedAllocator.list_a_size_twice_in_its_bin, "bins are unsorted or miss a size"),
        (DamagedAllocator.put_a_size_into_the_next_bin, "size 768 is in bin"),
        (DamagedAllocator.clear_the_bit_of_a_bin, "bits of the bins"),
        (DamagedAllocator.set_the_bit_of_an_empty_bin, "bits of the bins"),
    ],
)
def test_damage_is_found_and_named(damage: Callable[[DamagedAllocator], None], text: str) -> None:
    allocator = healthy()
    damage(allocator)
    with pytest.raises(IntegrityError, match=text):
        allocator.check_integrity()
