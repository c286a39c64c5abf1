"""`PrefixCache`: finds a session that begins with the same tokens, for `PooledCache`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kvpool.cache_key import CacheKey

__all__ = ["PrefixCache", "PrefixMatch"]


class PrefixMatch(NamedTuple):
    """A session that begins with the wanted tokens.

    Parameters
    ----------
    key : CacheKey
        Key of the session; its entry may have been evicted meanwhile.
    token_count : int
        How many of its first tokens are the wanted ones.
    """

    key: CacheKey
    token_count: int


class PrefixCache(Protocol):
    """Knows the tokens of the sessions of one manager, for one model."""

    def longest_prefix(self, tokens: Sequence[int]) -> PrefixMatch | None:
        """Return the session that begins with the most of some tokens; None for no session.

        Parameters
        ----------
        tokens : sequence of int
        """
