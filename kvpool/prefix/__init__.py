"""Prefix reuse: which session holds which tokens, as a radix tree over token ids."""

from __future__ import annotations

from kvpool import _exports
from kvpool.prefix._changes import Change, Cleared, Gone, Held, Journal, Split
from kvpool.prefix._identity import Identity
from kvpool.prefix._names import chunk_names, names_behind, root_name
from kvpool.prefix._ranking import Ranking
from kvpool.prefix._segment import Segment
from kvpool.prefix._tokens import TOKEN_BYTES, TokenIds, common_bytes, token_bytes
from kvpool.prefix._tree import Cut, Match, PrefixTree

__all__ = [
    "TOKEN_BYTES",
    "Change",
    "Cleared",
    "Cut",
    "Gone",
    "Held",
    "Identity",
    "Journal",
    "Match",
    "PrefixTree",
    "Ranking",
    "Segment",
    "Split",
    "TokenIds",
    "chunk_names",
    "common_bytes",
    "names_behind",
    "root_name",
    "token_bytes",
]

_exports.publish(__name__)
