"""How long blocks wait for their next use, and how long they are in use at all."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kvpool.sizing._prefix_trace import PrefixTrace

__all__ = ["AGE_EDGES", "Ages", "block_lifetimes", "reuse_ages"]

AGE_EDGES: Final = (0, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10_800, 36_000, 86_400)
"""Seconds at which the bins of `Ages` begin; the last one has no end."""


@dataclass(frozen=True)
class Ages:
    """How many blocks have which age, in seconds of the trace's clock.

    Attributes
    ----------
    edges : tuple of int
        Where the bins begin; the last one has no end.
    counts : tuple of int
        Blocks, or uses of blocks, in each bin.
    median, p90 : float or None
        Half of the ages, and nine of ten, are at most this. None if there are no ages.
    """

    edges: tuple[int, ...]
    counts: tuple[int, ...]
    median: float | None
    p90: float | None

    @classmethod
    def of(cls, seconds: NDArray[np.float64]) -> Ages:
        """Return how many of these ages are in each bin; an age below 0 counts as 0."""
        seconds = np.maximum(seconds, 0)
        counts = np.histogram(seconds, [*AGE_EDGES, np.inf])[0].tolist()
        median, p90 = np.percentile(seconds, [50, 90]).tolist() if len(seconds) else (None, None)
        return cls(AGE_EDGES, tuple(counts), median, p90)

    @property
    def total(self) -> int:
        """Ages in all bins."""
        return sum(self.counts)


def reuse_ages(trace: PrefixTrace) -> Ages:
    """Return how long it is from one use of a block to the next, for all uses but the first.

    Parameters
    ----------
    trace : PrefixTrace
    """
    latest = np.full(trace.block_count, np.nan)
    ages = np.empty(trace.reference_count)
    for arrival, (start, end) in zip(
        trace.arrivals.tolist(), pairwise(trace.starts.tolist()), strict=True
    ):
        path = trace.references[start:end]
        ages[start:end] = arrival - latest[path]
        latest[path] = arrival
    return Ages.of(ages[~np.isnan(ages)])


def block_lifetimes(trace: PrefixTrace) -> Ages:
    """Return how long it is from the first use of a block to its last one.

    Blocks that are used once are not counted: ``trace.block_count - lifetimes.total`` of them.

    Parameters
    ----------
    trace : PrefixTrace
    """
    moments = trace.arrivals[trace.requests]
    first = np.full(trace.block_count, np.inf)
    last = np.full(trace.block_count, -np.inf)
    np.minimum.at(first, trace.references, moments)
    np.maximum.at(last, trace.references, moments)
    uses = np.bincount(trace.references, minlength=trace.block_count)
    return Ages.of((last - first)[uses > 1])
