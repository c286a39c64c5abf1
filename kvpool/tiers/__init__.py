"""Tiers: where keys and values go beyond the pool, as immutable chunks under names."""

from __future__ import annotations

from kvpool import _exports
from kvpool.errors import ChunkError, DamagedTierError, InvalidTierError, TierError
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
from kvpool.tiers._chunk import (
    CHUNK_PREFIX,
    Chunk,
    chunks_of,
    decode_chunk,
    encode_chunk,
    read_chunk,
)
from kvpool.tiers._codec import Codec, CodecChain, CodecFactory, Form, codec_registry, open_codec
from kvpool.tiers._level import Level, LevelStats
from kvpool.tiers._load import TierEvent, TokenSink
from kvpool.tiers._probe import PROBE_PREFIX, ProbeResult, probe_tier
from kvpool.tiers._registry import (
    capacity_option,
    open_tier,
    path_of,
    registry,
    split_url,
    without_secrets,
)
from kvpool.tiers._session import (
    SESSION_PREFIX,
    StoredSession,
    remove_session,
    stored_sessions,
)
from kvpool.tiers._store import LEVEL_OPTIONS, Loaded, StoreStats, TierStore, open_level
from kvpool.tiers._verification import MAX_FINDINGS, Finding, TierReport, remove_wrong, verify_tier

__all__ = [
    "CHUNK_PREFIX",
    "LEVEL_OPTIONS",
    "MAX_FINDINGS",
    "MAX_KEY_BYTES",
    "PROBE_PREFIX",
    "SESSION_PREFIX",
    "Breaker",
    "BreakerFigures",
    "BreakerState",
    "Chunk",
    "ChunkError",
    "Codec",
    "CodecChain",
    "CodecFactory",
    "DamagedTierError",
    "Finding",
    "Form",
    "InvalidTierError",
    "Item",
    "Level",
    "LevelStats",
    "Loaded",
    "Part",
    "ProbeResult",
    "StoreStats",
    "StoredSession",
    "Tier",
    "TierError",
    "TierEvent",
    "TierFactory",
    "TierReport",
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
    "probe_tier",
    "read_chunk",
    "registry",
    "remove_session",
    "remove_wrong",
    "split_url",
    "stored_sessions",
    "verify_tier",
    "without_secrets",
]

_exports.publish(__name__)
