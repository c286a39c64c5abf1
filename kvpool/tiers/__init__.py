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
from kvpool.tiers._breaker import Breaker, BreakerFigures, BreakerState
from kvpool.tiers._chunk import CHUNK_PREFIX, Chunk, chunks_of, decode_chunk, encode_chunk
from kvpool.tiers._codec import Codec, CodecChain, CodecFactory, Form, codec_registry, open_codec
from kvpool.tiers._level import Level, LevelStats
from kvpool.tiers._load import TierEvent, TokenSink
from kvpool.tiers._registry import capacity_option, open_tier, path_of, registry, split_url
from kvpool.tiers._store import LEVEL_OPTIONS, Loaded, StoreStats, TierStore, open_level

__all__ = [
    "CHUNK_PREFIX",
    "LEVEL_OPTIONS",
    "MAX_KEY_BYTES",
    "Breaker",
    "BreakerFigures",
    "BreakerState",
    "Chunk",
    "ChunkError",
    "Codec",
    "CodecChain",
    "CodecFactory",
    "Form",
    "InvalidTierError",
    "Item",
    "Level",
    "LevelStats",
    "Loaded",
    "Part",
    "StoreStats",
    "Tier",
    "TierError",
    "TierEvent",
    "TierFactory",
    "TierStats",
    "TierStore",
    "TokenSink",
    "capacity_option",
    "check_items",
    "check_keys",
    "chunks_of",
    "codec_registry",
    "decode_chunk",
    "encode_chunk",
    "open_codec",
    "open_level",
    "open_tier",
    "path_of",
    "registry",
    "split_url",
]

_exports.publish(__name__)
