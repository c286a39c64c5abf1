"""`BlockReplay`: how many blocks of a trace a pool of a given size would have reused."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvpool._checks import whole_number
from kvpool._closing import Closing
from kvpool.errors import InvalidSizeError
from kvpool.eviction.registry import registry as policies
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.replay._block_tiers import BlockLevel, BlockTiers
from kvpool.replay._errors import TraceError
from kvpool.replay._request import TraceRequest
from kvpool.stats import PoolStats

__all__ = ["BlockReplay", "BlockReport"]

# A block of the trace is one token of this layout: 8 bytes of keys, which are the id of the block.
_LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=2, dtype="float32")
DEFAULT_POLICY = "hit-density"
"""Of pools that are there for their prefixes."""

# The pool never fills: the budget of a replay counts blocks. So these are addresses, of which the
# system gives memory to those that are written: a few bytes of each block that is resident.
_POOL_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class BlockReport:
    """The figures of a replay by blocks.

    Attributes
    ----------
    policy : str
    capacity_blocks : int or None
        Blocks that the pool may hold; None if all that come.
    complete : bool
        Whether the trace was served to its end, and the books were checked.
    requests : int
    blocks : int
        Blocks of all prompts: an id counts as often as it comes.
    hit_blocks : int
        Of those, the ones that the pool held or a tier had, as part of a leading run of the prompt.
    checksum_failures : int
        Requests whose blocks had other bytes than were written.
    seconds : float
        Wall time of serving and checking.
    stats : PoolStats
    tiers : tuple of BlockLevel
        The tiers, the one that is asked first before the others; empty without tiers.
    """

    policy: str
    capacity_blocks: int | None
    complete: bool
    requests: int
    blocks: int
    hit_blocks: int
    checksum_failures: int
    seconds: float
    stats: PoolStats
    tiers: tuple[BlockLevel, ...] = ()

    @property
    def pool_hit_blocks(self) -> int:
        """The hit blocks that the pool held."""
        return self.hit_blocks - self.stats.prefix.tokens_by_source["loaded"]

    @property
    def hit_ratio(self) -> float:
        """``hit_blocks / blocks``; 0 without blocks."""
        return self.hit_blocks / self.blocks if self.blocks else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values; `levels` only with tiers, the pool first."""
        levels: list[dict[str, Any]] = []
        if self.tiers:
            hits = self.pool_hit_blocks
            ratio = hits / self.blocks if self.blocks else 0.0
            levels.append({"level": "pool", "hit_blocks": hits, "hit_ratio": ratio})
            levels += [tier.as_dict(self.blocks) for tier in self.tiers]
        return {
            "policy": self.policy,
            "capacity_blocks": self.capacity_blocks,
            "complete": self.complete,
            "requests": self.requests,
            "blocks": self.blocks,
            "hit_blocks": self.hit_blocks,
            "hit_ratio": self.hit_ratio,
            "blocks_by_source": dict(self.stats.prefix.tokens_by_source),
            "blocks_held": self.stats.prefix.tokens_held,
            "checksum_failures": self.checksum_failures,
            "seconds": self.seconds,
            **({"levels": levels} if levels else {}),
        }


