"""What a block knows of its forks, and which writes need the pool for that."""

from __future__ import annotations

import pytest

from kvpool.layout import KVLayout
from kvpool.pool._block import MemoryBlock
from kvpool.pool._pages import PageRuns

LAYOUT = KVLayout(layers=2, kv_heads=1, head_dim=64, dtype="float32")
PAGE = 4096


def runs(shown: int = 0) -> PageRuns:
    return PageRuns(LAYOUT.geometry(1 << 10, PAGE), PAGE, shown)


def test_a_block_has_lent_what_most_is_shown_of_it() -> None:
    block, fork, another = (MemoryBlock(0, PAGE, 1) for _ in range(3))
    assert block.lent == 0
    block.add_fork(fork, 300)
    block.add_fork(another, 200)
    assert block.lent == 300
    block.add_fork(fork, 100)
    assert block.lent == 200


def test_blocks_do_not_have_their_forks_in_common() -> None:
    first, second, third = (MemoryBlock(0, PAGE, 1) for _ in range(3))
    first.add_fork(third, 300)
    assert (first.lent, second.lent, MemoryBlock(0, PAGE, 1).lent) == (300, 0, 0)


@pytest.mark.parametrize(
    ("group", "start", "end", "is_there"),
    [
        (0, 0, 2 * PAGE, True),
        (0, 0, 2 * PAGE + 1, False),
        (1, 0, PAGE, True),
        (1, PAGE - 1, PAGE + 1, False),
        (None, 0, PAGE, True),
        (None, 0, PAGE + 1, False),
    ],
)
def test_pages_are_there_up_to_the_level(
    group: int | None, start: int, end: int, is_there: bool
) -> None:
    held = runs()
    held.commit([0], 0, 2 * PAGE)
    held.commit([1], 0, 1)
    assert held.has(group, start, end) is is_there


@pytest.mark.parametrize("group", [0, None])
def test_what_a_fork_shows_is_not_its_own_to_write(group: int | None) -> None:
    held = runs(shown=PAGE + 256)
    held.commit([0, 1], PAGE + 256, 2 * PAGE)
    assert held.has(group, PAGE + 256, 2 * PAGE)
    assert not held.has(group, PAGE + 255, 2 * PAGE)
