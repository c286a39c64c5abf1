"""Prefix reuse: which session holds which tokens, as a radix tree over token ids."""

from __future__ import annotations

from kvpool import _exports
from kvpool.prefix._names import chunk_names
from kvpool.prefix._ranking import Ranking
from kvpool.prefix._segment import Segment
from kvpool.prefix._tokens import TOKEN_BYTES, TokenIds, common_bytes, token_bytes
from kvpool.prefix._tree import Cut, Identity, Match, PrefixTree

__all__ = [
    "TOKEN_BYTES",
    "Cut",
    "Identity",
    "Match",
    "PrefixTree",
    "Ranking",
    "Segment",
    "TokenIds",
    "chunk_names",
    "common_bytes",
    "token_bytes",
]

_exports.publish(__name__)
