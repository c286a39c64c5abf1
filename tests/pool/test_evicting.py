"""`reserve_evicting` and `allocate_evicting`: fit, or end victims and fit, or change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from kvpool.errors import (
    AddressSpaceExhaustedError,
    DoubleFreeError,
    ForeignBlockError,
    InvalidSizeError,
    PoolClosedError,
    PoolExhaustedError,
    StaleBlockError,
)
from kvpool.layout import KVLayout
from kvpool.pool import Deallocation, ElasticPool, MemoryBlock, MemoryPool
from kvpool.pool._block import LIVE
from tests.support.marks import needs_pages

LAYOUT = KVLayout(layers=1, kv_heads=2, head_dim=256, dtype="float32")  # 4 tokens in a page
PAGE = 4096
STRIPES = 4
SIZE = 1024  # of each of the `blocks`


def test_a_block_that_fits_asks_for_no_victim(pool: MemoryPool) -> None:
    other = pool.allocate(SIZE)
    victims = iter([other])
    block, evicted = pool.allocate_evicting(SIZE, victims)
    assert (pool.is_live(block), evicted, next(victims)) == (True, [], other)


def test_victims_end_in_order_until_the_block_fits(
    pool: MemoryPool, blocks: list[MemoryBlock]
) -> None:
    view = pool.lease(blocks[1])
    told: list[Deallocation] = []
    order = [blocks[1], blocks[3], blocks[2], blocks[5]]
    pool.lease(blocks[3])[:] = 7
    block, evicted = pool.allocate_evicting(2 * SIZE, order, deallocations=told)
    assert evicted == [blocks[3], blocks[2]] == [one.block for one in told]
    assert block.offset == 2 * SIZE
    assert not pool.lease(block).any()
    assert [one.before.used - one.after.used for one in told] == [SIZE, SIZE]
    assert view.size
    pool.check_integrity()


def test_the_victims_are_told_before_they_end_and_may_be_refused(
    pool: MemoryPool, blocks: list[MemoryBlock]
) -> None:
    geometry = KVLayout(layers=1, kv_heads=1, head_dim=16, dtype="float32").geometry(16, SIZE)
    calls: list[Callable[..., object]] = [
        partial(pool.allocate_evicting, 2 * SIZE),
        partial(pool.reserve_evicting, geometry),
        partial(pool.make_room, 2 * SIZE),
    ]
    told: list[list[MemoryBlock]] = []

    def note(chosen: list[MemoryBlock]) -> None:
        told.append(list(chosen))
        assert all(block.state is LIVE for block in chosen)

    def refuse(chosen: list[MemoryBlock]) -> None:
        raise KeyError(len(chosen))

    for number, call in enumerate(calls):
        before, ranges = pool.stats(), pool.ranges()
        with pytest.raises(KeyError, match="2"):
            call(blocks[2 * number :], leaving=refuse)
        assert (pool.stats(), pool.ranges()) == (before, ranges)
        call(blocks[2 * number :], leaving=note)
    pool.make_room(SIZE, [], leaving=note)  # what fits has no victims
    assert told == [blocks[0:2], blocks[2:4], blocks[4:6]]
    pool.check_integrity()


def test_a_rigid_pool_reserves_whole_blocks(pool: MemoryPool, blocks: list[MemoryBlock]) -> None:
    small = KVLayout(layers=1, kv_heads=1, head_dim=16, dtype="float32")
    geometry = small.geometry(16, pool.granule)  # 2 KiB
    block, evicted = pool.reserve_evicting(geometry, blocks, committed=64)
    assert evicted == blocks[:2]
    assert (block.size, block.charged) == (2 * SIZE, 2 * SIZE)


@pytest.mark.parametrize("kind", ["stale", "foreign", "twice", "raising", "too few", "too large"])
def test_an_error_changes_nothing(
    pool: MemoryPool, blocks: list[MemoryBlock], backend: str, kind: str
) -> None:
    pool.deallocate(blocks[0])

    def raising() -> Iterator[MemoryBlock]:
        yield blocks[2]
        raise KeyError("a policy")

    with MemoryPool(SIZE, backend) as other:
        victims, nbytes, error = {
            "stale": ([blocks[2], blocks[0]], 4 * SIZE, StaleBlockError),
            "foreign": ([blocks[2], other.allocate(SIZE)], 4 * SIZE, ForeignBlockError),
            "twice": ([blocks[2], blocks[2]], 4 * SIZE, DoubleFreeError),
            "raising": (raising(), 4 * SIZE, KeyError),
            "too few": (blocks[1:3], 4 * SIZE, PoolExhaustedError),
            "too large": (blocks[1:], 9 * SIZE, PoolExhaustedError),
        }[kind]
        before, ranges = pool.stats(), pool.ranges()
        with pytest.raises(error) as caught:
            pool.allocate_evicting(nbytes, victims)
        assert type(caught.value) is error
        assert (pool.stats(), pool.ranges()) == (before, ranges)
    pool.check_integrity()


@pytest.mark.parametrize("nbytes", [0, -1, True, 1.5, "64", float("nan")])
def test_a_bad_size_is_refused(pool: MemoryPool, nbytes: int) -> None:
    with pytest.raises(InvalidSizeError, match=r"nbytes must be"):
        pool.allocate_evicting(nbytes, [])
    with pytest.raises(InvalidSizeError, match=r"committed must be"):
        pool.reserve_evicting(LAYOUT.geometry(4), [], committed=nbytes or -1)


def test_a_closed_pool_is_refused(pool: MemoryPool, blocks: list[MemoryBlock]) -> None:
    pool.close()
    with pytest.raises(PoolClosedError):
        pool.allocate_evicting(SIZE, blocks)
    with pytest.raises(PoolClosedError):
        pool.write_lease(blocks[0], None, 0, 1)


# -- pages and addresses -------------------------------------------------------------------


@pytest.fixture(params=["mmap", "ctypes"])
def elastic(request: pytest.FixtureRequest) -> Iterator[ElasticPool]:
    """A pool with 16 pages, and addresses for three blocks of 16 pages."""
    with ElasticPool(16 * PAGE, request.param, address_space=48 * PAGE) as pool:
        yield pool


@needs_pages
def test_pages_are_committed_in_the_same_step(elastic: ElasticPool) -> None:
    geometry = LAYOUT.geometry(16, PAGE)
    first, _ = elastic.reserve_evicting(geometry, [], committed=2 * PAGE)
    assert first.charged == 2 * STRIPES * PAGE
    second = elastic.reserve(geometry)
    elastic.commit(second, None, 0, 2 * PAGE)
    third, evicted = elastic.reserve_evicting(geometry, [second, first], committed=PAGE)
    assert (evicted, third.charged) == ([second], STRIPES * PAGE)
    root, took_pages = elastic.write_lease(third, None, 0, PAGE)
    assert not took_pages
    assert not root.any()
    elastic.check_integrity()


@needs_pages
def test_addresses_and_pages_may_both_be_missing(elastic: ElasticPool) -> None:
    geometry = LAYOUT.geometry(16, PAGE)
    empty, half, full = (elastic.reserve(geometry) for _ in range(3))
    elastic.commit(half, None, 0, PAGE)
    elastic.commit(full, None, 0, 3 * PAGE)
    with pytest.raises(AddressSpaceExhaustedError, match="of address space"):
        elastic.reserve_evicting(geometry, [])
    _, evicted = elastic.reserve_evicting(geometry, [empty, half, full])
    assert evicted == [empty]  # no page is wanted
    _, evicted = elastic.reserve_evicting(geometry, [half, full], committed=2 * PAGE)
    assert evicted == [half, full]
    elastic.check_integrity()


@needs_pages
@pytest.mark.parametrize("victim", ["twice", "stale", "leased"])
def test_an_elastic_pool_changes_nothing_either(elastic: ElasticPool, victim: str) -> None:
    geometry = LAYOUT.geometry(16, PAGE)
    blocks = [elastic.reserve(geometry) for _ in range(3)]
    for block in blocks[:2]:
        elastic.commit(block, None, 0, 2 * PAGE)
    elastic.deallocate(blocks[2])
    view = elastic.lease(blocks[1])
    error = {"twice": DoubleFreeError, "stale": StaleBlockError, "leased": PoolExhaustedError}
    second = {"twice": blocks[0], "stale": blocks[2], "leased": blocks[1]}[victim]
    before, usage = elastic.stats(), elastic.usage()
    with pytest.raises(error[victim]):
        elastic.reserve_evicting(geometry, [blocks[0], second], committed=3 * PAGE)
    assert (elastic.stats(), elastic.usage()) == (before, usage)
    assert view.size
    elastic.check_integrity()


# -- write_lease, cost and could_hold ------------------------------------------------------


@needs_pages
def test_a_write_lease_commits_and_leases(elastic: ElasticPool) -> None:
    block = elastic.reserve(LAYOUT.geometry(20, PAGE))
    root, took_pages = elastic.write_lease(block, 0, 0, 1)
    assert (took_pages, block.charged, elastic.is_leased(block)) == (True, STRIPES * PAGE, True)
    again, took_pages = elastic.write_lease(block, 0, 1, PAGE)
    assert again is root
    assert not took_pages
    with pytest.raises(PoolExhaustedError):
        elastic.write_lease(block, 0, PAGE, 5 * PAGE)
    assert block.charged == STRIPES * PAGE
    elastic.deallocate(block)
    with pytest.raises(StaleBlockError):
        elastic.write_lease(block, 0, 0, 1)


def test_a_write_lease_of_a_rigid_pool_is_a_lease(pool: MemoryPool, backend: str) -> None:
    block = pool.allocate(SIZE)
    root, took_pages = pool.write_lease(block, None, 0, SIZE)
    assert (pool.lease(block) is root, took_pages) == (True, False)
    with MemoryPool(SIZE, backend) as other, pytest.raises(ForeignBlockError):
        other.write_lease(block, None, 0, 1)


@needs_pages
@pytest.mark.parametrize("tokens", [0, 1, 4, 5, 16])
def test_cost_is_what_is_charged(elastic: ElasticPool, tokens: int) -> None:
    geometry = LAYOUT.geometry(16, PAGE)
    block, _ = elastic.reserve_evicting(geometry, [], committed=tokens * geometry.token_stride)
    assert elastic.cost(geometry, tokens) == block.charged
    with MemoryPool(1 << 20, "numpy") as rigid:
        assert rigid.cost(geometry, tokens) == rigid.reserve(geometry).charged
    assert (elastic.is_elastic, rigid.is_elastic) == (True, False)


@needs_pages
def test_could_hold_asks_for_pages_and_for_addresses(elastic: ElasticPool) -> None:
    assert elastic.could_hold(LAYOUT.geometry(48, PAGE), 16)
    assert not elastic.could_hold(LAYOUT.geometry(48, PAGE), 17)  # 20 pages of 16
    assert not elastic.could_hold(LAYOUT.geometry(52, PAGE), 1)  # addresses of 52 pages
    with MemoryPool(16 * PAGE, "numpy") as rigid:
        assert rigid.could_hold(LAYOUT.geometry(16, 64), 1)
        assert not rigid.could_hold(LAYOUT.geometry(17, 64), 1)
