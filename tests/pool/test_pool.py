from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool.errors import IntegrityError, InvalidSizeError, PoolExhaustedError
from kvpool.pool._block import MemoryBlock
from kvpool.pool._pool import MemoryPool

KIB = 1024


# -- the pool ------------------------------------------------------------------------------


def test_a_fresh_pool_is_free(backend: str) -> None:
    with MemoryPool(64 * KIB, backend) as pool:
        stats = pool.stats()
        assert (stats.capacity, stats.free, stats.largest_free) == (64 * KIB,) * 3
        assert (stats.used, stats.live_blocks, stats.parting_blocks) == (0, 0, 0)
        assert (stats.fragmentation, stats.utilization) == (0, 0)
        assert pool.ranges() == [(0, 64 * KIB, None)]
        assert pool.arena_info.backend == backend
        pool.check_integrity()


def test_capacity_is_rounded_down_to_the_granule(backend: str) -> None:
    with MemoryPool(1000, backend) as pool:
        assert pool.capacity == 960
        assert pool.stats().capacity == 960
        pool.view(pool.allocate(960), np.uint8, 960)[-1] = 1


def test_the_smallest_pool_serves_one_block(backend: str) -> None:
    with MemoryPool(64, backend) as pool:
        pool.view(pool.allocate(1), np.uint8, 1)[:] = 255
        with pytest.raises(PoolExhaustedError):
            pool.allocate(1)


@pytest.mark.parametrize("capacity", [63, 0, -1, 1.5, "much", None])
def test_what_is_no_capacity_is_refused(backend: str, capacity: Any) -> None:
    with pytest.raises(InvalidSizeError, match=f"capacity:? .*{capacity}"):
        MemoryPool(capacity, backend)


def test_a_numpy_integer_is_a_size(backend: str) -> None:
    capacity: Any = np.int64(64 * KIB)
    nbytes: Any = np.uint16(100)
    with MemoryPool(capacity, backend) as pool:
        block = pool.allocate(nbytes)
        assert (type(block.offset), type(block.size)) == (int, int)
        assert pool.stats().used == 128


def test_repr_shows_what_the_pool_is(backend: str) -> None:
    pool = MemoryPool(64 * KIB, backend)
    block = pool.allocate(100)
    assert repr(pool) == f"<MemoryPool {backend}: 65536 bytes, 128 used>"
    assert repr(block) == "MemoryBlock(offset=0, size=100)"
    pool.close()
    assert repr(pool) == f"<MemoryPool {backend}: 65536 bytes, closed>"


# -- blocks --------------------------------------------------------------------------------


def test_the_figures_follow_the_blocks(backend: str) -> None:
    with MemoryPool(64 * KIB, backend) as pool:
        blocks = [pool.allocate(size) for size in (100, 1000, 10_000)]
        charged = [pool.charge(block.size) for block in blocks]
        assert charged == [128, 1024, 10_048]
        assert pool.stats().used == sum(charged)
        assert pool.deallocate(blocks[1]) is True
        stats = pool.stats()
        assert (stats.allocations, stats.deallocations, stats.live_blocks) == (3, 1, 2)
        assert (stats.bytes_allocated, stats.bytes_freed) == (11_200, 1024)
        assert stats.used == stats.bytes_allocated - stats.bytes_freed
        assert stats.used + stats.free == stats.capacity
        assert stats.fragmentation == 1 - stats.largest_free / stats.free > 0
        assert stats.utilization == stats.used / stats.capacity


def test_the_offset_of_a_freed_block_is_handed_out_again(backend: str) -> None:
    with MemoryPool(64 * KIB, backend) as pool:
        first, _ = pool.allocate(1000), pool.allocate(1000)
        pool.deallocate(first)
        second = pool.allocate(1000)
        assert second.offset == first.offset
        assert second != first


def test_ranges_show_blocks_and_holes_in_address_order(backend: str) -> None:
    with MemoryPool(4 * KIB, backend) as pool:
        first, second, third = (pool.allocate(KIB) for _ in range(3))
        pool.deallocate(second)
        assert pool.ranges() == [
            (0, KIB, first),
            (KIB, KIB, None),
            (2 * KIB, KIB, third),
            (3 * KIB, KIB, None),
        ]


