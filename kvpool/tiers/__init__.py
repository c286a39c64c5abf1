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
from kvpool.tiers._chunk import CHUNK_PREFIX, Chunk, chunks_of, decode_chunk, encode_chunk
from kvpool.tiers._codec import Codec, CodecChain, CodecFactory, Form, codec_registry, open_codec
from kvpool.tiers._registry import capacity_option, open_tier, path_of, registry, split_url

__all__ = [
    "CHUNK_PREFIX",
    "MAX_KEY_BYTES",
    "Chunk",
    "ChunkError",
    "Codec",
    "CodecChain",
    "CodecFactory",
    "Form",
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
    "chunks_of",
    "codec_registry",
    "decode_chunk",
    "encode_chunk",
    "open_codec",
    "open_tier",
    "path_of",
    "registry",
    "split_url",
]

_exports.publish(__name__)
