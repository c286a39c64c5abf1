"""`Accounting` finds what does not agree, and takes late news of a lease calmly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest

from kvpool.backends import create_arena
from kvpool.errors import IntegrityError
from kvpool.pool._accounting import Accounting
from kvpool.pool._block import DRAINING, GONE, ArenaBytes, MemoryBlock, RootRef
from kvpool.pool._elastic import ElasticAccounting
from kvpool.pool._pages import CommittedPages
from tests.support.elastic_sessions import PAGE, PAPER
from tests.support.marks import needs_pages

ARENA = np.zeros(4096, np.uint8).view(ArenaBytes)
Damage = Callable[[Accounting, MemoryBlock], object]


def lose_the_range(books: Accounting, block: MemoryBlock) -> None:
    books.allocator.free(block.offset)


def change_the_size(_: Accounting, block: MemoryBlock) -> None:
    block.size = 65


def charge_too_much(_: Accounting, block: MemoryBlock) -> None:
    block.charged += 64


def end_it_aside(_: Accounting, block: MemoryBlock) -> None:
    block.state = DRAINING


def call_it_gone(_: Accounting, block: MemoryBlock) -> None:
    block.state = GONE


def move_it_to_another_pool(_: Accounting, block: MemoryBlock) -> None:
    block.pool_id += 1


def name_a_strange_parent(books: Accounting, block: MemoryBlock) -> None:
    block.follow(books.allocate(64, 64))


def have_a_strange_child(books: Accounting, block: MemoryBlock) -> None:
    block.share(books.allocate(64, 64), 10)


def lose_free_bytes(books: Accounting, _: MemoryBlock) -> None:
    books.allocator.free_bytes -= 64


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lose_the_range, r"blocks at \[0\], allocated ranges at \[\]"),
        (change_the_size, r"size=65.* is at 0 with 64 bytes"),
        (charge_too_much, "is charged 128, has 64"),
        (end_it_aside, "are draining, listed are set"),
        (call_it_gone, "is GONE"),
        (move_it_to_another_pool, "of pool .* is LIVE"),
        (name_a_strange_parent, r"blocks at \[64\], allocated ranges at \[0, 64\]"),
        (have_a_strange_child, "has the child .* which is not a fork"),
        (lose_free_bytes, "4096 free, counted 4032|4032 free, counted 3968"),
    ],
)
def test_check_integrity_finds_damage(damage: Damage, text: str) -> None:
    books = Accounting(4096, 64)
    block = books.allocate(64, 64)
    books.check_integrity()
    damage(books, block)
    with pytest.raises(IntegrityError, match=text):
        books.check_integrity()


@needs_pages
class TestElastic:
    """The same for pages and forks."""

    def test_check_integrity_finds_a_page_that_is_not_in_the_sum(self) -> None:
        with closing(create_arena(1 << 20, "mmap")) as arena:
            books = ElasticAccounting(1 << 19, arena)
            block = books.reserve(PAPER.geometry(16, PAGE))
            assert block.pages is not None
            block.pages.commit(0, 0, 1)
            block.charged = block.pages.charged
            with pytest.raises(IntegrityError, match="bytes charged, 0 used"):
                books.check_integrity()

    def test_check_integrity_finds_what_is_wrong_with_a_fork(self) -> None:
        with closing(create_arena(1 << 20, "mmap")) as arena:
            books = ElasticAccounting(1 << 19, arena)
            parent = books.reserve_evicting(PAPER.geometry(16, PAGE), 256, (), None)[0]
            made = books.fork(parent, 256)
            assert isinstance(made, tuple)
            fork, _ = made
            books.check_integrity()
            parent.share(fork, 255)
            with pytest.raises(IntegrityError, match="reads more than its parent keeps"):
                books.check_integrity()
            parent.disown(fork)
            fork.pages = CommittedPages(PAPER.geometry(16, PAGE), PAGE)
            with pytest.raises(IntegrityError, match="reads more than its parent keeps"):
                books.check_integrity()
            parent.share(fork, 256)
            fork.let_go()
            with pytest.raises(IntegrityError, match="is GONE"):
                books.check_integrity()


def test_a_death_that_is_told_late_or_twice_changes_nothing() -> None:
    books, told = Accounting(4096, 64), list[RootRef]()
    block = books.allocate(4096, 64)
    root = block.make_root(ARENA, told.append)
    del root
    (first,) = told
    books.end_leases(deque([first]))  # the block is live: there is nothing to do
    view = block.make_root(ARENA, told.append)[10:]
    assert not books.deallocate(block)
    first.block = block
    books.end_leases(deque([first]))  # a later lease keeps the block
    assert books.stats().parting_blocks == 1
    del view
    (_, second) = told
    books.end_leases(deque([second]))
    assert books.stats().used == 0
    heir = books.allocate(4096, 64)
    second.block = block
    books.end_leases(deque([second]))
    assert (books.is_live(heir), books.stats().live_blocks) == (True, 1)
    books.check_integrity()


def test_one_root_serves_all_views_of_a_block() -> None:
    books = Accounting(4096, 64)
    block = books.allocate(128, 64)
    noted: list[RootRef] = []
    first = block.make_root(ARENA, noted.append)
    assert block.is_leased
    assert block.root_ref is not None
    assert block.root_ref() is first
    assert np.shares_memory(first, np.frombuffer(ARENA, np.uint8, 128, block.offset))
