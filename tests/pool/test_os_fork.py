"""In a child that `os.fork` made, the pool of the parent refuses calls and changes nothing."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from kvpool.errors import PoolExhaustedError
from kvpool.pool import MemoryBlock, MemoryPool, open_pool
from tests.support.children import Holder, in_child, needs_fork, refused
from tests.support.pool_calls import POOL_CALLS
from tests.support.sessions import LAYOUT

pytestmark = needs_fork

WITHOUT_ACCOUNTS = {"charge", "cost", "could_hold", "close", "trim_parent"}


KINDS = [("numpy", False), ("mmap", False), ("mmap", True)]
if sys.platform == "linux":
    KINDS += [("ctypes", False), ("ctypes", True)]


@pytest.fixture(params=KINDS, ids=str)
def pool(request: pytest.FixtureRequest) -> Iterator[MemoryPool]:
    backend, is_elastic = request.param
    with open_pool(1 << 20, backend, is_elastic) as pool:
        yield pool
        pool.check_integrity()


@pytest.fixture
def block(pool: MemoryPool) -> MemoryBlock:
    block = pool.reserve(LAYOUT.geometry(64, pool.granule))
    pool.write_lease(block, None, 0, 64)[0][:64] = 7
    return block


def figures(pool: MemoryPool, block: MemoryBlock) -> tuple[object, ...]:
    content = pool.lease(block)[:64].tolist()
    return pool.stats(), pool.usage(), pool.ranges(), pool.committed_bytes(), content


def test_the_table_has_every_call() -> None:
    public = {
        name
        for name, member in vars(MemoryPool).items()
        if not name.startswith("_") and not isinstance(member, property)
    }
    assert public == POOL_CALLS.keys() | WITHOUT_ACCOUNTS


def test_every_call_is_refused(pool: MemoryPool, block: MemoryBlock) -> None:
    before = figures(pool, block)

    def act() -> None:
        for name, call in POOL_CALLS.items():
            refused(name, partial(call, pool, block))

    in_child(act)
    assert figures(pool, block) == before


def test_what_never_changes_can_be_asked(pool: MemoryPool, block: MemoryBlock) -> None:
    def facts() -> tuple[object, ...]:
        geometry = LAYOUT.geometry(8, pool.granule)
        return (
            pool.capacity,
            pool.granule,
            pool.is_elastic,
            pool.arena_info,
            pool.charge(100),
            pool.cost(geometry, 3),
            pool.could_hold(geometry, 3),
            block.size,
        )

    before = facts()

    def act() -> None:
        assert facts() == before
        assert "of process" in repr(pool)

    in_child(act)


def test_closing_does_nothing(pool: MemoryPool, block: MemoryBlock) -> None:
    before = figures(pool, block)

    def act() -> None:
        with pool:
            pass
        pool.close()
        pool.trim_parent(block)
        refused("stats", pool.stats)

    in_child(act)
    assert figures(pool, block) == before


def test_views_show_what_they_showed_and_their_end_is_silent(
    pool: MemoryPool, block: MemoryBlock
) -> None:
    views = [pool.view(block, "u1", 64)]
    ending = pool.allocate(100)
    views.append(pool.view(ending, "u1", 100))
    views[1][:] = 9
    pool.deallocate(ending)  # its bytes wait for the view
    draining = pool.stats()

    def act() -> None:
        assert views[0].tolist() == [7] * 64
        assert views[1].tolist() == [9] * 100
        views[0][:] = 1
        views.clear()
        gc.collect()
        refused("stats", pool.stats)

    in_child(act)
    assert pool.stats() == draining
    assert views[0].tolist() == [7] * 64
    assert views[1].tolist() == [9] * 100


def test_a_lock_that_another_thread_held_keeps_nobody(pool: MemoryPool, block: MemoryBlock) -> None:
    """The victims are taken under the lock of the pool."""

    def victims(wait: Callable[[], None]) -> Iterator[MemoryBlock]:
        wait()
        yield block

    def make_room(wait: Callable[[], None]) -> None:
        with pytest.raises(PoolExhaustedError):
            pool.make_room(pool.capacity, victims(wait))

    kept = pool.view(block, "u1", 64)  # a victim with a view stays

    def act() -> None:
        for name, call in POOL_CALLS.items():
            refused(name, partial(call, pool, block))
        pool.close()
        kept.tolist()

    with Holder(make_room).in_the_middle():
        in_child(act)
    pool.check_integrity()
    assert kept.tolist() == [7] * 64


def test_a_child_may_have_a_pool_of_its_own(pool: MemoryPool, block: MemoryBlock) -> None:
    before = figures(pool, block)

    def act() -> None:
        with open_pool(1 << 20, pool.arena_info.backend, pool.is_elastic) as own:
            mine = own.allocate(100)
            own.view(mine, "u1", 100)[:] = 3
            own.check_integrity()
            in_child(lambda: refused("stats", own.stats))

    in_child(act)
    assert figures(pool, block) == before
