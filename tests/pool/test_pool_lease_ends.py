"""Leases end in any thread, in collections, under the pool's lock, and after the pool."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kvpool.errors import PoolClosedError
from kvpool.pool._block import MemoryBlock
from kvpool.pool._pool import MemoryPool
from tests.support.patterned import (
    CAPACITY,
    PATTERN,
    SIZE,
    block_with_pattern,
    offset_is_free,
    overwrite_the_rest,
)


@pytest.fixture
def pool(backend: str) -> Iterator[MemoryPool]:
    with MemoryPool(CAPACITY, backend) as pool:
        yield pool


def test_a_lease_may_end_while_this_thread_holds_the_lock(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    view = pool.view(block, np.uint8, SIZE)
    pool.deallocate(block)
    with pool._lock:
        del view
        assert not offset_is_free(pool, block.offset)
    pool.check_integrity()  # as any other call, it settles the books first
    assert offset_is_free(pool, block.offset)
    assert pool.allocate(CAPACITY).offset == 0


def test_a_full_pool_counts_on_what_ended_under_the_lock(pool: MemoryPool) -> None:
    block = pool.allocate(CAPACITY)
    view = pool.view(block, np.uint8, CAPACITY)
    pool.deallocate(block)
    with pool._lock:
        del view
    assert pool.allocate(CAPACITY).offset == 0


def test_a_lease_may_end_in_a_collection_inside_of_the_pool(pool: MemoryPool) -> None:
    doomed, victim = block_with_pattern(pool), pool.allocate(SIZE)
    cycle: list[Any] = [pool.view(doomed, np.uint8, SIZE)]
    cycle.append(cycle)
    pool.deallocate(doomed)
    del cycle

    def victims() -> Iterator[MemoryBlock]:
        gc.collect()  # as it may happen at any line that the pool runs under its lock
        yield victim

    assert pool.make_room(3 * SIZE, victims()) == [victim]
    assert pool.stats().used == 0
    pool.check_integrity()


def test_a_lease_in_a_cycle_ends_with_its_collection(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    cycle: dict[str, Any] = {"view": pool.view(block, np.uint8, SIZE)[10:]}
    cycle["self"] = cycle
    gc.disable()
    try:
        pool.deallocate(block)
        del cycle
        assert pool.stats().parting_blocks == 1
        gc.collect()
        assert offset_is_free(pool, block.offset)
    finally:
        gc.enable()


rescued: list[Any] = []


class Rescuer:
    """Its finalizer uses a view that is garbage, and saves it."""

    def __init__(self, view: Any) -> None:
        self.view = view
        self.cycle = self

    def __del__(self) -> None:
        rescued.append(self.view)


def test_a_view_that_a_finalizer_rescues_from_a_cycle_keeps_its_bytes(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    Rescuer(pool.view(block, np.uint8, SIZE))
    pool.deallocate(block)
    gc.collect()
    overwrite_the_rest(pool)
    assert np.array_equal(rescued[0], PATTERN)
    assert pool.stats().parting_blocks == 1
    rescued.clear()
    assert offset_is_free(pool, block.offset)


def test_a_lease_may_be_held_and_end_in_another_thread(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    holding, let_go = threading.Event(), threading.Event()
    seen: list[bool] = []

    def hold(view: np.ndarray[Any, Any]) -> None:
        part = view[10:]
        del view
        holding.set()
        let_go.wait(30)
        seen.append(np.array_equal(part, PATTERN[10:]))

    views = [pool.view(block, np.uint8, SIZE)]
    thread = threading.Thread(target=lambda: hold(views.pop()))
    thread.start()
    assert holding.wait(30)
    assert pool.deallocate(block) is False
    overwrite_the_rest(pool)
    let_go.set()
    thread.join(30)
    assert seen == [True]
    assert pool.stats().used == 0
    pool.check_integrity()


def test_a_death_that_is_told_late_or_twice_changes_nothing(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    first = block._root  # its array is dead already
    assert first is not None
    pool._ended.append(first)
    assert pool.stats().live_blocks == 1
    view = pool.view(block, np.uint8, SIZE)
    pool.deallocate(block)
    pool._ended.append(first)
    assert pool.stats().parting_blocks == 1
    second = block._root
    del view
    heir = pool.allocate(SIZE)
    assert heir.offset == block.offset
    assert second is not None
    pool._ended.append(second)
    assert pool.stats().live_blocks == 1
    pool.check_integrity()


# -- the end of the pool -------------------------------------------------------------------


def test_views_outlive_the_close_of_their_pool(pool: MemoryPool) -> None:
    live, parting = block_with_pattern(pool), block_with_pattern(pool)
    views = [pool.view(block, np.uint8, SIZE) for block in (live, parting)]
    pool.deallocate(parting)
    pool.close()
    for view in views:
        assert np.array_equal(view, PATTERN)
        view[:] = 1
        assert view.sum() == SIZE
    del views, view
    assert not pool._ended  # nobody would ever settle it
    with pytest.raises(PoolClosedError):
        pool.stats()


def test_views_outlive_a_pool_that_nobody_closed(backend: str) -> None:
    pool = MemoryPool(CAPACITY, backend)
    view = pool.view(block_with_pattern(pool), np.uint8, SIZE)
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert np.array_equal(view, PATTERN)
