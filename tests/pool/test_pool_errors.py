"""Every error of the pool has its type and its numbers, and changes nothing."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from kvpool.errors import (
    DoubleFreeError,
    ForeignBlockError,
    InvalidAlignmentError,
    InvalidSizeError,
    InvalidViewError,
    PoolClosedError,
    PoolError,
    PoolExhaustedError,
    StaleBlockError,
)
from kvpool.pool._block import Bytes, MemoryBlock
from kvpool.pool._pool import MemoryPool
from tests.support.arenas import all_bytes

CAPACITY = 64 * 1024

Use = Callable[[MemoryPool, MemoryBlock], Any]


@pytest.fixture
def pool(backend: str) -> Iterator[MemoryPool]:
    with MemoryPool(CAPACITY, backend) as pool:
        arena[pool] = all_bytes(pool)
        yield pool
    arena.clear()


arena: dict[MemoryPool, Bytes] = {}
"""All bytes of the pool that a test uses."""


@contextmanager
def refused(pool: MemoryPool, error: type[PoolError], text: str) -> Iterator[None]:
    """Expect an error of exactly this type; figures, ranges and bytes stay as they were."""
    data = arena[pool]
    before, ranges, content = pool.stats(), pool.ranges(), bytes(data)
    with pytest.raises(error, match=text) as caught:
        yield
    assert type(caught.value) is error
    assert pool.stats() == before
    assert pool.ranges() == ranges
    assert bytes(data) == content
    pool.check_integrity()


USES: dict[str, Use] = {
    "view": lambda pool, block: pool.view(block, np.uint8, 1),
    "lease": lambda pool, block: pool.lease(block),
    "is_leased": lambda pool, block: pool.is_leased(block),
    "deallocate": lambda pool, block: pool.deallocate(block),
    "reclaim": lambda pool, block: pool.reclaim(block),
    "make_room": lambda pool, block: pool.make_room(pool.stats().free + 1, [block]),
}

uses = pytest.mark.parametrize("use", USES.values(), ids=USES.keys())


# -- exhausted -----------------------------------------------------------------------------


def test_exhausted_tells_what_is_free_and_in_how_large_a_piece(pool: MemoryPool) -> None:
    blocks = [pool.allocate(CAPACITY // 8) for _ in range(8)]
    for index in (1, 3, 4, 6):
        pool.deallocate(blocks[index])
    text = r"^cannot allocate 16448 bytes: 32768 bytes are free, the largest free range has 16384$"
    with refused(pool, PoolExhaustedError, text):
        pool.allocate(16_385)
    with pytest.raises(PoolExhaustedError) as caught:
        pool.allocate(16_385)
    error = caught.value
    assert (error.requested, error.free, error.largest_free) == (16_448, 32_768, 16_384)
    assert isinstance(error, MemoryError)


@pytest.mark.parametrize("nbytes", [CAPACITY + 1, 1 << 40, 1 << 80])
def test_more_than_the_pool_has_is_exhausted(pool: MemoryPool, nbytes: int) -> None:
    with refused(pool, PoolExhaustedError, f"the largest free range has {CAPACITY}"):
        pool.allocate(nbytes)


def test_exhausted_survives_a_pickle_with_its_numbers_and_its_text(pool: MemoryPool) -> None:
    with pytest.raises(PoolExhaustedError) as caught:
        pool.make_room(2 * CAPACITY, [])
    error = caught.value
    copied = pickle.loads(pickle.dumps(error))
    assert str(copied) == str(error)
    assert (copied.requested, copied.free, copied.largest_free) == (
        2 * CAPACITY,
        CAPACITY,
        CAPACITY,
    )


# -- sizes and alignments ------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, -1, -64, -(1 << 40)])
def test_a_size_of_nothing_is_refused(pool: MemoryPool, nbytes: int) -> None:
    with refused(pool, InvalidSizeError, f"cannot allocate {nbytes} bytes"):
        pool.allocate(nbytes)
    with refused(pool, InvalidSizeError, f"nbytes must be at least 1, not {nbytes}"):
        pool.make_room(nbytes, [])


@pytest.mark.parametrize("nbytes", [1.5, 64.0, "64", None, (64,), np.float32(64)])
def test_a_size_that_is_no_whole_number_is_refused(pool: MemoryPool, nbytes: Any) -> None:
    with refused(pool, InvalidSizeError, "nbytes must be a whole number, not "):
        pool.allocate(nbytes)
    with refused(pool, InvalidSizeError, "nbytes must be a whole number, not "):
        pool.make_room(nbytes, [])
    with refused(pool, InvalidSizeError, "nbytes must be a whole number, not "):
        pool.zero_range(0, nbytes)


@pytest.mark.parametrize("alignment", [0, -1, -64, 3, 48, 96, 4095])
def test_an_alignment_that_is_no_power_of_two_is_refused(pool: MemoryPool, alignment: int) -> None:
    text = f"alignment {alignment} is not a power of two"
    with refused(pool, InvalidAlignmentError, text):
        pool.allocate(64, alignment)
    with refused(pool, InvalidAlignmentError, text):
        pool.make_room(64, [], alignment)


def test_an_alignment_that_the_base_address_lacks_is_refused(pool: MemoryPool) -> None:
    most = pool.arena_info.alignment
    text = f"alignment {2 * most} exceeds that of the arena's base address, {most}"
    with refused(pool, InvalidAlignmentError, text):
        pool.allocate(64, 2 * most)
    with refused(pool, InvalidAlignmentError, text):
        pool.make_room(64, [], 2 * most)


# -- blocks --------------------------------------------------------------------------------


def test_a_double_free_is_refused(pool: MemoryPool) -> None:
    block, _ = pool.allocate(64), pool.allocate(64)
    pool.deallocate(block)
    with refused(pool, DoubleFreeError, r"deallocate MemoryBlock\(offset=0, size=64\): it was"):
        pool.deallocate(block)


def test_a_double_free_never_frees_the_block_that_came_after(pool: MemoryPool) -> None:
    stale = pool.allocate(64)
    pool.deallocate(stale)
    heir = pool.allocate(64)
    assert heir.offset == stale.offset
    with refused(pool, DoubleFreeError, "it was deallocated before"):
        pool.deallocate(stale)
    assert pool.ranges()[0] == (0, 64, heir)


def test_a_double_free_of_a_block_with_a_view_is_refused(pool: MemoryPool) -> None:
    block = pool.allocate(64)
    view = pool.view(block, np.uint8, 64)
    pool.deallocate(block)
    with refused(pool, DoubleFreeError, "it was deallocated before"):
        pool.deallocate(block)
    del view
    with refused(pool, DoubleFreeError, "it was deallocated before"):
        pool.deallocate(block)


@uses
@pytest.mark.parametrize("reused", [False, True])
def test_a_stale_block_is_of_no_use(pool: MemoryPool, use: Use, reused: bool) -> None:
    block, _ = pool.allocate(64), pool.allocate(64)
    pool.deallocate(block)
    if reused:
        assert pool.allocate(64).offset == block.offset
    error = DoubleFreeError if use is USES["deallocate"] else StaleBlockError
    with refused(pool, error, r"MemoryBlock\(offset=0, size=64\): it was deallocated before"):
        use(pool, block)


@uses
def test_a_block_of_another_pool_is_of_no_use(pool: MemoryPool, backend: str, use: Use) -> None:
    pool.allocate(64)
    with MemoryPool(CAPACITY, backend) as other:
        block = other.allocate(64)  # at the same offset
        text = r"MemoryBlock\(offset=0, size=64\): it belongs to pool \d+, this is pool \d+"
        with refused(pool, ForeignBlockError, text):
            use(pool, block)
        assert other.ranges()[0] == (0, 64, block)


def test_the_copy_of_a_block_is_not_the_block(pool: MemoryPool) -> None:
    block = pool.allocate(64)
    with refused(pool, DoubleFreeError, "deallocate"):
        pool.deallocate(copy.copy(block))


# -- views ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "shape", "offset", "text"),
    [
        (np.uint8, 257, 0, r"uint8\[257\] at offset 0 needs the bytes \[0, 257\) of a .* 256"),
        (np.float32, (8, 9), 0, r"float32\[8, 9\] at offset 0 needs the bytes \[0, 288\)"),
        (np.float32, (8, 8), 4, r"at offset 4 needs the bytes \[4, 260\) of a block of 256"),
        (np.uint8, 1, 256, r"\[256, 257\)"),
        (np.uint8, 0, 257, r"\[257, 257\)"),
        (np.uint8, 1, -1, r"\[-1, 0\)"),
        (np.uint8, (1 << 40, 1 << 40), 0, r"of a block of 256"),
        (np.float32, 1, 2, "offset 2 is misaligned: float32 needs a multiple of 4"),
        (np.float64, 1, 4, "offset 4 is misaligned: float64 needs a multiple of 8"),
        (np.uint8, -1, 0, r"shape \(-1,\) has a negative dimension"),
        (np.uint8, (-2, -2), 0, r"shape \(-2, -2\) has a negative dimension"),
        (object, 1, 0, "dtype .*object.* cannot be stored in plain bytes"),
        ("V0", 1, 0, "cannot be stored in plain bytes"),
        (np.uint8, (0, 1 << 62, 1 << 62), 0, "no array has shape"),
        (np.uint8, (1,) * 65, 0, "no array has shape"),
    ],
)
def test_an_impossible_view_is_refused(
    pool: MemoryPool, dtype: Any, shape: Any, offset: int, text: str
) -> None:
    block = pool.allocate(256)
    with refused(pool, InvalidViewError, text):
        pool.view(block, dtype, shape, offset)
    assert not pool.is_leased(block)


@pytest.mark.parametrize(("shape", "offset"), [(1.5, 0), ((2, "2"), 0), (1, 0.5), (None, 0)])
def test_a_view_takes_whole_numbers(pool: MemoryPool, shape: Any, offset: Any) -> None:
    block = pool.allocate(256)
    with refused(pool, InvalidSizeError, "must be a whole number, not "):
        pool.view(block, np.uint8, shape, offset)


@pytest.mark.parametrize(
    ("offset", "nbytes"),
    [(-1, 1), (0, -1), (0, CAPACITY + 1), (CAPACITY, 1), (CAPACITY + 1, 0), (10, -5)],
)
def test_zero_range_stays_inside_of_the_pool(pool: MemoryPool, offset: int, nbytes: int) -> None:
    pool.lease(pool.allocate(CAPACITY))[:] = 255
    text = rf"zero \[{offset}, {offset + nbytes}\): the pool has \[0, {CAPACITY}\)"
    with refused(pool, InvalidViewError, text):
        pool.zero_range(offset, nbytes)


# -- after close ---------------------------------------------------------------------------


AFTER_CLOSE: dict[str, Use] = USES | {
    "make_room": lambda pool, block: pool.make_room(64, [block]),
    "allocate": lambda pool, _: pool.allocate(64),
    "zero_range": lambda pool, _: pool.zero_range(0, 64),
    "stats": lambda pool, _: pool.stats(),
    "ranges": lambda pool, _: pool.ranges(),
    "check_integrity": lambda pool, _: pool.check_integrity(),
}


@pytest.mark.parametrize("use", AFTER_CLOSE.values(), ids=AFTER_CLOSE.keys())
def test_a_closed_pool_serves_nothing(pool: MemoryPool, backend: str, use: Use) -> None:
    block = pool.allocate(64)
    pool.close()
    with pytest.raises(PoolClosedError, match=f"the {backend} pool is closed"):
        use(pool, block)


def test_a_second_close_does_nothing(pool: MemoryPool, backend: str) -> None:
    pool.close()
    pool.close()
    assert pool.capacity == CAPACITY
    assert pool.arena_info.backend == backend


def test_leaving_the_context_closes_the_pool_also_after_an_error(backend: str) -> None:
    with pytest.raises(KeyError), MemoryPool(CAPACITY, backend) as pool:
        raise KeyError
    with pytest.raises(PoolClosedError):
        pool.stats()
