"""Chunks as stored values: what is asked for comes back, and nothing else is taken for it."""

from __future__ import annotations

import dataclasses
import pickle
import struct
from typing import Any

import numpy as np
import pytest
import xxhash

from kvpool.errors import ChunkError, TierError
from kvpool.layout import DTYPES, KVLayout
from kvpool.prefix import Identity, chunk_names, token_bytes
from kvpool.tiers import Chunk, CodecChain, chunks_of, decode_chunk, encode_chunk, open_codec
from kvpool.tiers._chunk import ChunkBuffer
from kvpool.tiers._frame import FORMAT, MAGIC, Kind, seal, unseal
from kvpool.tiers.codecs.aes_gcm import AesGcmCodec
from tests.support.kv import kv_like

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=4, dtype="bfloat16")
IDENTITY = Identity("model@1", "salt", LAYOUT)
TOKENS = token_bytes(list(range(100, 140)))
CIPHER = CodecChain([AesGcmCodec(bytes(32))])


def chunks(identity: Identity = IDENTITY, chunk_tokens: int = 8) -> list[Chunk]:
    return list(chunks_of(identity, TOKENS, chunk_tokens))


def data_of(chunk: Chunk, seed: int = 0) -> Any:
    shape = chunk.layers, chunk.kv_heads, chunk.tokens, chunk.head_dim
    return kv_like(*shape, seed).astype(DTYPES[chunk.dtype])


def value_of(chunk: Chunk, codec: str = "none", seed: int = 0) -> bytes:
    return b"".join(encode_chunk(chunk, data_of(chunk, seed), open_codec(codec)))


def test_the_chunks_of_a_sequence() -> None:
    names = list(chunk_names(IDENTITY, TOKENS, 8))
    found = chunks()
    assert [chunk.name for chunk in found] == names
    assert [chunk.parent for chunk in found] == [b"", *names[:-1]]
    assert [(chunk.start, chunk.tokens) for chunk in found] == [(8 * n, 8) for n in range(5)]
    assert found[0].key == b"c/" + names[0]
    assert found[0].shape == (2, 2, 2, 8, 4) == found[0].empty().shape
    assert found[0].nbytes == found[0].empty().nbytes == 8 * LAYOUT.bytes_per_token


def test_tokens_behind_the_last_whole_chunk_are_in_none() -> None:
    assert len(chunks(chunk_tokens=16)) == 2
    assert chunks(chunk_tokens=41) == []


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_encoded_is_decoded(codec: str, dtype: str) -> None:
    identity = Identity("model", "", KVLayout(3, 2, 5, dtype))
    for chunk in chunks(identity, 7):
        data = data_of(chunk)
        value = b"".join(encode_chunk(chunk, data, open_codec(codec)))
        found = decode_chunk(memoryview(value), chunk, open_codec(codec))
        assert found.dtype == DTYPES[dtype]
        assert found.tobytes() == data.tobytes()
        assert not found.flags.writeable


def test_a_chunk_in_a_buffer_is_one_piece_if_it_is_stored_as_it_is() -> None:
    chunk = chunks()[0]
    buffer = ChunkBuffer(chunk)
    buffer.data[...] = data_of(chunk)
    expected = value_of(chunk)
    for _ in range(2):  # for each level of a store
        (value,) = encode_chunk(chunk, buffer)
        assert bytes(value) == expected
        assert np.shares_memory(np.frombuffer(value, np.uint8), buffer.data)
    parts = encode_chunk(chunk, buffer, open_codec("zstd"))
    assert b"".join(parts) == value_of(chunk, "zstd")
    assert bytes(encode_chunk(chunk, buffer)[0]) == expected


def test_a_head_that_is_longer_than_the_room_of_a_buffer_is_a_part() -> None:
    chunk = chunks(IDENTITY._replace(model_id="m" * 2000))[0]
    buffer = ChunkBuffer(chunk)
    buffer.data[...] = data_of(chunk)
    head, payload = encode_chunk(chunk, buffer)
    assert bytes(head) + bytes(payload) == value_of(chunk)


