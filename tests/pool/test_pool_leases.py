"""A view is a lease: bytes never go to another block while anything still shows them."""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from kvpool.errors import PoolExhaustedError, StaleBlockError
from kvpool.pool._pool import MemoryPool
from tests.support import needs
from tests.support.arenas import all_bytes, used_now
from tests.support.patterns import (
    CAPACITY,
    PATTERN,
    SIZE,
    block_with_pattern,
    overwrite_the_rest,
)


@pytest.fixture
def pool(backend: str) -> Iterator[MemoryPool]:
    with MemoryPool(CAPACITY, backend) as pool:
        yield pool


class Subclass(np.ndarray[Any, np.dtype[np.uint8]]):
    """An array type of someone else."""


DERIVED: dict[str, Any] = {  # functions of a view
    "the view itself": lambda view: view,
    "a slice of a slice": lambda view: view[1:][::2][5:],
    "reversed": lambda view: view[::-1],
    "one element as an array": lambda view: view[7:8].reshape(()),
    "reshaped": lambda view: view.reshape(8, -1),
    "transposed": lambda view: view.reshape(8, 16, -1).transpose(2, 0, 1)[3:],
    "another dtype": lambda view: view.view(np.float16),
    "another dtype of a slice": lambda view: view[64:128].view(np.int64)[1:],
    "raveled": lambda view: view.reshape(8, -1).ravel(),
    "broadcast": lambda view: np.broadcast_to(view[:4], (3, 4)),
    "windows": lambda view: np.lib.stride_tricks.sliding_window_view(view, 16),
    "a subclass": lambda view: view.view(Subclass)[3:],
    "asarray": lambda view: np.asarray(view)[2:],
    "an iterator": iter,
    "a flat iterator": lambda view: view.flat,
    "a memoryview": memoryview,
    "a slice of a memoryview": lambda view: memoryview(view)[100:200],
    "an array over a memoryview": lambda view: np.asarray(memoryview(view)[1:])[1:],
    "frombuffer": lambda view: np.frombuffer(view, np.uint16, 10, 2),
    "DLPack": np.from_dlpack,
    "a pickle buffer": pickle.PickleBuffer,
    "ctypes": (ctypes.c_ubyte * SIZE).from_buffer,
    "in a closure": lambda view: lambda: view,
}


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED.keys())
def test_whatever_shows_the_bytes_keeps_them(pool: MemoryPool, derive: Callable[..., Any]) -> None:
    content = all_bytes(pool)
    block = block_with_pattern(pool)
    held = derive(pool.view(block, np.uint8, SIZE))
    assert pool.is_leased(block)
    assert pool.deallocate(block) is False
    overwrite_the_rest(pool)
    assert bytes(content[block.offset : block.offset + SIZE]) == PATTERN.tobytes()
    stats = pool.stats()
    assert (stats.parting_blocks, stats.live_blocks, stats.used) == (1, 0, SIZE)
    pool.check_integrity()
    del held
    assert used_now(pool) == 0
    assert pool.stats().parting_blocks == 0
    pool.check_integrity()


COPIES: dict[str, Callable[[Any], Any]] = {
    "a copy": lambda view: view.copy(),
    "an element": lambda view: view[3],
    "bytes": lambda view: view.tobytes(),
    "picked elements": lambda view: view[[1, 2, 3]],
    "a mask": lambda view: view[view > 3],
    "a sum": lambda view: view + 1,
}


@pytest.mark.parametrize("derive", COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_no_lease(pool: MemoryPool, derive: Callable[..., Any]) -> None:
    block = block_with_pattern(pool)
    held = derive(pool.view(block, np.uint8, SIZE))
    assert not pool.is_leased(block)
    assert pool.deallocate(block) is True
    del held


# -- the end of a lease --------------------------------------------------------------------


def test_the_offset_comes_back_with_the_last_of_many_views(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    views = [pool.view(block, np.uint8, 64, 64 * index) for index in range(8)]
    views += [view[5:] for view in views]
    assert pool.deallocate(block) is False
    while views:
        others = [pool.allocate(SIZE) for _ in range(3)]
        with pytest.raises(PoolExhaustedError):
            pool.allocate(SIZE)
        for other in others:
            assert other.offset != block.offset
            pool.deallocate(other)
        views.pop()
    assert pool.allocate(SIZE).offset == block.offset


def test_a_block_without_views_goes_at_once(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    view = pool.view(block, np.uint8, SIZE)
    del view
    assert not pool.is_leased(block)
    assert pool.deallocate(block) is True


def test_a_lease_can_be_taken_again(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    for _ in range(3):
        view = pool.view(block, np.uint8, SIZE)
        assert pool.is_leased(block)
        del view
        assert not pool.is_leased(block)
    view = pool.view(block, np.uint8, SIZE)
    assert pool.deallocate(block) is False
    assert np.array_equal(view, PATTERN)


def test_a_block_that_parts_is_stale_though_its_views_are_not(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    view = pool.view(block, np.uint8, SIZE)
    pool.deallocate(block)
    with pytest.raises(StaleBlockError):
        pool.view(block, np.uint8, SIZE)
    view[:] = 7
    assert view.min() == 7
    assert (0, SIZE, None) in pool.ranges()


def test_reclaim_takes_a_block_only_without_views(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    view = pool.view(block, np.uint8, SIZE)
    before = pool.stats()
    assert pool.reclaim(block) is False
    assert pool.stats() == before
    del view
    assert pool.reclaim(block) is True
    assert pool.stats().used == 0


# -- torch ---------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.parametrize("numpy_first", [True, False])
def test_a_torch_tensor_is_a_lease(pool: MemoryPool, numpy_first: bool) -> None:
    torch = needs.torch()
    block = block_with_pattern(pool)
    view = pool.view(block, np.uint8, (8, SIZE // 8))
    tensor = torch.from_numpy(view[1:]) if numpy_first else torch.from_numpy(view)[1:]
    part = tensor.transpose(0, 1)[3:]
    del view, tensor
    assert pool.deallocate(block) is False
    overwrite_the_rest(pool)
    assert np.array_equal(part.numpy(), PATTERN.reshape(8, -1)[1:].T[3:])
    del part
    assert used_now(pool) == 0
