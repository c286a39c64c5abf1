"""Samples of a trace that keep its prefixes, for small simulations that stand for the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kvpool.sizing._errors import SizingError
from kvpool.sizing._prefix_trace import PrefixTrace

__all__ = ["Sample", "draw_sample"]

_TRUNK_SHARE = 64  # a block that more than one of this many requests use is trunk


@dataclass(frozen=True, eq=False)
class Sample:
    """A part of a trace that behaves like the whole in a pool that is smaller by its rate.

    Attributes
    ----------
    trace : PrefixTrace
        The requests that were drawn.
    rate : float
        References outside of the trunk that were drawn, of all of them.
    trunk_blocks : int
        Blocks of the trunk: those that many requests use, whichever are drawn.
    trunk_rate : float
        References to the trunk that were drawn, of all of them.
    trunk_lengths : ndarray of int64, shape (requests,)
        Blocks of each prompt that was drawn that are trunk; they are its first ones.
    """

    trace: PrefixTrace
    rate: float
    trunk_blocks: int
    trunk_rate: float
    trunk_lengths: NDArray[np.int64]

    @classmethod
    def whole(cls, trace: PrefixTrace) -> Self:
        """Return all of a trace as its own sample."""
        return cls(trace, 1.0, 0, 0.0, np.zeros(trace.request_count, np.int64))

    def scaled(self, blocks: int) -> int:
        """Return the size of the small pool that stands for one of this many blocks."""
        if blocks <= self.trunk_blocks:
            return blocks
        return round(self.trunk_blocks + (blocks - self.trunk_blocks) * self.rate)

    def all_hits(self, hits: NDArray[np.int64]) -> float:
        """Return the hits in the whole trace, from those of each request that was drawn.

        Parameters
        ----------
        hits : ndarray of int64, shape (requests,)
            The leading run of blocks of each prompt that were resident.
        """
        trunk = np.minimum(hits, self.trunk_lengths)
        in_trunk = float(trunk.sum()) / self.trunk_rate if self.trunk_rate else 0.0
        return in_trunk + float((hits - trunk).sum()) / self.rate


def draw_sample(trace: PrefixTrace, rate: float, seed: int = 0) -> Sample:
    """Return a random part of a trace, in which every prompt has all of its prefixes.

    Parameters
    ----------
    trace : PrefixTrace
    rate : float
        The part of the branches to draw, above 0 and up to 1.
    seed : int, default 0
        Other seeds draw other branches.

    Raises
    ------
    SizingError
        The rate is out of range, or it is so small that nothing was drawn.

    Notes
    -----
    Spatial sampling as in SHARDS (C. Waldspurger et al., "Efficient MRC construction with SHARDS",
    FAST 2015) and its miniature simulations (the same, "Cache modeling and optimization using
    miniature simulations", ATC 2017). There a block is drawn by a hash of its name, which would
    tear prompts apart: a hit is a *leading* run of blocks. Here whole branches of the tree
    are drawn. The blocks that more than one in 64 requests use, such as a system prompt, are the
    *trunk*. A branch is what follows one block behind the trunk: as a rule a session, with
    all of its turns and forks. A request that ends in the trunk is drawn by itself.

    The trunk is in every sample, so the small pool has room for all of it, and for the rate of
    the rest: `Sample.scaled`. The rate is that of the references that were drawn, not the one
    that was asked for, as in the correction SHARDS-adj.
    """
    if not 0 < rate <= 1:
        raise SizingError(f"the rate of a sample must be above 0 and at most 1, not {rate}")
    if rate == 1:
        return Sample.whole(trace)
    trunk = np.bincount(trace.references, minlength=trace.block_count) > (
        trace.request_count / _TRUNK_SHARE
    )
    is_trunk = trunk[trace.references]
    lengths = np.diff(trace.starts)
    inside = np.concatenate([np.zeros(1, np.int64), np.cumsum(is_trunk)])[trace.starts]
    trunk_lengths = np.diff(inside)
    draws = np.random.default_rng(seed)
    by_branch = draws.random(trace.block_count)
    drawn = draws.random(trace.request_count)
    branching = np.flatnonzero(trunk_lengths < lengths)
    drawn[branching] = by_branch[trace.references[(trace.starts[:-1] + trunk_lengths)[branching]]]
    chosen = drawn < rate
    in_trunk, outside = trunk_lengths[chosen].sum(), (lengths - trunk_lengths)[chosen].sum()
    if not outside:
        raise SizingError(f"a sample of {rate} of this trace has no request; take a larger part")
    return Sample(
        trace.select(chosen),
        float(outside / (lengths - trunk_lengths).sum()),
        int(trunk.sum()),
        float(in_trunk / trunk_lengths.sum()) if trunk_lengths.any() else 0.0,
        trunk_lengths[chosen],
    )
