"""Tiers with chunks of a model that there is not, and what is wrong with one of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kvpool import KVLayout
from kvpool.layout import DTYPES
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import Chunk, Tier, chunks_of, encode_chunk, open_codec
from kvpool.tiers.disk import DiskTier
from tests.support.kv import kv_like

__all__ = ["CHUNK_TOKENS", "IDENTITY", "chunks", "fill", "store", "value_of", "with_format"]

IDENTITY: Final = Identity("acme/model-7b", "", KVLayout(2, 2, 16, "float16"))
CHUNK_TOKENS: Final = 16


def chunks(count: int) -> list[Chunk]:
    """Return the first chunks of a sequence."""
    return list(chunks_of(IDENTITY, token_bytes(list(range(count * CHUNK_TOKENS))), CHUNK_TOKENS))


def value_of(chunk: Chunk, codec: str = "none") -> bytes:
    """Return the stored form of a chunk."""
    shape = chunk.layers, chunk.kv_heads, chunk.tokens, chunk.head_dim
    data = kv_like(*shape, chunk.start).astype(DTYPES[chunk.dtype])
    return b"".join(encode_chunk(chunk, data, open_codec(codec)))


def with_format(value: bytes, version: int) -> bytes:
    """Return a value that says that it has another format."""
    return value[:8] + struct.pack("<H", version) + value[10:]


def store(path: Path, count: int = 20, capacity: int = 8 << 20, codec: str = "none") -> list[bytes]:
    """Make a tier on a disk with the first chunks of a sequence; return their keys."""
    with DiskTier(path, capacity) as tier:
        return fill(tier, chunks(count), codec)


def fill(tier: Tier, wanted: Sequence[Chunk], codec: str = "none") -> list[bytes]:
    """Store chunks; return their keys."""
    for chunk in wanted:
        assert tier.write([(chunk.key, [value_of(chunk, codec)])]) == 1
    return [chunk.key for chunk in wanted]
