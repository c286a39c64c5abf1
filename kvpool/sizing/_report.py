"""`SizingReport`: what a pool of any size would reuse, and how big a pool is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from kvpool.sizing._ages import Ages
from kvpool.sizing._curve import HitCurve

__all__ = ["SHARES", "Answer", "SizingReport"]

SHARES: Final = (0.5, 0.8, 0.95)
"""The shares of the reuse of an infinite pool for which a size is given."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The pool that a policy needs for a share of what an infinite pool would reuse.

    Attributes
    ----------
    policy : str
    share : float
        Of the hits of an infinite pool.
    blocks, tokens, nbytes : int or None
        The size of the smallest such pool. None if no measured size has that many hits;
        `nbytes` is None also if the bytes per token are not known.
    """

    policy: str
    share: float
    blocks: int | None
    tokens: int | None
    nbytes: int | None


@dataclass(frozen=True, eq=False)
class SizingReport:
    """What a pool of any size would reuse of a trace.

    Attributes
    ----------
    requests, blocks, references : int
        Requests of the trace, distinct blocks of their prompts, and references to these.
    block_tokens : int
    bytes_per_token : int or None
        Of the keys and values; None if no layout was given.
    layout : str or None
    reusable : int
        References that are hits in an infinite pool: all but the first one of each block.
    curves : dict of str to HitCurve
        By the name of the policy; ``"lru"`` is the first one.
    bound : HitCurve
        The most hits that any policy can have.
    sizes : tuple of int
        The sizes at which `curves` were measured, in blocks.
    sample_rate : float
        The part of the trace that was simulated for the policies that are not exact; 1 for all.
    seeds : int
        How many samples were drawn.
    reuse_ages, lifetimes : Ages
        Seconds from one use of a block to the next, and from its first use to its last.
    """

    requests: int
    blocks: int
    references: int
    block_tokens: int
    bytes_per_token: int | None
    layout: str | None
    reusable: int
    curves: dict[str, HitCurve]
    bound: HitCurve
    sizes: tuple[int, ...]
    sample_rate: float
    seeds: int
    reuse_ages: Ages
    lifetimes: Ages

    @property
    def bytes_per_block(self) -> int | None:
        """Bytes of the keys and values of one block; None if no layout was given."""
        return None if self.bytes_per_token is None else self.bytes_per_token * self.block_tokens

    def nbytes(self, blocks: int) -> int | None:
        """Return the bytes of this many blocks; None if no layout was given."""
        return None if self.bytes_per_block is None else self.bytes_per_block * blocks

    def size_text(self, blocks: int) -> str:
        """Return this many blocks in GiB, or in MiB if they are few, or in blocks without a layout.

        Parameters
        ----------
        blocks : int
        """
        nbytes = self.nbytes(blocks)
        if nbytes is None:
            return f"{blocks:,} blocks"
        gib = nbytes / 2**30
        if gib < 1:
            return f"{nbytes / 2**20:,.1f} MiB"
        return f"{gib:,.0f} GiB" if gib >= 100 else f"{gib:,.1f} GiB"

    def answer(self, policy: str, share: float) -> Answer:
        """Return the size of the smallest pool for a share of what an infinite pool would reuse.

        Parameters
        ----------
        policy : str
            A key of `curves`.
        share : float
            Between 0 and 1.
        """
        blocks = self.curves[policy].blocks_for(share * self.reusable)
        if blocks is None:
            return Answer(policy, share, None, None, None)
        return Answer(policy, share, blocks, blocks * self.block_tokens, self.nbytes(blocks))

    def best(self, share: float) -> Answer:
        """Return the answer of the policy that needs the smallest pool for a share.

        Of several that need the same, the first one in `curves`.
        """
        answers = [self.answer(policy, share) for policy in self.curves]
        return min(answers, key=lambda one: float("inf") if one.blocks is None else one.blocks)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row for each policy and size, the bound among them, for a table."""
        for curve in (*self.curves.values(), self.bound):
            for blocks in self.sizes:
                yield {
                    "policy": curve.name,
                    "blocks": blocks,
                    "tokens": blocks * self.block_tokens,
                    "bytes": self.nbytes(blocks),
                    "hit_blocks": round(curve.hits_at(blocks)),
                    "hit_ratio": round(curve.hit_ratio(blocks), 6),
                    "error": round(curve.error, 6),
                }

    def as_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values; a figure that is not known is None."""
        return {
            "requests": self.requests,
            "blocks": self.blocks,
            "block_references": self.references,
            "block_tokens": self.block_tokens,
            "layout": self.layout,
            "bytes_per_block": self.bytes_per_block,
            "infinite": {
                "hit_blocks": self.reusable,
                "hit_ratio": self.reusable / self.references,
            },
            "sample_rate": self.sample_rate,
            "samples": self.seeds,
            "policies": {name: self._policy(name) for name in self.curves},
            "curves": list(self.rows()),
            "reuse_ages_seconds": _ages(self.reuse_ages),
            "lifetimes_seconds": _ages(self.lifetimes)
            | {"blocks_used_once": self.blocks - self.lifetimes.total},
        }

    def _policy(self, name: str) -> dict[str, Any]:
        curve = self.curves[name]
        knee = curve.knee()
        answers = (self.answer(name, share) for share in SHARES)
        return {
            "error": curve.error,
            "knee": {"blocks": knee, "bytes": self.nbytes(knee)},
            "needs": [
                {
                    "share": one.share,
                    "blocks": one.blocks,
                    "tokens": one.tokens,
                    "bytes": one.nbytes,
                }
                for one in answers
            ],
        }


def _ages(ages: Ages) -> dict[str, Any]:
    return {
        "edges": list(ages.edges),
        "counts": list(ages.counts),
        "median": ages.median,
        "p90": ages.p90,
    }
