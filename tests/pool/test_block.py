"""What a block knows of its children."""

from __future__ import annotations

from kvpool.arena import ArenaFork
from kvpool.layout import KVLayout
from kvpool.pool._block import MemoryBlock
from kvpool.pool._pages import CommittedPages

PAGE = 4096
LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=64)


class Mapping(ArenaFork):
    """A private mapping that is plain memory."""

    @property
    def buffer(self) -> memoryview:
        return memoryview(bytearray(PAGE))

    def decommit(self, offset: int, nbytes: int) -> None:
        """Drop nothing."""


def test_a_block_shares_the_most_that_a_child_reads() -> None:
    block, child, another = (MemoryBlock(0, PAGE, 1) for _ in range(3))
    assert block.shared_bytes == 0
    block.share(child, 300)
    block.share(another, 200)
    assert block.shared_bytes == 300
    block.share(child, 100)
    assert block.shared_bytes == 200
    block.disown(another)
    assert (block.shared_bytes, list(block.children)) == (100, [child])


def test_blocks_do_not_have_their_children_in_common() -> None:
    first, second, third = (MemoryBlock(0, PAGE, 1) for _ in range(3))
    first.share(third, 300)
    assert (first.shared_bytes, second.shared_bytes) == (300, 0)
    assert MemoryBlock(0, PAGE, 1).shared_bytes == 0


def test_a_block_that_hands_over_is_empty() -> None:
    block, child = MemoryBlock(64, PAGE, 1), MemoryBlock(64, PAGE, 1)
    block.charged = PAGE
    block.share(child, 300)
    child.follow(block)
    heir, mapping = block.heir(), Mapping()
    own = CommittedPages(LAYOUT.geometry(1, PAGE), PAGE, 100)
    for _ in range(2):  # it may be done again, if it was interrupted
        assert block.hand_over(heir, own, mapping) is heir
        assert (block.charged, block.children, heir.charged) == (0, {}.keys(), PAGE)
        assert (heir.offset, heir.size, list(heir.children)) == (64, PAGE, [child, block])
        assert child.parent is heir
        assert block.parent is heir
        assert heir.shared_with(block) == 100
