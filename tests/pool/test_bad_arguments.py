"""Every call of a pool refuses bad arguments with an error that names them, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kvpool.errors import InvalidArgumentError
from kvpool.layout import KVLayout
from kvpool.pool import MemoryBlock, MemoryPool, open_pool
from tests.support.bad_arguments import (
    BELOW_ZERO,
    NOT_WHOLE,
    TOO_MUCH,
    WRONG_OBJECTS,
    Values,
    cases,
    check_all_refused,
    check_refused,
    pool_state,
    without,
)

LAYOUT = KVLayout(2, 2, 16, "float32")
CONTEXT = 256
STRIPE = CONTEXT * 16 * 4
Act = Callable[[MemoryPool, MemoryBlock, Any], object]
Table = dict[str, tuple[Act, tuple[Any, ...]]]

FLAGS = (True, np.True_)
HAVE_A_DTYPE = (np.True_, np.float32(2), np.int64(2))
NOT_A_SIZE = (*NOT_WHOLE, *BELOW_ZERO)
TOO_LARGE = (*NOT_A_SIZE, *TOO_MUCH)
SMALL = LAYOUT.geometry(4, 4096)

NUMBERS: Table = {
    "allocate": (lambda p, _b, v: p.allocate(v), (*TOO_LARGE, 0)),
    "allocate, alignment": (lambda p, _b, v: p.allocate(64, v), (*TOO_LARGE, 0, 3)),
    "allocate_evicting": (lambda p, b, v: p.allocate_evicting(v, [b]), (*TOO_LARGE, 0)),
    "make_room": (lambda p, b, v: p.make_room(v, [b]), (*TOO_LARGE, 0)),
    "make_room, alignment": (lambda p, b, v: p.make_room(64, [b], v), (*TOO_LARGE, 0, 3)),
    "reserve_evicting": (
        lambda p, b, v: p.reserve_evicting(SMALL, [b], committed=v),
        NOT_A_SIZE,
    ),
    "charge": (lambda p, _b, v: p.charge(v), NOT_A_SIZE),
    "cost": (lambda p, _b, v: p.cost(SMALL, v), NOT_A_SIZE),
    "could_hold": (lambda p, _b, v: p.could_hold(SMALL, v), NOT_A_SIZE),
    "view, shape": (
        lambda p, b, v: p.view(b, "u1", v),
        (*without(TOO_LARGE, "", [], (1, 2)), (1, -1), (0, 10**30)),
    ),
    "view, offset": (lambda p, b, v: p.view(b, "u1", 1, v), TOO_LARGE),
    "view, dtype": (
        lambda p, b, v: p.view(b, v, 1),
        (*without(WRONG_OBJECTS, [], *HAVE_A_DTYPE), "float31", ">", object),
    ),
    "zero_range, offset": (lambda p, _b, v: p.zero_range(v, 1), TOO_LARGE),
    "zero_range, nbytes": (lambda p, _b, v: p.zero_range(0, v), TOO_LARGE),
    "commit, group": (lambda p, b, v: p.commit(b, v, 0, 64), without(NOT_A_SIZE, None)),
    "commit, start": (lambda p, b, v: p.commit(b, 0, v, 64), (*TOO_LARGE, 65)),
    "commit, end": (lambda p, b, v: p.commit(b, 0, 0, v), TOO_LARGE),
    "trim": (lambda p, b, v: p.trim(b, v), TOO_LARGE),
    "fork": (lambda p, b, v: p.fork(b, v), TOO_LARGE),
}
RANGES: Table = {
    "write_lease, group": (
        lambda p, b, v: p.write_lease(b, v, 0, 2 * 4096),
        (*without(TOO_LARGE, None, np.True_), 2),  # a list takes NumPy's bool as an index until 2.2
    ),
    "write_lease, start": (lambda p, b, v: p.write_lease(b, 0, v, 4097), TOO_LARGE),
    "write_lease, end": (
        lambda p, b, v: p.write_lease(b, 0, 0, v),
        (*without(TOO_LARGE, *BELOW_ZERO), STRIPE + 1),
    ),
    "commit, group": (lambda p, b, v: p.commit(b, v, 0, 1), (2, *TOO_MUCH)),
    "commit, end": (lambda p, b, v: p.commit(b, 0, 0, v), (STRIPE + 1,)),
}
BLOCKS: dict[str, Callable[[MemoryPool, Any], object]] = {
    "allocate_evicting": lambda p, v: p.allocate_evicting(p.capacity, [v]),
    "deallocate": lambda p, v: p.deallocate(v),
    "reclaim": lambda p, v: p.reclaim(v),
    "make_room": lambda p, v: p.make_room(p.capacity, [v]),
    "reserve_evicting": lambda p, v: p.reserve_evicting(SMALL, [v], committed=256),
    "is_leased": lambda p, v: p.is_leased(v),
    "lease": lambda p, v: p.lease(v),
    "write_lease": lambda p, v: p.write_lease(v, None, 0, 1),
    "view": lambda p, v: p.view(v, "u1", 1),
    "commit": lambda p, v: p.commit(v, None, 0, 1),
    "trim": lambda p, v: p.trim(v, 1),
    "fork": lambda p, v: p.fork(v, 1),
}
GEOMETRIES: dict[str, Callable[[MemoryPool, Any], object]] = {
    "reserve": lambda p, v: p.reserve(v),
    "reserve_evicting": lambda p, v: p.reserve_evicting(v, ()),
    "cost": lambda p, v: p.cost(v, 1),
    "could_hold": lambda p, v: p.could_hold(v, 1),
}


@pytest.fixture(params=[("numpy", False), ("mmap", True)], ids=["rigid", "elastic"])
def pool(request: pytest.FixtureRequest) -> Iterator[MemoryPool]:
    with open_pool(1 << 20, *request.param) as opened:
        yield opened


@pytest.fixture
def elastic() -> Iterator[MemoryPool]:
    with open_pool(1 << 20, "mmap", elastic=True) as opened:
        yield opened


def started(pool: MemoryPool) -> MemoryBlock:
    """Return a block of which a page is written, in a pool without a free range for another."""
    block = pool.reserve(LAYOUT.geometry(CONTEXT, 4096))
    root, _ = pool.write_lease(block, None, 0, 64)
    root[:64] = 7
    return block


@pytest.mark.parametrize(("act", "values"), cases(NUMBERS))
def test_numbers(pool: MemoryPool, act: Act, values: Values) -> None:
    block = started(pool)
    check_all_refused(lambda v: act(pool, block, v), values, lambda: pool_state(pool))
    assert pool.lease(block)[:64].tolist() == [7] * 64


@pytest.mark.parametrize(("act", "values"), cases(RANGES))
def test_ranges_that_the_block_does_not_have(elastic: MemoryPool, act: Act, values: Values) -> None:
    block, other = elastic.reserve(LAYOUT.geometry(CONTEXT, 4096)), started(elastic)
    check_all_refused(lambda v: act(elastic, block, v), values, lambda: pool_state(elastic))
    elastic.trim(block, 0)
    assert elastic.lease(other)[:64].tolist() == [7] * 64


@pytest.mark.parametrize("name", BLOCKS)
def test_objects_that_are_not_blocks_of_the_pool(pool: MemoryPool, name: str) -> None:
    pool.allocate(pool.capacity - pool.granule)
    with open_pool(1 << 20, "numpy") as other:
        for value in (*WRONG_OBJECTS, started(other)):
            check_refused(lambda v: BLOCKS[name](pool, v), value, lambda: pool_state(pool))
            assert not pool.is_live(value)


def test_more_is_committed_than_a_stripe_has(pool: MemoryPool) -> None:
    started(pool)
    check_refused(
        lambda v: pool.reserve_evicting(SMALL, (), committed=v), 4097, lambda: pool_state(pool)
    )


def geometry(**attributes: Any) -> Any:
    """Return a geometry with one thing wrong."""
    names = ("nbytes", "groups", "stripes_per_group", "stripe_offsets", "bytes_in_pages")
    return SimpleNamespace(**{name: getattr(SMALL, name) for name in names} | attributes)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_objects_that_are_not_geometries(pool: MemoryPool, name: str) -> None:
    started(pool)
    for value in WRONG_OBJECTS:
        check_refused(lambda v: GEOMETRIES[name](pool, v), value, lambda: pool_state(pool))


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("attribute", ["nbytes", "groups", "stripes_per_group"])
def test_geometries_with_bad_numbers(pool: MemoryPool, name: str, attribute: str) -> None:
    started(pool)
    for value in (*NOT_A_SIZE, 0, 7):
        check_refused(
            lambda v: GEOMETRIES[name](pool, geometry(**{attribute: v})),
            value,
            lambda: pool_state(pool),
        )


def test_a_geometry_without_offsets(pool: MemoryPool) -> None:
    with pytest.raises(InvalidArgumentError, match="is wrong"):
        pool.reserve(geometry(stripe_offsets=7))
    pool.check_integrity()


def test_victims_and_deallocations(pool: MemoryPool) -> None:
    block = started(pool)
    wrong: Any
    for wrong in (7, 1.5, ...):
        check_refused(lambda v: pool.make_room(pool.capacity, v), wrong, lambda: pool_state(pool))
    for wrong in (7, "x", {}):
        check_refused(lambda v: pool.deallocate(block, v), wrong, lambda: pool_state(pool))
        check_refused(lambda v: pool.reclaim(block, v), wrong, lambda: pool_state(pool))


def test_who_is_told_of_victims(pool: MemoryPool) -> None:
    calls: list[Callable[[Any], object]] = [
        lambda v: pool.make_room(pool.capacity, (), leaving=v),
        lambda v: pool.allocate_evicting(64, (), leaving=v),
        lambda v: pool.reserve_evicting(SMALL, (), leaving=v),
    ]
    wrong: Any
    for call in calls:
        for wrong in (7, "x", {}, ...):
            check_refused(call, wrong, lambda: pool_state(pool))


def test_whole_numbers_of_numpy_are_accepted(pool: MemoryPool) -> None:
    block = started(pool)
    number: Any = np.int64
    assert pool.allocate(number(64)).size == 64
    assert not pool.commit(block, number(0), number(0), number(64))
    pool.write_lease(block, number(1), number(0), number(4097))
    assert pool.charge(number(1)) == pool.granule
    pool.trim(block, number(64))
    ends: list[Any] = [number(64), np.array(64)]
    for end in ends:
        made = pool.fork(block, end)
        if isinstance(made, tuple):
            assert made[1].__class__ is int
    pool.check_integrity()


def test_a_pool_that_cannot_be_opened() -> None:
    for value in (*NOT_A_SIZE, 0):
        check_refused(lambda v: MemoryPool(v, "numpy"), value, lambda: None)
    for value in without(WRONG_OBJECTS, None, ""):  # these choose the default
        check_refused(lambda v: MemoryPool(1 << 20, v), value, lambda: None)
        check_refused(lambda v: open_pool(1 << 20, v), value, lambda: None)
    for value in without(WRONG_OBJECTS, *FLAGS):
        check_refused(lambda v: MemoryPool(1 << 20, "numpy", secure=v), value, lambda: None)
    for value in without(WRONG_OBJECTS, None, *FLAGS):
        check_refused(lambda v: open_pool(1 << 20, "numpy", v), value, lambda: None)
    for value in without((*NOT_A_SIZE, 0), None):
        check_refused(
            lambda v: open_pool(1 << 20, "mmap", elastic=True, address_space=v),
            value,
            lambda: None,
        )
