"""What blocks and views of `MemoryPool` cost, in each arena, beside plain NumPy arrays.

The plain way is what a program without a pool does: `numpy.zeros` for each session, given
back by forgetting it.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.harness import Measurement, Ratio, Report, interleave, median, seconds
from kvpool.pool import MemoryPool

KIB, MIB = 1 << 10, 1 << 20
CAPACITY = 64 * MIB
NUMPY = "numpy.zeros"
BACKENDS = ("numpy", "mmap", "ctypes") if sys.platform == "linux" else ("numpy", "mmap")

Work = Callable[[int], None]
"""Does something a given number of times."""


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of work: how often it is done in a round, by a pool, and by plain NumPy."""

    what: str
    times: int
    of_pool: Callable[[MemoryPool], Work]
    plain: Work | None = None


def take_and_give_back(size: int, pool: MemoryPool) -> Work:
    def work(times: int) -> None:
        for _ in range(times):
            pool.deallocate(pool.allocate(size))

    return work


def view(size: int, pool: MemoryPool) -> Work:
    block = pool.allocate(size)

    def work(times: int) -> None:
        for _ in range(times):
            pool.view(block, np.float16, (2, size // 4))

    return work


def another_view(size: int, pool: MemoryPool) -> Work:
    block = pool.allocate(size)
    held = pool.lease(block)  # so the block is leased already

    def work(times: int) -> None:
        for _ in range(times):
            pool.view(block, np.float16, (2, size // 4))
        assert held.size

    return work


def session(size: int, pool: MemoryPool) -> Work:
    def work(times: int) -> None:
        for _ in range(times):
            block = pool.allocate(size)
            pool.view(block, np.uint8, size)[:] = 1
            pool.deallocate(block)

    return work


def plain_session(size: int) -> Work:
    def work(times: int) -> None:
        for _ in range(times):
            np.zeros(size, np.uint8)[:] = 1

    return work


def evict(pool: MemoryPool) -> Work:
    blocks = deque(pool.allocate(4 * KIB) for _ in range(pool.capacity // (4 * KIB)))

    def work(times: int) -> None:
        for _ in range(times):
            pool.make_room(4 * KIB, iter(blocks))
            blocks.popleft()
            blocks.append(pool.allocate(4 * KIB))

    return work


TASKS = (
    Task("allocate + deallocate 4 KiB", 500, partial(take_and_give_back, 4 * KIB)),
    Task("view, first of a block", 500, partial(view, 4 * KIB)),
    Task("view, another one", 500, partial(another_view, 4 * KIB)),
    Task("evict + allocate among 16,384 blocks", 200, evict),
    Task(
        "64 KiB: take, write, give back", 100, partial(session, 64 * KIB), plain_session(64 * KIB)
    ),
    Task("4 MiB: take, write, give back", 10, partial(session, 4 * MIB), plain_session(4 * MIB)),
)


def run(quick: bool) -> Report:
    """Measure every task in every arena."""
    report = Report("blocks and views of MemoryPool")
    for task in TASKS:
        measure(task, report, rounds=5 if quick else 101)
    return report


def measure(task: Task, report: Report, rounds: int) -> None:
    """Measure one task for all arenas in turns, and add the figures to the report."""
    pools = {f"kvpool, {backend}": MemoryPool(CAPACITY, backend) for backend in BACKENDS}
    works = {name: task.of_pool(pool) for name, pool in pools.items()}
    if task.plain:
        works[NUMPY] = task.plain
    samples = interleave(
        {name: partial(one_round, work, task.times) for name, work in works.items()}, rounds
    )
    measured = {name: median(task.what, name, "µs", samples[name]) for name in works}
    report.measurements += measured.values()
    if task.plain:
        report.ratios += [rate(measured[name], measured[NUMPY]) for name in pools]
    works.clear()
    for pool in pools.values():
        pool.close()


def one_round(work: Work, times: int) -> float:
    """Return the microseconds that it took once, on average."""
    start = seconds()
    work(times)
    return (seconds() - start) / times * 1e6


def rate(ours: Measurement, theirs: Measurement) -> Ratio:
    return Ratio(ours.what, ours, theirs, "times as fast", theirs.value / ours.value)
