from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvpool.errors import PoolExhaustedError, StaleBlockError
from kvpool.pool._block import MemoryBlock
from kvpool.pool._pool import MemoryPool

pytestmark = pytest.mark.usefixtures("frequent_switches")

THREADS = 8
CAPACITY = 256 * 1024


def in_threads(work: Callable[[int], None]) -> None:
    """Run `work` in all threads at once; an error in one of them is an error here."""
    start = threading.Barrier(THREADS)

    def begin_together(number: int) -> None:
        start.wait(60)
        work(number)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(begin_together, range(THREADS)))


class Worker:
    """One thread's blocks, each filled with the number of the thread and of the fill."""

    def __init__(self, pool: MemoryPool, number: int) -> None:
        self.pool = pool
        self.chance = random.Random(number)
        self.number = number
        self.held: list[tuple[MemoryBlock, NDArray[np.uint32], int]] = []
        self.parting: list[tuple[NDArray[np.uint32], int]] = []
        self.fills = 0

    def step(self) -> None:
        self.chance.choice([self.take, self.take, self.take, self.give, self.part, self.forget])()

    def take(self) -> None:
        """Allocate, see that it reads zero, fill, and hold a view."""
        words = self.chance.randrange(1, 2048)
        try:
            block = self.pool.allocate(4 * words, self.chance.choice([64, 64, 1024]))
        except PoolExhaustedError:
            self.give()
            return
        view = self.pool.view(block, np.uint32, words)
        assert not view.any()
        self.fills += 1
        value = self.number << 24 | self.fills
        view[:] = value
        self.held.append((block, view[words // 2 :], value))

    def give(self) -> None:
        """End a block whose bytes go back at once."""
        if self.held:
            block, view, value = self.held.pop(self.chance.randrange(len(self.held)))
            assert (view == value).all()
            assert self.pool.is_leased(block)
            del view
            assert self.pool.deallocate(block)

    def part(self) -> None:
        """End a block and keep its view."""
        if self.held:
            block, view, value = self.held.pop(self.chance.randrange(len(self.held)))
            assert not self.pool.deallocate(block)
            self.parting.append((view, value))

    def forget(self) -> None:
        """Drop a view whose block has ended."""
        if self.parting:
            view, value = self.parting.pop(self.chance.randrange(len(self.parting)))
            assert (view == value).all()

    def finish(self) -> None:
        while self.held:
            self.give()
        while self.parting:
            self.forget()


@pytest.mark.no_cover
@pytest.mark.stress
def test_eight_threads_never_see_each_others_bytes(backend: str) -> None:
    with MemoryPool(CAPACITY, backend) as pool:

        def work(number: int) -> None:
            worker = Worker(pool, number)
            for _ in range(4_000):
                worker.step()
            worker.finish()

        in_threads(work)
        pool.check_integrity()
        stats = pool.stats()
        assert (stats.used, stats.live_blocks, stats.parting_blocks) == (0, 0, 0)
        assert stats.allocations == stats.deallocations > THREADS * 100
        assert pool.ranges() == [(0, CAPACITY, None)]


@pytest.mark.stress
def test_make_room_never_takes_what_another_thread_reads(backend: str) -> None:
    """Half of the threads evict each other's blocks, until the other half has read enough."""
    size = 8 * 1024
    with MemoryPool(3 * size, backend) as pool:
        shared = dict.fromkeys(pool.allocate(size) for _ in range(3))
        readers = set(range(1, THREADS, 2))

        def evict_and_fill(number: int) -> None:
            filled = 0
            while readers or filled < 20:
                try:
                    for victim in pool.make_room(size, list(shared)):
                        del shared[victim]
                    block = pool.allocate(size)
                except (PoolExhaustedError, StaleBlockError):
                    continue  # all are being read, or another thread was faster
                filled += 1
                pool.view(block, np.uint32, size // 4)[:] = number << 16 | filled & 0xFFFF
                shared[block] = None

        def read(number: int) -> None:
            chance, seen = random.Random(number), 0
            try:
                while seen < 500:
                    if blocks := list(shared):
                        seen += words_are_all_the_same(pool, chance.choice(blocks))
            finally:
                readers.remove(number)

        in_threads(lambda number: read(number) if number in readers else evict_and_fill(number))
        pool.check_integrity()
        stats = pool.stats()
        assert (stats.parting_blocks, stats.live_blocks) == (0, len(shared))


def words_are_all_the_same(pool: MemoryPool, block: MemoryBlock) -> bool:
    """Read a block for a while; False if it was gone before."""
    try:
        view = pool.view(block, np.uint32, block.size // 4)
    except StaleBlockError:
        return False
    first = view[0]
    for _ in range(3):
        assert (view == first).all()
    return True


def test_a_block_is_given_to_one_thread_only(backend: str) -> None:
    with MemoryPool(64 * 1024, backend) as pool:
        taken: list[list[MemoryBlock]] = [[] for _ in range(THREADS)]

        def take_all(number: int) -> None:
            while True:
                try:
                    taken[number].append(pool.allocate(64))
                except PoolExhaustedError:
                    return

        in_threads(take_all)
        offsets = sorted(block.offset for blocks in taken for block in blocks)
        assert offsets == list(range(0, 64 * 1024, 64))
        pool.check_integrity()


def test_only_one_of_many_threads_frees_a_block(backend: str) -> None:
    with MemoryPool(64 * 1024, backend) as pool:
        blocks = [pool.allocate(64) for _ in range(500)]
        freed: list[int] = [0] * THREADS

        def free_all(number: int) -> None:
            for block in blocks:
                try:
                    freed[number] += pool.deallocate(block)
                except StaleBlockError:
                    continue

        in_threads(free_all)
        assert sum(freed) == 500
        pool.check_integrity()


def test_leases_that_end_in_all_threads_at_once_settle(backend: str) -> None:
    with MemoryPool(64 * 1024, backend) as pool:
        views: list[list[Any]] = [[] for _ in range(THREADS)]
        for index in range(64 * 1024 // 64):
            block = pool.allocate(64)
            views[index % THREADS].append(pool.view(block, np.uint8, 64)[3:])
            assert not pool.deallocate(block)

        def drop(number: int) -> None:
            while views[number]:
                views[number].pop()
                if len(views[number]) % 10 == 0:
                    pool.stats()

        in_threads(drop)
        assert pool.stats().free == pool.capacity
        pool.check_integrity()
