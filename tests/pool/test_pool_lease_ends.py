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
from tests.support.arenas import under_the_lock, used_now
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


def test_a_lease_may_end_while_this_thread_holds_the_lock(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    view = pool.view(block, np.uint8, SIZE)
    pool.deallocate(block)
    views = [view]
    del view

    def look_away() -> None:
        views.clear()
        assert used_now(pool) == SIZE

    under_the_lock(pool, look_away)
    pool.check_integrity()  # as any other call, it reaps ended leases first
    assert used_now(pool) == 0
    assert pool.allocate(CAPACITY).offset == 0


def test_a_full_pool_counts_on_what_ended_under_the_lock(pool: MemoryPool) -> None:
    block = pool.allocate(CAPACITY)
    views = [pool.view(block, np.uint8, CAPACITY)]
    pool.deallocate(block)
    under_the_lock(pool, views.clear)
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
        assert used_now(pool) == 0
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
    assert used_now(pool) == 0


def test_a_lease_may_be_held_and_end_in_another_thread(pool: MemoryPool) -> None:
    block = block_with_pattern(pool)
    holding, let_go = threading.Event(), threading.Event()
    seen: list[bool] = []

    def hold(view: np.ndarray[Any, Any]) -> None:
        part = view[10:]
        del view
        holding.set()
        let_go.wait(60)
        seen.append(np.array_equal(part, PATTERN[10:]))

    views = [pool.view(block, np.uint8, SIZE)]
    thread = threading.Thread(target=lambda: hold(views.pop()))
    thread.start()
    assert holding.wait(60)
    assert pool.deallocate(block) is False
    overwrite_the_rest(pool)
    let_go.set()
    thread.join(60)
    assert seen == [True]
    assert pool.stats().used == 0
    pool.check_integrity()


# -- the end of the pool -------------------------------------------------------------------


def test_views_outlive_the_close_of_their_pool(pool: MemoryPool) -> None:
    live, parting = block_with_pattern(pool), block_with_pattern(pool)
    views = [pool.view(block, np.uint8, SIZE) for block in (live, parting)]
    pool.deallocate(parting)
    gone = weakref.ref(parting)
    del parting
    pool.close()
    for view in views:
        assert np.array_equal(view, PATTERN)
        view[:] = 1
        assert view.sum() == SIZE
    del views, view
    assert gone() is None  # nothing waits for a closed pool to reap the lease
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
