"""The accounts of a pool after calls that were interrupted anywhere."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from kvpool.errors import KVPoolError
from kvpool.layout import KVLayout
from kvpool.pool import MemoryBlock, MemoryPool, open_pool
from tests.support.injection import Injection, Kind, error_of

pytestmark = pytest.mark.usefixtures("views_may_be_interrupted")

LAYOUT = KVLayout(layers=2, kv_heads=1, head_dim=64, dtype="float32")
CAPACITY = 1 << 20
PLACES = 90  # in most calls there are fewer; then they end undisturbed
POOLS = [("numpy", False), ("mmap", False), ("mmap", True), ("ctypes", True)]


class InterruptedPool:
    """A pool, the blocks that its caller has, views of some, and random calls."""

    def __init__(self, backend: str, elastic: bool, seed: int) -> None:
        self.pool: MemoryPool = open_pool(CAPACITY, backend, elastic)
        self.random = random.Random(seed)
        self.blocks: list[MemoryBlock] = []
        self.views: list[Any] = []
        self.geometry = LAYOUT.geometry(256, self.pool.granule)
        self.interrupted = 0

    def some(self) -> MemoryBlock:
        return self.random.choice(self.blocks) if self.blocks else self.pool.allocate(64)

    def allocate(self) -> None:
        self.pool.allocate(self.random.choice([1, 5_000, 70_000]))

    def reserve(self) -> None:
        self.pool.reserve(self.geometry)

    def write(self) -> None:
        block = self.some()
        end = min(block.size, self.random.randint(1, 40_000), 65_536)
        root, took_pages = self.pool.write_lease(block, None, 0, end)
        root[:end] = 7
        if took_pages:
            self.pool.trim_parent(block)

    def view(self) -> None:
        self.views.append(self.pool.lease(self.some()))

    def let_go(self) -> None:
        self.views.clear()

    def trim(self) -> None:
        block = self.some()
        self.pool.trim(block, min(block.size, self.random.randint(0, 10_000)))

    def fork(self) -> None:
        block = self.some()
        self.pool.fork(block, min(block.size, self.random.randint(0, 20_000)))

    def deallocate(self) -> None:
        self.pool.deallocate(self.some(), [])

    def make_room(self) -> None:
        self.pool.make_room(300_000, iter(list(self.blocks)))

    def replace(self) -> None:
        self.pool.allocate_evicting(400_000, iter(list(self.blocks)))

    def stats(self) -> None:
        self.pool.stats()

    def step(self) -> None:
        """Make a random call, interrupted at a random place, and prove the accounts."""
        calls: list[Callable[[], None]] = [
            *(self.allocate, self.reserve, self.write, self.write, self.view, self.let_go),
            *(self.trim, self.fork, self.fork, self.deallocate, self.make_room, self.replace),
            self.stats,
        ]
        call = self.random.choice(calls)
        kind: Kind = self.random.choice(["interrupt", "memory"])
        injection = Injection(self.random.randint(1, PLACES), kind)
        try:
            with injection:
                call()
        except type(error_of(kind)):
            self.interrupted += 1
        except KVPoolError:
            pass
        try:
            self.pool.check_integrity()
        except KVPoolError as error:
            error.add_note(f"after {call.__name__}, {kind} at {injection.where}")
            raise
        # Also a block that a call took and could not hand out.
        self.blocks = [usage.block for usage in self.pool.usage() if usage.is_live]

    def end(self) -> None:
        """Give everything back: nothing is charged any more."""
        self.views.clear()
        for block in self.blocks:
            self.pool.deallocate(block)
        stats = self.pool.stats()
        self.pool.check_integrity()
        assert (stats.used, stats.live_blocks, stats.parting_blocks, stats.forks) == (0, 0, 0, 0)
        assert stats.largest_free == stats.capacity
        self.pool.close()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("backend", "elastic"), POOLS)
def test_accounts_are_right_after_interrupts(backend: str, elastic: bool, seed: int) -> None:
    if sys.platform != "linux" and (elastic or backend == "ctypes"):
        pytest.skip("elastic arenas are for Linux")
    subject = InterruptedPool(backend, elastic, seed)
    for _ in range(100):
        subject.step()
    assert subject.interrupted > 10
    subject.end()