@pytest.mark.parametrize("exponent", range(13))
def test_the_address_of_a_block_is_aligned(backend: str, exponent: int) -> None:
    with MemoryPool(64 * KIB, backend) as pool:
        alignment = min(1 << exponent, pool.arena_info.alignment)
        for _ in range(3):
            pool.allocate(64)
            block = pool.allocate(200, alignment)
            address = pool.view(block, np.uint8, 200).__array_interface__["data"][0]
            assert address % alignment == 0
            assert block.offset % max(alignment, 64) == 0


# -- views ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("float32", (2, 4, 8)),
        (np.float16, 100),
        (np.dtype(ml_dtypes.bfloat16), (4, 25)),
        (np.int8, (256,)),
        (">u4", (8, 8)),
        ([("key", "f4"), ("value", "f4")], (32,)),
        (np.float64, ()),
        (np.float64, (0, 5)),
    ],
)
def test_a_view_is_a_writable_array_over_the_block(backend: str, dtype: Any, shape: Any) -> None:
    with MemoryPool(64 * KIB, backend) as pool:
        pool.allocate(64)
        block = pool.allocate(256)
        view = pool.view(block, dtype, shape)
        assert view.dtype == np.dtype(dtype)
        assert view.shape == np.empty(shape).shape
        assert view.flags.c_contiguous
        assert view.flags.writeable
        assert view.flags.aligned
        raw = np.arange(view.nbytes, dtype=np.uint8)
        view.reshape(-1).view(np.uint8)[:] = raw
        assert np.array_equal(pool.view(block, np.uint8, view.nbytes), raw)


def test_a_view_starts_where_it_is_told(backend: str) -> None:
    with MemoryPool(64 * KIB, backend) as pool:
        block = pool.allocate(256)
        pool.lease(block)[:] = np.arange(256, dtype=np.uint8)
        assert pool.view(block, np.uint8, 4, offset=17).tolist() == [17, 18, 19, 20]
        assert pool.view(block, "<u2", 2, offset=254 - 2).tolist() == [0xFDFC, 0xFFFE]
        assert pool.view(block, np.uint8, (0,), offset=256).size == 0


def test_views_of_a_block_share_its_bytes_and_reach_no_other(backend: str) -> None:
    with MemoryPool(64 * KIB, backend) as pool:
        left, middle, right = (pool.allocate(64) for _ in range(3))
        pool.view(middle, np.uint8, 64)[:] = 255
        assert pool.lease(middle).min() == 255
        assert pool.lease(middle).shape == (64,)
        assert not pool.lease(left).any()
        assert not pool.lease(right).any()


# -- zeroes --------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(1, 700), st.sampled_from([64, 256, 1024]), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_a_block_reads_zero_whatever_lay_there(
    backend: str, steps: list[tuple[int, int, bool]]
) -> None:
    with MemoryPool(4 * KIB, backend) as pool:
        dirty: list[MemoryBlock] = []
        for nbytes, alignment, keep in steps:
            try:
                block = pool.allocate(nbytes, alignment)
            except PoolExhaustedError:
                for old in dirty:
                    pool.deallocate(old)
                dirty.clear()
                continue
            content = pool.lease(block)
            assert not content.any()
            content[:] = 255
            del content
            if keep:
                dirty.append(block)
            else:
                assert pool.deallocate(block)


def test_a_pool_over_existing_data_hands_out_zeroes(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    path.write_bytes(os.urandom(8 * KIB))
    path.chmod(0o600)
    with MemoryPool(8 * KIB, "mmap", path=path, reuse=True) as pool:
        assert not pool.arena_info.zeroed
        assert not pool.lease(pool.allocate(8 * KIB)).any()


def test_zero_range_zeroes_these_bytes_and_no_others(backend: str) -> None:
    with MemoryPool(4 * KIB, backend) as pool:
        content = pool.lease(pool.allocate(4 * KIB))
        content[:] = 255
        pool.zero_range(100, 1000)
        assert np.flatnonzero(content == 0).tolist() == list(range(100, 1100))
        pool.zero_range(4 * KIB, 0)
        pool.zero_range(0, 4 * KIB)
        assert not content.any()


# -- integrity -----------------------------------------------------------------------------


def test_check_integrity_finds_a_block_of_the_wrong_size() -> None:
    with MemoryPool(4 * KIB, "numpy") as pool:
        pool.allocate(64).size = 65
        with pytest.raises(IntegrityError, match=r"size=65.* is at 0 with 64 bytes"):
            pool.check_integrity()
