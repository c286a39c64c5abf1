"""Entries: the keys and values of one session in a block of a pool."""

from __future__ import annotations

from kvpool import _exports
from kvpool.entry._entry import EntryOwner, KVCacheEntry
from kvpool.entry._pool_entry import PoolEntry

__all__ = ["EntryOwner", "KVCacheEntry", "PoolEntry"]

_exports.publish(__name__)
