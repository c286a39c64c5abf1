from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool.errors import (
    DoubleFreeError,
    ForeignBlockError,
    PoolError,
    PoolExhaustedError,
    StaleBlockError,
)
from kvpool.pool._block import MemoryBlock
from kvpool.pool._pool import MemoryPool

SIZE = 1024  # of each of the `blocks`


def test_what_fits_already_needs_no_victim(pool: MemoryPool) -> None:
    block = pool.allocate(SIZE)
    before = pool.stats()
    assert pool.make_room(7 * SIZE, [block]) == []
    assert pool.stats() == before


def test_victims_go_in_the_given_order(pool: MemoryPool, blocks: list[MemoryBlock]) -> None:
    assert pool.make_room(SIZE, [blocks[5], blocks[0]]) == [blocks[5]]
    assert pool.allocate(SIZE).offset == 5 * SIZE


def test_no_more_victims_go_than_needed(pool: MemoryPool, blocks: list[MemoryBlock]) -> None:
    assert pool.make_room(2 * SIZE, blocks) == blocks[:2]
    assert pool.stats().live_blocks == 6
    assert pool.allocate(2 * SIZE).offset == 0


def test_victims_are_taken_from_their_source_only_as_far_as_needed(
    pool: MemoryPool, blocks: list[MemoryBlock]
) -> None:
    source = iter(blocks)
    pool.make_room(SIZE, source)
    assert next(source) is blocks[1]


def test_room_is_contiguous(pool: MemoryPool, blocks: list[MemoryBlock]) -> None:
    order = [blocks[index] for index in (0, 2, 4, 6, 3, 7)]
    assert pool.make_room(3 * SIZE, order) == order[:5]
    assert pool.allocate(3 * SIZE).offset == 2 * SIZE


def test_room_is_joined_with_what_was_free(pool: MemoryPool, blocks: list[MemoryBlock]) -> None:
    pool.deallocate(blocks[4])
    assert pool.make_room(2 * SIZE, [blocks[0], blocks[3], blocks[7]]) == [blocks[0], blocks[3]]
    assert pool.allocate(2 * SIZE).offset == 3 * SIZE


def test_room_is_aligned(pool: MemoryPool, blocks: list[MemoryBlock]) -> None:
    order = [blocks[index] for index in (1, 2, 3, 5, 4)]
    assert pool.make_room(SIZE, order, alignment=4 * SIZE) == order
    assert pool.allocate(SIZE, alignment=4 * SIZE).offset == 4 * SIZE


def test_leased_victims_are_passed_over(pool: MemoryPool, blocks: list[MemoryBlock]) -> None:
    view = pool.view(blocks[0], np.uint8, SIZE)
    assert pool.make_room(SIZE, blocks[:3]) == [blocks[1]]
    assert pool.is_leased(blocks[0])
    del view


def test_a_victim_whose_view_is_gone_may_go(pool: MemoryPool, blocks: list[MemoryBlock]) -> None:
    view = pool.view(blocks[0], np.uint8, SIZE)
    del view
    assert pool.make_room(SIZE, blocks) == [blocks[0]]


def test_nothing_goes_if_the_leased_ones_stand_in_the_way(
    pool: MemoryPool, blocks: list[MemoryBlock]
) -> None:
    views = [pool.view(blocks[index], np.uint8, SIZE) for index in (2, 5)]
    before, ranges = pool.stats(), pool.ranges()
    text = r"3072 bytes: 0 bytes are free, .* has 0, and evicting all 6 blocks that may go would"
    with pytest.raises(PoolExhaustedError, match=text):
        pool.make_room(3 * SIZE, blocks)
    assert (pool.stats(), pool.ranges()) == (before, ranges)
    pool.check_integrity()
    views.clear()
    assert pool.make_room(3 * SIZE, blocks) == blocks[:3]


def test_nothing_goes_if_the_victims_are_too_few(
    pool: MemoryPool, blocks: list[MemoryBlock]
) -> None:
    before, ranges = pool.stats(), pool.ranges()
    with pytest.raises(PoolExhaustedError, match="evicting all 2 blocks"):
        pool.make_room(3 * SIZE, blocks[:2])
    with pytest.raises(PoolExhaustedError, match="evicting all 0 blocks"):
        pool.make_room(SIZE, [])
    assert (pool.stats(), pool.ranges()) == (before, ranges)


def test_what_can_never_fit_is_refused_before_a_victim_is_looked_at(
    pool: MemoryPool, blocks: list[MemoryBlock]
) -> None:
    source = iter(blocks)
    with pytest.raises(PoolExhaustedError, match=r"8256 bytes: .* the whole pool has 8192"):
        pool.make_room(8 * SIZE + 1, source)
    assert next(source) is blocks[0]
    assert pool.stats().live_blocks == 8


