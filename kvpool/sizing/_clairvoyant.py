"""The bound of every policy: a pool that knows the future."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np

from kvpool._checks import whole_number
from kvpool.sizing._curve import HitCurve
from kvpool.sizing._errors import SizingError
from kvpool.sizing._prefix_trace import PrefixTrace

__all__ = ["clairvoyant_curve"]


def clairvoyant_curve(trace: PrefixTrace, sizes: Iterable[int]) -> HitCurve:
    """Return the most hits that any policy can have, at each size of the pool.

    Parameters
    ----------
    trace : PrefixTrace
    sizes : iterable of int
        Blocks.

    Raises
    ------
    SizingError
        A size is not a whole number of at least 0, or there is none.

    Notes
    -----
    The rule of L. A. Belady, "A study of replacement algorithms for a virtual-storage computer",
    IBM Systems Journal 5 (2), 1966, between requests: of the blocks that were resident and those
    of the request, the pool keeps those with the nearest next use; of the blocks with one next use
    the deepest is dropped first. A block that is not used again is not kept. A prompt that is in
    use needs no room here, so this is a bound, which no real pool reaches.

    Only the number of blocks for each next use matters, so a size takes O(log requests) for each
    run of blocks with one next use.
    """
    checked = sorted({whole_number("a size", size, SizingError, least=0) for size in sizes})
    if not checked:
        raise SizingError("at least one size is needed")
    uses = _next_uses(trace)
    hits = [_hits(uses, size) for size in checked]
    return HitCurve(
        "clairvoyant",
        np.array(checked, np.int64),
        np.array(hits, np.float64),
        trace.reference_count,
    )


def _next_uses(trace: PrefixTrace) -> list[list[tuple[int, int]]]:
    """Return for each request: when its blocks are used next, and how many of them then."""
    following = np.full(trace.block_count, -1, np.int64)
    starts = trace.starts.tolist()
    uses: list[list[tuple[int, int]]] = []
    for request in range(trace.request_count - 1, -1, -1):
        path = trace.references[starts[request] : starts[request + 1]]
        nexts = following[path]
        # They do not fall along the prompt, but for the blocks at its end that are not used again.
        nexts = nexts[nexts >= 0]
        cuts = [0, *(np.flatnonzero(nexts[1:] != nexts[:-1]) + 1).tolist(), len(nexts)]
        uses.append([(int(nexts[low]), high - low) for low, high in pairwise(cuts) if low < high])
        following[path] = request
    uses.reverse()
    return uses


def _hits(uses: list[list[tuple[int, int]]], size: int) -> int:
    """Return the hits in a pool of this many blocks."""
    kept = [0] * len(uses)  # resident blocks, by the request that uses them next
    farthest: list[int] = []  # a heap of those requests, negative; some are of the past
    resident = hits = 0
    for request, nexts in enumerate(uses):
        hits += kept[request]
        resident -= kept[request]
        kept[request] = 0
        for following, count in nexts:
            if not kept[following]:
                heappush(farthest, -following)
            kept[following] += count
            resident += count
        while resident > size:
            last = -farthest[0]
            dropped = min(kept[last], resident - size)
            kept[last] -= dropped
            resident -= dropped
            if not kept[last]:
                heappop(farthest)
    return hits
