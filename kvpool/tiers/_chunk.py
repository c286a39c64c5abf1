"""Chunks: keys and values of some consecutive tokens, as values that describe themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from kvpool.errors import ChunkError
from kvpool.layout import DTYPES
from kvpool.prefix import TOKEN_BYTES, Identity, chunk_names
from kvpool.tiers._base import Part
from kvpool.tiers._codec import PLAIN, CodecChain, Form, open_codec
from kvpool.tiers._frame import Frame, Kind, seal, unseal

__all__ = [
    "CHUNK_PREFIX",
    "Chunk",
    "ChunkBuffer",
    "chunks_of",
    "codec_for",
    "decode_chunk",
    "encode_chunk",
    "named_codec",
    "read_chunk",
]

CHUNK_PREFIX: Final = b"c/"
"""What the keys of chunks begin with."""


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What stands in a chunk beside keys and values."""

    model_id: str
    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    start: int
    tokens: int
    parent: bytes
    name: bytes
    codec: str


_ROOM: Final = 1024
"""Bytes before the keys and values of a `ChunkBuffer`: more than frame and header mostly have."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Header)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Which tokens of which model a chunk is about.

    Parameters
    ----------
    model_id : str
        Weights, adapter and revision.
    layers, kv_heads, head_dim : int
    dtype : str
        Name of the element type, from `kvpool.layout.DTYPES`.
    start, tokens : int
        The position of its first token, and how many they are.
    parent, name : bytes
        From `kvpool.prefix.chunk_names`: of the chunk before it, empty for the first one, and of
        itself. A name stands for all tokens up to the end of the chunk, and for the identity
        with its salt.
    """

    model_id: str
    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    start: int
    tokens: int
    parent: bytes
    name: bytes

    @property
    def key(self) -> bytes:
        """The key under which tiers store it."""
        return CHUNK_PREFIX + self.name

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """The shape (layers, 2, kv_heads, tokens, head_dim): keys, then values, of each layer."""
        return self.layers, 2, self.kv_heads, self.tokens, self.head_dim

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        elements = 2 * self.layers * self.kv_heads * self.tokens * self.head_dim
        return elements * DTYPES[self.dtype].itemsize

    def empty(self) -> NDArray[Any]:
        """Return an array for the keys and values, which holds anything."""
        return np.empty(self.shape, DTYPES[self.dtype])


class ChunkBuffer:
    """Keys and values of a chunk, with room before them for what a value has there.

    So a value that is stored as it is lies in one piece, and no tier has to join its parts.

    Parameters
    ----------
    chunk : Chunk

    Attributes
    ----------
    data : ndarray, shape `Chunk.shape`
        Holds anything at first.
    """

    __slots__ = ("_bytes", "data")

    def __init__(self, chunk: Chunk) -> None:
        self._bytes = np.empty(_ROOM + chunk.nbytes, np.uint8)
        self.data: NDArray[Any] = self._bytes[_ROOM:].view(DTYPES[chunk.dtype]).reshape(chunk.shape)

    def behind(self, head: bytes) -> list[Part]:
        """Return the parts of a value that begins with a head: one, if there is room for it.

        A chunk has the same head whenever it is stored as it is, so any thread may call this.
        """
        if len(head) > _ROOM:
            return [head, self._bytes[_ROOM:].data]
        start = _ROOM - len(head)
        self._bytes[start:_ROOM] = np.frombuffer(head, np.uint8)
        return [self._bytes[start:].data]


def chunks_of(identity: Identity, tokens: bytes, chunk_tokens: int) -> Iterator[Chunk]:
    """Yield the whole chunks of a sequence, the first one first.

    Parameters
    ----------
    identity : Identity
    tokens : bytes
        From `kvpool.prefix.token_bytes`. Tokens behind the last whole chunk are ignored.
    chunk_tokens : int
        Tokens of a chunk, at least 1.
    """
    layout, parent = identity.layout, b""
    if len(tokens) < chunk_tokens * TOKEN_BYTES:
        return  # a name costs milliseconds the first time
    for number, name in enumerate(chunk_names(identity, tokens, chunk_tokens)):
        yield Chunk(
            identity.model_id,
            layout.layers,
            layout.kv_heads,
            layout.head_dim,
            layout.dtype.name,
            number * chunk_tokens,
            chunk_tokens,
            parent,
            name,
        )
        parent = name


def encode_chunk(
    chunk: Chunk, data: NDArray[Any] | ChunkBuffer, codec: CodecChain = PLAIN
) -> list[Part]:
    """Return a chunk as the parts of a value.

    Parameters
    ----------
    chunk : Chunk
    data : ndarray, shape `Chunk.shape`, or ChunkBuffer
        Keys and values, contiguous.
    codec : CodecChain, optional
        By default they are stored as they are.

    Raises
    ------
    TierError
        The codec cannot store them.
    """
    header = _encoder.encode(_header(chunk, codec.name))
    form = Form(chunk.shape, DTYPES[chunk.dtype], header)
    array = data.data if isinstance(data, ChunkBuffer) else data
    # Not every element type is known to `memoryview`; bytes are.
    payload = codec.encode(array.reshape(-1).view(np.uint8).data, form)
    head = seal(Kind.CHUNK, header, payload)
    if isinstance(data, ChunkBuffer) and codec.is_plain:
        return data.behind(head)
    return [head, *payload]