class BlockReplay(Closing):
    """Serves requests by their blocks, through `KVCacheManager.open_session`.

    Each block is one token of a small layout, with some real bytes, so that the tree, the pool
    and the policy are those of every other session. The rules: requests are served in the order
    of the file; a hit is a leading run of blocks that are held; generated tokens are not
    held; after the look-up every block of the request is used; its own blocks are not evicted
    while it is served.

    Parameters
    ----------
    capacity_blocks : int, optional
        Blocks that the pool may hold. [default: all that come]
    policy : str, optional
        Name of the eviction policy. [default: "hit-density"]
    backend : str, default "numpy"
    tiers : str or sequence of str, optional
        URLs of tiers, in which a chunk is one block. What was stored is there for the next
        request, unless the tier does not answer. [default: none]
    tier_blocks : int, optional
        Have a tier in memory for about this many blocks, which is asked before the others.

    Attributes
    ----------
    manager : KVCacheManager

    Raises
    ------
    InvalidSizeError
        `capacity_blocks` or `tier_blocks` is not a whole number of at least 1.
    PluginError
        The backend, the policy or a tier is unknown or cannot be used.
    InvalidTierError
        `tiers` are not URLs of tiers, or one is not accepted.
    TierError
        A tier cannot be opened.

    Notes
    -----
    Not thread-safe.
    """

    def __init__(
        self,
        capacity_blocks: int | None = None,
        policy: str | None = None,
        backend: str | None = "numpy",
        tiers: str | Sequence[str] = (),
        tier_blocks: int | None = None,
    ) -> None:
        if capacity_blocks is not None:
            whole_number("capacity_blocks", capacity_blocks, InvalidSizeError, least=1)
        self._capacity_blocks = capacity_blocks
        self._policy = policies.chosen_name(policy or DEFAULT_POLICY)
        self._tiers: BlockTiers | None = None
        if tiers or tier_blocks is not None:
            self._tiers = BlockTiers(tiers, tier_blocks, _LAYOUT)
        try:
            self.manager = KVCacheManager(
                _POOL_BYTES,
                backend,
                _LAYOUT,
                policy=self._policy,
                receipts=False,
                elastic=False,
                chunk_tokens=1,
                prefix_tokens=capacity_blocks,
                tiers=None if self._tiers is None else self._tiers.store,
            )
        except BaseException:
            if self._tiers is not None:
                self._tiers.close()
            raise
        self._requests = self._failures = 0
        self._seconds = 0.0
        self._is_complete = False

    def serve(self, request: TraceRequest) -> int:
        """Serve a request.

        Returns
        -------
        int
            How many of its first blocks the pool held, or a tier had.

        Raises
        ------
        TraceError
            The request does not say which blocks it has, or an id does not fit 64 bits.
        """
        if not request.hash_blocks:
            raise TraceError(
                "a replay by blocks needs a trace with ids of blocks, such as Mooncake's: "
                "in this one requests do not say which tokens they share"
            )
        started = time.perf_counter()
        try:
            blocks = np.frombuffer(array("q", request.hash_blocks), np.int64)
        except OverflowError:
            odd = max(request.hash_blocks, key=abs)
            raise TraceError(f"ids of blocks must fit 64 bits with a sign, unlike {odd}") from None
        entry, left = self.manager.open_session(blocks, min_left=0, max_context_length=len(blocks))
        hits = len(blocks) - left
        if hits and entry.keys().tobytes() != blocks[:hits].tobytes():
            self._failures += 1
        if left:
            new = blocks[hits:].view(np.float32).reshape(1, 1, left, 2)
            entry.extend(new, new)
        self.manager.close_session(entry, blocks)
        if self._tiers is not None:
            self._tiers.settle()
        self._requests += 1
        self._seconds += time.perf_counter() - started
        return hits

    def finish(self) -> None:
        """Check the integrity of the manager.

        Raises
        ------
        IntegrityError
            The books disagree.
        """
        self.manager.check_integrity()
        self._is_complete = True

    def report(self) -> BlockReport:
        """Return the figures so far."""
        stats = self.manager.get_stats()
        return BlockReport(
            policy=self._policy,
            capacity_blocks=self._capacity_blocks,
            complete=self._is_complete,
            requests=self._requests,
            blocks=stats.prefix.tokens_asked,
            hit_blocks=stats.prefix.tokens_reused,
            checksum_failures=self._failures,
            seconds=self._seconds,
            stats=stats,
            tiers=() if self._tiers is None else self._tiers.figures(),
        )

    def close(self) -> None:
        """Close the pool and the tiers."""
        try:
            self.manager.close(0.0)
        finally:
            if self._tiers is not None:
                self._tiers.close()
