"""LRU at every size of the pool, from one pass."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kvpool.sizing._curve import HitCurve
from kvpool.sizing._prefix_trace import PrefixTrace

__all__ = ["lru_curve", "stack_distances"]


def stack_distances(trace: PrefixTrace) -> NDArray[np.int32]:
    """Return for each reference how many blocks the smallest LRU pool has in which it is a hit.

    Parameters
    ----------
    trace : PrefixTrace

    Returns
    -------
    ndarray of int32, shape (references,)
        0 for the first reference to a block, which is a hit in no pool.

    Notes
    -----
    The stack distance of R. L. Mattson et al., "Evaluation techniques for storage hierarchies",
    IBM Systems Journal 9 (2), 1970. Of the blocks of one request the deepest is the least recent,
    so a parent is always more recent than its children: distances grow along a prompt, and the hits
    of a request in a pool are a leading run of its blocks.

    A use covers a prefix, so the blocks whose latest use was request r are the tail of the
    prompt of r, next to each other in the order of recency. So the blocks that are more recent
    are counted by request, in a tree of sums (P. M. Fenwick, "A new data structure for
    cumulative frequency tables", Software: Practice and Experience 24 (3), 1994), in
    O(log requests) for each run of blocks with one latest use.
    """
    latest = np.full(trace.block_count, -1, np.int32)  # the request that used each block last
    counts = _Sums(trace.request_count)
    distances = np.zeros(trace.reference_count, np.int32)
    starts = trace.starts.tolist()
    for request, (start, end) in enumerate(pairwise(starts)):
        if start == end:
            continue
        path = trace.references[start:end]
        before = latest[path]
        cuts = [0, *(np.flatnonzero(before[1:] != before[:-1]) + 1).tolist(), end - start]
        runs = [(int(before[low]), low, high) for low, high in pairwise(cuts)]
        if runs[-1][0] < 0:  # blocks that are new are the end of the prompt
            runs.pop()
        for owner, low, high in runs:
            newer = counts.total - counts.up_to(owner)
            distances[start + low : start + high] = np.arange(newer + 1, newer + 1 + high - low)
        for owner, low, high in runs:
            counts.add(owner, low - high)
        counts.add(request, end - start)
        latest[path] = request
    return distances


def lru_curve(trace: PrefixTrace) -> HitCurve:
    """Return the hits of LRU at every size of the pool: exact, from one pass.

    Parameters
    ----------
    trace : PrefixTrace

    Returns
    -------
    HitCurve
        At each size from 0 blocks to the smallest one at which LRU has every hit that there is.
    """
    distances = stack_distances(trace)
    hits = np.cumsum(np.bincount(distances[distances > 0], minlength=1))
    return HitCurve("lru", np.arange(len(hits)), hits.astype(np.float64), trace.reference_count)


class _Sums:
    """Counts of requests, and their sums up to any request."""

    def __init__(self, length: int) -> None:
        self.total = 0
        self._length = length
        self._sums = [0] * (length + 1)

    def add(self, index: int, count: int) -> None:
        self.total += count
        index += 1
        while index <= self._length:
            self._sums[index] += count
            index += index & -index

    def up_to(self, index: int) -> int:
        """Return the sum of the counts from 0 to `index`."""
        total = 0
        index += 1
        while index:
            total += self._sums[index]
            index &= index - 1
        return total