def decode_chunk(value: memoryview, chunk: Chunk, codec: CodecChain = PLAIN) -> NDArray[Any]:
    """Return the keys and values of a stored chunk, if it is the one that was asked for.

    Parameters
    ----------
    value : memoryview
        Bytes of a tier, which may be anything.
    chunk : Chunk
        What was asked for.
    codec : CodecChain, optional
        The codec of the tier. A chunk of another codec is decoded as well if nothing is lost
        and neither of the two is a cipher.

    Returns
    -------
    ndarray, shape `Chunk.shape`
        Read-only. It may show the bytes of `value` itself.

    Raises
    ------
    ChunkError
        It is damaged, or not the chunk that was asked for. The reason is one of those of the
        frame, which are ``"magic"``, ``"version"``, ``"length"``, ``"digest"`` and ``"kind"``, or
        ``"header"``, ``"model"``, ``"layout"``, ``"tokens"``, ``"codec"``, ``"payload"`` or
        ``"key"``.
    """
    frame = unseal(value, Kind.CHUNK)
    header = _header_of(frame)
    _check_header(header, chunk)
    data = codec_for(header.codec, codec).decode(frame.payload, _form(chunk, frame))
    array: NDArray[Any] = np.frombuffer(data, DTYPES[chunk.dtype]).reshape(chunk.shape)
    array.setflags(write=False)
    return array


def read_chunk(key: bytes, value: memoryview, codec: CodecChain = PLAIN) -> Chunk:
    """Return what a stored chunk says of itself, once all of that is right.

    Parameters
    ----------
    key : bytes
        Under which the tier has it.
    value : memoryview
        Bytes of a tier, which may be anything.
    codec : CodecChain, optional
        The codec of the tier. A chunk of another codec is decoded as well if that needs no key.

    Raises
    ------
    ChunkError
        It is damaged, or not the chunk of its key, or cannot be decoded. The reason is one of
        those of `decode_chunk`, or ``"name"`` if it is the chunk of another key.
    """
    frame = unseal(value, Kind.CHUNK)
    header = _header_of(frame)
    chunk = Chunk(*(getattr(header, name) for name in Chunk.__slots__))
    if chunk.key != key:
        raise ChunkError(f"the chunk is that of the key {chunk.key!r}", "name")
    sizes = (chunk.layers, chunk.kv_heads, chunk.head_dim, chunk.tokens)
    if chunk.dtype not in DTYPES or min(sizes) < 1:
        raise ChunkError(f"the chunk has an impossible layout: {chunk.dtype} {sizes}", "layout")
    if chunk.start < 0 or bool(chunk.start) != bool(chunk.parent):
        raise ChunkError("the first token of the chunk and the chunk before differ", "tokens")
    named_codec(header.codec, codec).decode(frame.payload, _form(chunk, frame))
    return chunk


def _header_of(frame: Frame) -> _Header:
    """Return the header of a chunk.

    Raises
    ------
    ChunkError
        It is not the header of a chunk.
    """
    try:
        return _decoder.decode(frame.header)
    except msgspec.MsgspecError as error:
        raise ChunkError(f"the header of the chunk cannot be read: {error}", "header") from None


def _form(chunk: Chunk, frame: Frame) -> Form:
    return Form(chunk.shape, DTYPES[chunk.dtype], bytes(frame.header))


def _header(chunk: Chunk, codec: str) -> _Header:
    return _Header(
        chunk.model_id,
        chunk.layers,
        chunk.kv_heads,
        chunk.head_dim,
        chunk.dtype,
        chunk.start,
        chunk.tokens,
        chunk.parent,
        chunk.name,
        codec,
    )


def _check_header(header: _Header, chunk: Chunk) -> None:
    """Raise `ChunkError` unless a chunk says of itself what was asked for."""
    asked = _header(chunk, header.codec)
    for reason, names in _CHECKED.items():
        for name in names:
            found, wanted = getattr(header, name), getattr(asked, name)
            if found != wanted:
                raise ChunkError(f"the chunk has the {name} {found!r}, not {wanted!r}", reason)


_CHECKED: Final = {
    "model": ("model_id",),
    "layout": ("layers", "kv_heads", "head_dim", "dtype"),
    "tokens": ("start", "tokens", "parent", "name"),
}


def codec_for(name: str, ours: CodecChain) -> CodecChain:
    """Return what decodes a chunk that says that a codec of this name made it.

    Raises
    ------
    ChunkError
        A chunk of that codec is not to be served: anyone can write one that is not encrypted.
    """
    theirs = ours if ours.is_cipher else named_codec(name, ours)
    if name != ours.name and (theirs.is_cipher or not theirs.is_lossless):
        raise _other_codec(name, ours)
    return theirs


def named_codec(name: str, ours: CodecChain) -> CodecChain:
    """Return the codec of a name, which stands in a chunk.

    Raises
    ------
    ChunkError
        There is none, or it needs what only the options of the tier can tell.
    """
    if name == ours.name:
        return ours
    if ";" in name:
        raise _other_codec(name, ours)
    try:
        return open_codec(name)
    except Exception as error:
        raise _other_codec(name, ours) from error


def _other_codec(name: str, ours: CodecChain) -> ChunkError:
    return ChunkError(f"the chunk has the codec {name!r}; the tier takes {ours.name!r}", "codec")