def test_a_plain_chunk_is_shown_where_it_is() -> None:
    chunk = chunks()[0]
    value = value_of(chunk)
    shown = np.frombuffer(value, np.uint8)
    assert np.shares_memory(decode_chunk(memoryview(value), chunk), shown)
    assert len(value) % 64 == 0


def test_the_salt_is_not_in_a_chunk() -> None:
    chunk = next(chunks_of(Identity("model@1", "a-secret-salt", LAYOUT), TOKENS, 8))
    value = value_of(chunk)
    assert b"model@1" in value
    assert b"a-secret-salt" not in value
    assert struct.pack("<q", 100) not in value


@pytest.mark.parametrize("codec", ["none", "zstd", "int8"])
def test_a_flipped_byte_anywhere_is_found(codec: str) -> None:
    chunk = chunks()[1]
    value = value_of(chunk, codec)
    reasons = set()
    for at in range(len(value)):
        for mask in (1, 0x80, 0xFF):
            bad = bytearray(value)
            bad[at] ^= mask
            with pytest.raises(ChunkError) as caught:
                decode_chunk(memoryview(bad), chunk, open_codec(codec))
            reasons.add(caught.value.reason)
    assert reasons == {"magic", "version", "length", "digest"}


def test_a_value_of_another_length_is_refused() -> None:
    chunk = chunks()[0]
    value = value_of(chunk)
    for length in range(len(value)):
        with pytest.raises(ChunkError) as caught:
            decode_chunk(memoryview(value[:length]), chunk)
        assert caught.value.reason in {"magic", "length"}
    with pytest.raises(ChunkError, match="bytes"):
        decode_chunk(memoryview(value + b"\0"), chunk)


def test_any_bytes_are_refused() -> None:
    draws = np.random.default_rng(0)
    for number in range(200):
        value = (MAGIC if number % 2 else b"") + draws.bytes(number * 3)
        with pytest.raises(ChunkError):
            decode_chunk(memoryview(value), chunks()[0])


def test_a_newer_format_is_refused_by_its_number() -> None:
    value = bytearray(value_of(chunks()[0]))
    struct.pack_into("<H", value, 8, FORMAT + 1)
    with pytest.raises(ChunkError, match=f"format {FORMAT + 1}; .* reads up to {FORMAT}") as caught:
        decode_chunk(memoryview(value), chunks()[0])
    assert caught.value.reason == "version"


def test_a_value_of_another_kind_is_refused() -> None:
    value = seal(Kind.SESSION, b"header", [b"payload"]) + b"payload"
    assert bytes(unseal(memoryview(value), Kind.SESSION).payload) == b"payload"
    with pytest.raises(ChunkError) as caught:
        decode_chunk(memoryview(value), chunks()[0])
    assert caught.value.reason == "kind"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_id": "model@2"}, "model"),
        ({"layers": 1}, "layout"),
        ({"kv_heads": 4}, "layout"),
        ({"head_dim": 2}, "layout"),
        ({"dtype": "float16"}, "layout"),
        ({"start": 8}, "tokens"),
        ({"tokens": 16}, "tokens"),
        ({"parent": b"p" * 32}, "tokens"),
        ({"name": b"n" * 32}, "tokens"),
    ],
)
def test_another_chunk_than_was_asked_for_is_refused(changes: dict[str, Any], reason: str) -> None:
    chunk = chunks()[0]
    (field,) = changes
    with pytest.raises(ChunkError, match=field) as caught:
        decode_chunk(memoryview(value_of(chunk)), dataclasses.replace(chunk, **changes))
    assert caught.value.reason == reason


def test_the_same_tokens_of_another_tenant_are_refused() -> None:
    other = next(chunks_of(IDENTITY._replace(salt="other"), TOKENS, 8))
    with pytest.raises(ChunkError) as caught:
        decode_chunk(memoryview(value_of(other)), chunks()[0])
    assert caught.value.reason == "tokens"


@pytest.mark.parametrize(
    "header", [b"", b"\xc1", b"\x90", b"\x9a" + b"\xc0" * 10, b"\x80", b"\x93"]
)
def test_a_header_that_cannot_be_read_is_refused(header: bytes) -> None:
    value = seal(Kind.CHUNK, header, [b"payload"]) + b"payload"
    with pytest.raises(ChunkError, match="header") as caught:
        decode_chunk(memoryview(value), chunks()[0])
    assert caught.value.reason == "header"


