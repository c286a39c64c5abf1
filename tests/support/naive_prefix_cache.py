"""A cache of prefixes that keeps blocks one by one, for comparison: slow, and easy to follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Block", "lfu", "lru", "naive_hits"]


class Block:
    """A block that is in the cache.

    Parameters
    ----------
    depth : int
        Where it is in its request.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.used = 0
        self.uses = 0


def lru(block: Block) -> tuple[int, ...]:
    """Order by the last use; of blocks that were used at once, the deepest is evicted first."""
    return (block.used, -block.depth)


def lfu(block: Block) -> tuple[int, ...]:
    """Order by the count of uses in the cache, then as LRU."""
    return (block.uses, block.used, -block.depth)


def naive_hits(
    requests: Sequence[Sequence[int]], capacity: int, order: Callable[[Block], tuple[int, ...]]
) -> int:
    """Return how many blocks of all requests are hits: leading blocks that are in the cache.

    Blocks are admitted in order; those of the request itself are not evicted.
    """
    cache: dict[int, Block] = {}
    hits = 0
    for now, blocks in enumerate(requests):
        leading = 0
        while leading < len(blocks) and blocks[leading] in cache:
            leading += 1
        hits += leading
        for name in blocks[:leading]:
            cache[name].used = now
            cache[name].uses += 1
        for depth, name in enumerate(blocks[leading:], leading):
            if len(cache) == capacity:
                others = cache.keys() - set(blocks)
                if not others:
                    break
                del cache[min(others, key=lambda other: order(cache[other]))]
            cache[name] = Block(depth)
            cache[name].used, cache[name].uses = now, 1
    return hits
