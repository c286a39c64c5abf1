"""Tiers: where keys and values go beyond the pool, as immutable chunks under names."""

from __future__ import annotations

from kvpool import _exports
from kvpool.errors import ChunkError, InvalidTierError, TierError
from kvpool.tiers._base import (
    MAX_KEY_BYTES,
    Item,
    Part,
    Tier,
    TierFactory,
    TierStats,
    check_items,
    check_keys,
)
from kvpool.tiers._registry import capacity_option, open_tier, path_of, registry, split_url

__all__ = [
    "MAX_KEY_BYTES",
    "ChunkError",
    "InvalidTierError",
    "Item",
    "Part",
    "Tier",
    "TierError",
    "TierFactory",
    "TierStats",
    "capacity_option",
    "check_items",
    "check_keys",
    "open_tier",
    "path_of",
    "registry",
    "split_url",
]

_exports.publish(__name__)
