"""`BlockTiers`: the tiers of a replay by blocks, and what each of them was good for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kvpool._checks import whole_number
from kvpool.errors import InvalidSizeError, InvalidTierError, TierError
from kvpool.layout import KVLayout
from kvpool.prefix import Identity, token_bytes

if TYPE_CHECKING:
    from kvpool.tiers import Level, TierStore

__all__ = ["BlockLevel", "BlockTiers"]

_SETTLE = 1.0
"""Seconds to wait for writes between two requests."""


@dataclass(frozen=True, slots=True)
class BlockLevel:
    """What one tier did in a replay by blocks.

    Attributes
    ----------
    name : str
        Of the tier.
    hit_blocks : int
        Blocks that were loaded from it.
    misses : dict of str to int
        Blocks that were not, by the reason; see `kvpool.tiers.LevelStats`.
    stored, dropped, refused : int
        Blocks that were written, and that were not.
    held : int or None
        Blocks that the tier holds; None if it cannot tell.
    evicted : int
        Blocks that the tier has evicted, as far as it can tell.
    """

    name: str
    hit_blocks: int
    misses: dict[str, int]
    stored: int
    dropped: int
    refused: int
    held: int | None
    evicted: int

    def as_dict(self, blocks: int) -> dict[str, Any]:
        """Return all figures as JSON values, with the ratio of hits to all blocks of prompts."""
        return {
            "level": self.name,
            "hit_blocks": self.hit_blocks,
            "hit_ratio": self.hit_blocks / blocks if blocks else 0.0,
            "misses": self.misses,
            "stored": self.stored,
            "dropped": self.dropped,
            "refused": self.refused,
            "held": self.held,
            "evicted": self.evicted,
        }


class BlockTiers:
    """The store of tiers of a replay in which a chunk is a block.

    Parameters
    ----------
    urls : str or sequence of str
        The first tier is asked first.
    blocks : int or None
        Have a tier in memory for about this many blocks before them.
    layout : KVLayout
        Of a block.

    Raises
    ------
    InvalidSizeError
        `blocks` is not a whole number of at least 1.
    InvalidTierError
        `urls` are not URLs, or one is not accepted.
    PluginError
        There is no tier or codec of a name.
    TierError
        A tier cannot be opened.
    """

    def __init__(self, urls: str | Sequence[str], blocks: int | None, layout: KVLayout) -> None:
        named = [urls] if isinstance(urls, str) else list(urls)
        if not all(isinstance(url, str) for url in named):
            raise InvalidTierError(f"tiers must be URLs of tiers, not {urls!r}")
        if blocks is not None:
            count = whole_number("tier_blocks", blocks, InvalidSizeError, least=1)
            named.insert(0, f"memory:?capacity={count * _bytes_of_a_block(layout)}")
        self.store: TierStore = import_module("kvpool.tiers").TierStore(named, chunk_tokens=1)

    def settle(self) -> None:
        """Have what was stored be there for the next request, as far as the tiers answer."""
        if all(level.breaker.state.value == "closed" for level in self.store.levels):
            self.store.drain(_SETTLE)

    def figures(self) -> tuple[BlockLevel, ...]:
        """Return what each tier did so far."""
        return tuple(map(_figures_of, self.store.levels))

    def close(self) -> None:
        """Write what is queued, and close the tiers."""
        self.store.close(_SETTLE)


def _figures_of(level: Level) -> BlockLevel:
    stats = level.stats()
    try:
        values = level.breaker.stats().values
    except TierError:
        values = None
    return BlockLevel(
        name=level.name,
        hit_blocks=stats.tokens,
        misses=dict(stats.misses),
        stored=stats.stored,
        dropped=stats.dropped,
        refused=stats.refused,
        held=values,
        evicted=level.breaker.evictions,
    )


def _bytes_of_a_block(layout: KVLayout) -> int:
    """Return the size of a stored block: a frame, a header, and its keys and values."""
    tiers = import_module("kvpool.tiers")
    tokens = token_bytes([0, 1])  # the second one has a parent, as nearly all
    *_, chunk = tiers.chunks_of(Identity("", "", layout), tokens, 1)
    data = chunk.empty()
    data[...] = 0
    return sum(memoryview(part).nbytes for part in tiers.encode_chunk(chunk, data))
