"""Sessions that are kept by their names: the tokens of each, as values that describe themselves.

A session has two places in a tier, and a new record takes that of the older one. So a process that
is killed while it writes leaves the record before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.errors import ChunkError, InvalidArgumentError
from kvpool.prefix import TOKEN_BYTES, Identity, root_name
from kvpool.tiers._base import Part, Tier
from kvpool.tiers._chunk import codec_for, named_codec
from kvpool.tiers._codec import PLAIN, CodecChain, Form
from kvpool.tiers._frame import Kind, seal, unseal

__all__ = [
    "SESSION_PREFIX",
    "StoredSession",
    "encode_session",
    "find_session",
    "place_for",
    "read_session",
    "remove_session",
    "session_keys",
    "session_name",
    "stored_sessions",
    "write_session",
]

SESSION_PREFIX: Final = b"s/"
"""What the keys of sessions begin with."""

_PURPOSE: Final = b"kvpool sessions 1"
_NAME_BYTES: Final = 32


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What stands in a record beside the tokens."""

    key: str
    model_id: str
    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    tokens: int
    when: int  # nanoseconds
    name: bytes
    codec: str
    note: int = 0  # bytes of it behind the tokens; older records have none


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Header)


class StoredSession(NamedTuple):
    """A session that a tier keeps by its name.

    Parameters
    ----------
    key : CacheKey
    model_id : str
    layers, kv_heads, head_dim : int
        Of its layout.
    dtype : str
        Name of the element type.
    tokens : ndarray of int64, shape (n,)
        All of them, in order. Read-only.
    when : int
        When it was closed, in nanoseconds since 1970.
    name : bytes
        From `session_name`.
    note : bytes
        What the caller keeps beside the tokens.
    """

    key: CacheKey
    model_id: str
    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    tokens: NDArray[np.int64]
    when: int
    name: bytes
    note: bytes = b""

    @classmethod
    def of(
        cls, identity: Identity, key: CacheKey, tokens: bytes, when: int, note: bytes = b""
    ) -> StoredSession:
        """Return the record of a session.

        Parameters
        ----------
        identity : Identity
        key : CacheKey
        tokens : bytes
            From `kvpool.prefix.token_bytes`.
        when : int
        note : bytes
        """
        layout = identity.layout
        return cls(
            key,
            identity.model_id,
            layout.layers,
            layout.kv_heads,
            layout.head_dim,
            layout.dtype.name,
            np.frombuffer(tokens, np.int64),
            when,
            session_name(identity, key),
            note,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens and of the note."""
        return self.tokens.nbytes + len(self.note)


def session_name(identity: Identity, key: CacheKey) -> bytes:
    """Return a digest of a key, and of model, layout and salt: 32 bytes.

    Which key it is of cannot be told without the salt.
    """
    text = str(key).encode("utf-8", "surrogatepass")
    return hashlib.sha256(_PURPOSE + root_name(identity) + text).digest()


def session_keys(name: bytes) -> list[bytes]:
    """Return the keys of both places of a session in a tier."""
    return [SESSION_PREFIX + name + place for place in (b"0", b"1")]


def read_session(key: bytes, value: memoryview, codec: CodecChain) -> StoredSession:
    """Return what a stored session says of itself, once all of that is right.

    Parameters
    ----------
    key : bytes
        Under which the tier has it.
    value : memoryview
        Bytes of a tier, which may be anything.
    codec : CodecChain
        That of the tier.

    Raises
    ------
    ChunkError
        It is damaged, or not that of its key, or cannot be decoded.
    """
    return _read(key, value, codec, any_codec=True)


def find_session(tier: Tier, name: bytes, codec: CodecChain) -> StoredSession | None:
    """Return the newest record of a session in a tier; None if there is none that is right.

    Raises
    ------
    TierError
        The tier cannot be read.
    """
    return _newest(_records(tier, name, codec))


def stored_sessions(tier: Tier, codec: CodecChain = PLAIN) -> Iterator[StoredSession]:
    """Yield the newest record of each named session of a tier, in any order.

    Records that are damaged, or that need another codec or key, are left out.

    Parameters
    ----------
    tier : Tier
    codec : CodecChain, optional
        That of the tier.

    Raises
    ------
    TierError
        The tier cannot be read; also from within the iteration.
    """
    seen: set[bytes] = set()
    for key in tier.keys(SESSION_PREFIX):
        name = key[len(SESSION_PREFIX) : -1]
        if name in seen:
            continue
        seen.add(name)
        found = find_session(tier, name, codec)
        if found is not None:
            yield found


def remove_session(tier: Tier, name: bytes) -> bool:
    """Forget a session; its chunks stay, because others may begin with them.

    Parameters
    ----------
    tier : Tier
    name : bytes
        See `StoredSession`.

    Returns
    -------
    bool
        Whether the tier had it.

    Raises
    ------
    TierError
        The tier cannot be written, and may have it.
    """
    return tier.remove(session_keys(name)) > 0


def place_for(tier: Tier, name: bytes, codec: CodecChain) -> tuple[bytes, int]:
    """Return where to write the next record of a session, and the least that its `when` must be.

    Raises
    ------
    TierError
        The tier cannot be read.
    """
    records = _records(tier, name, codec)
    newest = _newest(records)
    if newest is None:
        return session_keys(name)[0], 0
    # Later than the one that is there, also if a clock went back.
    return session_keys(name)[0 if records[1] is newest else 1], newest.when + 1


def write_session(tier: Tier, key: bytes, parts: Sequence[Part]) -> int:
    """Write a record in place of another; return 1 if it is there, 0 if there is no room.

    Raises
    ------
    TierError
        The tier cannot be written.
    """
    tier.remove([key])
    return tier.write([(key, parts)])


def encode_session(session: StoredSession, codec: CodecChain) -> list[Part]:
    """Return a session as the parts of a value.

    Raises
    ------
    TierError
        The codec cannot store it.
    """
    codec = codec.for_bytes
    header = _encoder.encode(
        _Header(
            str(session.key),
            session.model_id,
            session.layers,
            session.kv_heads,
            session.head_dim,
            session.dtype,
            len(session.tokens),
            session.when,
            session.name,
            codec.name,
            len(session.note),
        )
    )
    data = session.tokens.astype("<i8", copy=False).tobytes() + session.note
    payload = codec.encode(memoryview(data), _form(len(data), header))
    return [seal(Kind.SESSION, header, payload), *payload]


def _records(tier: Tier, name: bytes, codec: CodecChain) -> list[StoredSession | None]:
    """Return what both places of a session have that is right."""
    keys = session_keys(name)
    found: list[StoredSession | None] = []
    with tier.read(keys) as values:
        for key, value in zip(keys, values, strict=True):
            try:
                found.append(None if value is None else _read(key, value, codec, any_codec=False))
            except ChunkError:
                found.append(None)
    return found


def _newest(records: list[StoredSession | None]) -> StoredSession | None:
    return max((one for one in records if one is not None), key=_when, default=None)


def _when(session: StoredSession) -> int:
    return session.when


def _read(key: bytes, value: memoryview, ours: CodecChain, *, any_codec: bool) -> StoredSession:
    frame = unseal(value, Kind.SESSION)
    try:
        header = _decoder.decode(frame.header)
        its_key = CacheKey.parse(header.key)
    except (msgspec.MsgspecError, InvalidArgumentError) as error:
        raise ChunkError(f"the header of the session cannot be read: {error}", "header") from None
    if len(header.name) != _NAME_BYTES or key not in session_keys(header.name):
        raise ChunkError("the session is that of another key", "name")
    if not 0 < header.tokens <= (1 << 40):
        raise ChunkError(f"the session has {header.tokens} tokens", "tokens")
    if not 0 <= header.note <= (1 << 40):
        raise ChunkError(f"the session has a note of {header.note} bytes", "tokens")
    ours = ours.for_bytes
    codec = named_codec(header.codec, ours) if any_codec else codec_for(header.codec, ours)
    nbytes = header.tokens * TOKEN_BYTES
    data = bytes(codec.decode(frame.payload, _form(nbytes + header.note, bytes(frame.header))))
    tokens = np.frombuffer(data[:nbytes], "<i8").astype(np.int64, copy=False)
    return StoredSession(
        its_key,
        header.model_id,
        header.layers,
        header.kv_heads,
        header.head_dim,
        header.dtype,
        tokens,
        header.when,
        header.name,
        data[nbytes:],
    )


def _form(nbytes: int, header: bytes) -> Form:
    return Form((nbytes,), np.dtype(np.uint8), header)
