"""Entries: the keys and values of one session in a block of a pool."""

from __future__ import annotations

from kvpool import _exports
from kvpool.entry._entry import KVCacheEntry, Lease, PoolEntry
from kvpool.entry._keeper import STANDALONE, Keeper, Room
from kvpool.entry._new_tokens import NewTokens, StagedTokens

__all__ = [
    "STANDALONE",
    "KVCacheEntry",
    "Keeper",
    "Lease",
    "NewTokens",
    "PoolEntry",
    "Room",
    "StagedTokens",
]

_exports.publish(__name__)
