"""What a model makes of tokens, without a model: by a rule that every test can compute anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpool.entry import KVCacheEntry
from kvpool.layout import KVLayout

__all__ = ["check", "computed"]


def computed(tokens: Sequence[int], start: int, layout: KVLayout) -> NDArray[Any]:
    """Return the keys of the tokens from `start` on: of each, and of all before it.

    The values are the same numbers below zero.
    """
    sums = np.cumsum(np.asarray(tokens, np.int64) * (np.arange(len(tokens)) % 7 + 1)) % 509
    shape = (layout.layers, layout.kv_heads, len(tokens) - start, layout.head_dim)
    return np.broadcast_to(sums[start:, None].astype(layout.dtype), shape)


def check(entry: KVCacheEntry, tokens: Sequence[int]) -> None:
    """Compare all tokens that an entry holds with what the rule makes of them."""
    expected = computed(tokens, 0, entry.layout)[:, :, : entry.token_count]
    assert np.array_equal(entry.keys(), expected)
    assert np.array_equal(entry.values(), -expected)
