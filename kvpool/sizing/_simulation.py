"""Policies in pools of one size: the prefix tree of the manager, without its bytes."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kvpool._checks import whole_number
from kvpool.cache_key import CacheKey
from kvpool.eviction.registry import create_policy
from kvpool.layout import KVLayout
from kvpool.prefix import TOKEN_BYTES, Cut, Identity, Ranking
from kvpool.sizing._errors import SizingError
from kvpool.sizing._prefix_trace import PrefixTrace

__all__ = ["policy_hits"]

_IDENTITY: Final = Identity("", "", KVLayout(1, 1, 1))


def policy_hits(trace: PrefixTrace, policy: str | None, size: int) -> NDArray[np.int64]:
    """Serve the prompts of a trace from a prefix tree of one size, in file order.

    Parameters
    ----------
    trace : PrefixTrace
    policy : str or None
        Name of the eviction policy; None for the default.
    size : int
        Blocks; at least 1.

    Returns
    -------
    ndarray of int64, shape (requests,)
        The leading run of blocks of each prompt that were resident.

    Raises
    ------
    SizingError
        The size is not a whole number of at least 1.
    PluginError
        The policy is unknown or cannot be used.

    Notes
    -----
    After the lookup every block of the prompt is used. Its own blocks are not evicted while
    it is admitted; of a prompt that is longer than the pool, the first blocks are admitted.
    """
    pool = _Pool(policy, whole_number("a size", size, SizingError, least=1))
    bounds = pairwise(trace.starts.tolist())
    hits = (
        pool.serve(number, trace.references[low:high]) for number, (low, high) in enumerate(bounds)
    )
    return np.fromiter(hits, np.int64, trace.request_count)


class _Pool:
    """A prefix tree of one size, in which a block is one token."""

    def __init__(self, policy: str | None, size: int) -> None:
        self._ranking = Ranking(create_policy(policy), 1)
        self._tree = self._ranking.tree
        self._size = size

    def serve(self, number: int, path: NDArray[np.int32]) -> int:
        """Admit the prompt of a request; return how many of its first blocks were resident."""
        tokens = path[: self._size].astype(np.int64).tobytes()
        if not tokens:
            return 0
        count = len(tokens) // TOKEN_BYTES
        key = CacheKey("trace", number)
        hits = self._tree.match(_IDENTITY, tokens).length
        if hits:
            self._tree.hold(key, _IDENTITY, tokens[: hits * TOKEN_BYTES])
        missing = self._tree.token_count + count - hits - self._size
        if missing > 0:
            self._evict(missing, key)
        self._tree.hold(key, _IDENTITY, tokens, hits)
        return hits

    def _evict(self, count: int, own: CacheKey) -> None:
        plan = self._ranking.plan(count, _bytes, lambda key: key != own, by_tokens=True)
        for step in plan or ():
            if isinstance(step, Cut):
                for key in self._tree.cut(step)[1]:
                    self._tree.drop(key)


def _bytes(_key: CacheKey) -> int:
    return 0
