"""The codecs: the contract, what they save, their options, and chains of them."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from kvpool.errors import ChunkError, InvalidTierError, UnknownPluginError
from kvpool.layout import DTYPES
from kvpool.testing import CodecSuite
from kvpool.tiers import Codec, CodecChain, Form, open_codec
from kvpool.tiers.codecs.aes_gcm import AesGcmCodec
from kvpool.tiers.codecs.int4 import Int4Codec
from kvpool.tiers.codecs.int8 import Int8Codec
from kvpool.tiers.codecs.zstd import ZstdCodec
from tests.support.kv import kv_like

KEY = bytes(range(32))


class TestZstd(CodecSuite):
    def create_codec(self) -> Codec:
        return ZstdCodec()


class TestZstdOfAHighLevel(CodecSuite):
    def create_codec(self) -> Codec:
        return ZstdCodec(level=9)


class TestInt8(CodecSuite):
    error = 1 / 255 + 1 / 256  # half a step, and a cast to bfloat16

    def create_codec(self) -> Codec:
        return Int8Codec()


class TestInt4(CodecSuite):
    error = 1 / 15 + 1 / 256

    def create_codec(self) -> Codec:
        return Int4Codec()


class TestAesGcm(CodecSuite):
    def create_codec(self) -> Codec:
        return AesGcmCodec(KEY)


def saved(chain: CodecChain, dtype: str) -> float:
    """Return bytes of a chunk ÷ its bytes when stored."""
    array = kv_like(4, 2, 64, 64).astype(DTYPES[dtype])
    data = array.reshape(-1).view(np.uint8).data
    parts = chain.encode(data, Form(array.shape, array.dtype, b""))
    return data.nbytes / sum(memoryview(part).nbytes for part in parts)


@pytest.mark.parametrize(
    ("codec", "dtype", "at_least"),
    [
        ("zstd", "bfloat16", 1.35),
        ("zstd", "float16", 1.1),
        ("zstd", "float32", 1.12),
        ("int8", "bfloat16", 1.7),
        ("int4", "bfloat16", 3.1),
        ("int8,zstd", "bfloat16", 1.8),
    ],
)
def test_what_a_codec_saves(codec: str, dtype: str, at_least: float) -> None:
    assert saved(open_codec(codec), dtype) > at_least


def test_no_codec_stores_the_bytes_themselves() -> None:
    chain = open_codec("none")
    data = memoryview(b"some bytes")
    form = Form((1, 2, 1, 1, 5), np.dtype(np.int8), b"")
    assert chain.encode(data, form)[0] is data
    assert chain.decode(data, form) == data


@pytest.mark.parametrize("codec", ["zstd,aes-gcm", "int8,zstd,aes-gcm"])
def test_a_chain_undoes_what_it_did(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVPOOL_TIER_KEY", KEY.hex())
    chain = open_codec(codec)
    assert chain.name == codec
    assert chain.is_cipher
    assert chain.is_lossless == ("int8" not in codec)
    array = kv_like(2, 2, 16, 8).astype(DTYPES["bfloat16"])
    form = Form(array.shape, array.dtype, b"about")
    data = array.reshape(-1).view(np.uint8).data
    stored = b"".join(memoryview(part).cast("B") for part in chain.encode(data, form))
    found = chain.decode(memoryview(stored), form)
    assert found.nbytes == data.nbytes
    assert chain.is_lossless is (bytes(found) == bytes(data))


def test_a_quantizer_behind_another_codec_is_refused() -> None:
    with pytest.raises(InvalidTierError, match="'int8' takes keys and values"):
        open_codec("zstd,int8")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("zstd;level=0", "'?0'?"),
        ("zstd;level=20", "from 1 to 19"),
        ("zstd;level=high", "'high'"),
        ("zstd;level", "name=value"),
        ("zstd;level=1;level=2", "name=value, once"),
        ("zstd;speed=1", "no option 'speed'; its options: level"),
        ("int8;bits=4", "no option 'bits'; its options: it has none"),
    ],
)
def test_options_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidTierError, match=reason):
        open_codec(text)


@pytest.mark.parametrize("text", ["", "gzip", "none,zstd", "zstd,"])
def test_codecs_that_there_are_not(text: str) -> None:
    with pytest.raises(UnknownPluginError, match="codec"):
        open_codec(text)


def test_a_level_is_used() -> None:
    assert saved(open_codec("zstd;level=19"), "bfloat16") > 1.3


@pytest.mark.parametrize(
    "content",
    [KEY, KEY.hex().encode() + b"\n", base64.b64encode(KEY), base64.b64encode(KEY) + b"\r\n"],
)
def test_a_key_from_a_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kv.key"
    path.write_bytes(content)
    form = Form(None, np.dtype(np.uint8), b"about")
    stored = b"".join(AesGcmCodec(KEY).encode(memoryview(b"hello"), form))
    chain = open_codec(f"aes-gcm;key={path}")
    found = chain.decode(memoryview(stored), Form((5,), np.dtype(np.int8), b"about"))
    assert bytes(found) == b"hello"


def test_a_key_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVPOOL_TIER_KEY", raising=False)
    with pytest.raises(InvalidTierError, match="variable KVPOOL_TIER_KEY has no key"):
        open_codec("aes-gcm")
    with pytest.raises(InvalidTierError, match="cannot be read"):
        open_codec(f"aes-gcm;key={tmp_path / 'none'}")


@pytest.mark.parametrize("content", [b"", b"q", b"x" * 33, b"zz" * 16 + b"z"])
def test_what_is_not_a_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kv.key"
    path.write_bytes(content)
    with pytest.raises(InvalidTierError, match="16, 24 or 32 bytes") as caught:
        open_codec(f"aes-gcm;key={path}")
    assert len(content) < 2 or content.decode() not in str(caught.value)


def test_another_key_is_told_apart() -> None:
    form = Form(None, np.dtype(np.uint8), b"about")
    stored = b"".join(AesGcmCodec(KEY).encode(memoryview(b"hello"), form))
    with pytest.raises(ChunkError, match="another key") as caught:
        AesGcmCodec(KEY[::-1]).decode(memoryview(stored), form)
    assert caught.value.reason == "key"


def test_a_plane_that_would_grow_without_limit_is_refused() -> None:
    """A few bytes can stand for gigabytes of zeros: no more is decompressed than there can be."""
    codec = ZstdCodec()
    form = Form((1, 2, 1, 8, 8), np.dtype(np.int8), b"")
    larger = Form((1, 2, 1, 1 << 16, 8), np.dtype(np.int8), b"")
    stored = b"".join(codec.encode(memoryview(bytes(larger.nbytes or 0)), larger))
    assert len(stored) < 1000
    with pytest.raises(ChunkError, match="another size"):
        codec.decode(memoryview(stored), form)