def test_the_whole_pool_can_be_cleared(pool: MemoryPool, blocks: list[MemoryBlock]) -> None:
    assert pool.make_room(8 * SIZE, reversed(blocks)) == blocks[::-1]
    assert pool.allocate(8 * SIZE).offset == 0


def test_the_room_reads_zero(pool: MemoryPool, blocks: list[MemoryBlock]) -> None:
    for block in blocks:
        pool.lease(block)[:] = 255
    pool.make_room(3 * SIZE, blocks[2:])
    assert not pool.lease(pool.allocate(3 * SIZE)).any()


@pytest.mark.parametrize("kind", ["stale", "foreign", "twice"])
def test_a_wrong_victim_is_an_error_and_no_other_goes(
    pool: MemoryPool, blocks: list[MemoryBlock], backend: str, kind: str
) -> None:
    pool.deallocate(blocks[0])
    with MemoryPool(SIZE, backend) as other:
        wrong, error = {
            "stale": (blocks[0], StaleBlockError),
            "foreign": (other.allocate(SIZE), ForeignBlockError),
            "twice": (blocks[2], DoubleFreeError),
        }[kind]
        before, ranges = pool.stats(), pool.ranges()
        with pytest.raises(PoolError) as caught:
            pool.make_room(8 * SIZE, [blocks[2], blocks[3], wrong, *blocks[1:]])
        assert type(caught.value) is error
        assert (pool.stats(), pool.ranges()) == (before, ranges)
    pool.check_integrity()


def test_an_error_of_the_source_leaves_everything(
    pool: MemoryPool, blocks: list[MemoryBlock]
) -> None:
    def broken() -> Iterator[MemoryBlock]:
        yield blocks[0]
        raise KeyError("no more")

    before, ranges = pool.stats(), pool.ranges()
    with pytest.raises(KeyError):
        pool.make_room(2 * SIZE, broken())
    assert (pool.stats(), pool.ranges()) == (before, ranges)
    assert pool.make_room(SIZE, [blocks[0]]) == [blocks[0]]


# -- beside the plain way ------------------------------------------------------------------


def fits(pool: MemoryPool, nbytes: int, alignment: int) -> bool:
    return any(
        -(-offset // alignment) * alignment + nbytes <= offset + size
        for offset, size, block in pool.ranges()
        if block is None
    )


def evict_one_by_one(
    pool: MemoryPool, nbytes: int, alignment: int, victims: list[MemoryBlock]
) -> list[MemoryBlock] | None:
    """Evict and look again, as a pool without plans would; None if it was all in vain."""
    gone = []
    for victim in victims:
        if fits(pool, nbytes, alignment):
            break
        pool.deallocate(victim)
        gone.append(victim)
    return gone if fits(pool, nbytes, alignment) else None


def filled(pool: MemoryPool, sizes: list[int], freed: set[int]) -> dict[int, MemoryBlock]:
    """Allocate blocks of so many granules while they fit, free some, return the others."""
    blocks = {}
    for index, granules in enumerate(sizes):
        if pool.stats().largest_free >= 64 * granules:
            blocks[index] = pool.allocate(64 * granules)
    for index in freed & blocks.keys():
        pool.deallocate(blocks.pop(index))
    return blocks


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    freed=st.sets(st.integers(0, 11)),
    leased=st.sets(st.integers(0, 11)),
    nbytes=st.integers(1, 64 * 64),
    alignment=st.sampled_from([64, 128, 512]),
    chance=st.randoms(use_true_random=False),
)
def test_make_room_is_eviction_one_by_one_where_that_succeeds(
    sizes: list[int],
    freed: set[int],
    leased: set[int],
    nbytes: int,
    alignment: int,
    chance: random.Random,
) -> None:
    with MemoryPool(64 * 64, "numpy") as pool, MemoryPool(64 * 64, "numpy") as plain:
        blocks, twins = filled(pool, sizes, freed), filled(plain, sizes, freed)
        order = sorted(blocks)
        chance.shuffle(order)
        index_of = {twins[index]: index for index in order}
        views = [pool.lease(blocks[index]) for index in order if index in leased]
        may_go = [twins[index] for index in order if index not in leased]
        gone = evict_one_by_one(plain, nbytes, alignment, may_go)
        victims, ranges = [blocks[index] for index in order], pool.ranges()
        if gone is None:
            with pytest.raises(PoolExhaustedError):
                pool.make_room(nbytes, victims, alignment)
            assert pool.ranges() == ranges
        else:
            expected = [blocks[index_of[twin]] for twin in gone]
            assert pool.make_room(nbytes, victims, alignment) == expected
            pool.allocate(nbytes, alignment)
        pool.check_integrity()
        views.clear()