def test_a_payload_of_another_size_is_refused() -> None:
    chunk = chunks()[0]
    frame = unseal(memoryview(value_of(chunk)), Kind.CHUNK)
    for payload in (bytes(frame.payload[:-64]), bytes(frame.payload) + bytes(64), b""):
        value = seal(Kind.CHUNK, bytes(frame.header), [payload]) + payload
        with pytest.raises(ChunkError) as caught:
            decode_chunk(memoryview(value), chunk)
        assert caught.value.reason == "payload"


@pytest.mark.parametrize(
    ("stored", "ours", "is_taken"),
    [
        ("zstd", "none", True),
        ("none", "zstd", True),
        ("int8", "int8", True),
        ("int8", "none", False),  # it would not be what the model computed
        ("int4", "int8", False),
        ("none", "int8", True),
    ],
)
def test_a_chunk_of_another_codec(stored: str, ours: str, is_taken: bool) -> None:
    chunk = chunks()[0]
    value = memoryview(value_of(chunk, stored))
    if is_taken:
        found = decode_chunk(value, chunk, open_codec(ours))
        assert "int8" in stored or found.tobytes() == data_of(chunk).tobytes()
    else:
        with pytest.raises(ChunkError, match=f"'{stored}'.*'{ours}'") as caught:
            decode_chunk(value, chunk, open_codec(ours))
        assert caught.value.reason == "codec"


@pytest.mark.parametrize("stored", ["none", "zstd"])
def test_a_tier_with_a_cipher_takes_nothing_that_is_not_encrypted(stored: str) -> None:
    """Anyone could have written it."""
    chunk = chunks()[0]
    with pytest.raises(ChunkError) as caught:
        decode_chunk(memoryview(value_of(chunk, stored)), chunk, CIPHER)
    assert caught.value.reason == "codec"


def test_an_encrypted_chunk_cannot_take_the_place_of_another() -> None:
    """Also if its header is exchanged, and the digest computed anew."""
    one, other = chunks()[:2]
    value = b"".join(encode_chunk(one, data_of(one), CIPHER))
    assert decode_chunk(memoryview(value), one, CIPHER).tobytes() == data_of(one).tobytes()
    header = unseal(memoryview(b"".join(encode_chunk(other, data_of(other), CIPHER))), Kind.CHUNK)
    payload = bytes(unseal(memoryview(value), Kind.CHUNK).payload)
    forged = seal(Kind.CHUNK, bytes(header.header), [payload]) + payload
    with pytest.raises(ChunkError) as caught:
        decode_chunk(memoryview(forged), other, CIPHER)
    assert caught.value.reason == "key"


@pytest.mark.parametrize("codec", ["gzip", "aes-gcm", "none,none", "zstd;level=9", "os.system"])
def test_a_codec_that_a_chunk_invents_is_refused(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVPOOL_TIER_KEY", "00" * 32)
    chunk = chunks()[0]
    invented = CodecChain()
    invented.name = codec
    value = b"".join(encode_chunk(chunk, data_of(chunk), invented))
    with pytest.raises(ChunkError) as caught:
        decode_chunk(memoryview(value), chunk)
    assert caught.value.reason == "codec"


def test_the_error_is_one_of_tiers_and_can_be_pickled() -> None:
    error = ChunkError("text", "digest")
    assert isinstance(error, TierError)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason) == ("text", "digest")


def test_the_form_of_a_chunk_stays() -> None:
    """What one version writes, another reads: these are the bytes of format 1."""
    identity = Identity("golden", "", KVLayout(1, 1, 2, "float32"))
    (chunk,) = chunks_of(identity, token_bytes([7, 8]), 2)
    data = np.arange(8, dtype=np.float32).reshape(chunk.shape)
    value = b"".join(encode_chunk(chunk, data))
    assert xxhash.xxh3_128_hexdigest(value) == "a68902104ad944e067ab30805184fd16"
