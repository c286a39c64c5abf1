"""The frame of a stored value: what it is, how long it is, and a digest of all of it.

A frame is 64 bytes, numbers little-endian:

====== ===== ===================================================================
offset bytes content
====== ===== ===================================================================
0      8     `MAGIC`
8      2     format version
10     2     `Kind`
12     4     bytes of the header
16     8     bytes of the payload
24     16    XXH3-128 of the bytes 0 to 23, the header and the payload
40     24    zero
====== ===== ===================================================================

The header follows, filled up with zeros to a multiple of 64 bytes, and then the payload to the end
of the value. The digest finds damage. It is not a signature: who can write to the store can
make a value that is whole; the codec ``aes-gcm`` finds that.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import xxhash

from kvpool._checks import align_up
from kvpool.errors import ChunkError

__all__ = ["FORMAT", "FRAME_BYTES", "MAGIC", "Frame", "Kind", "seal", "unseal"]

MAGIC: Final = b"\x89kvpool\n"
FORMAT: Final = 1
"""The version that is written. Older ones are read, newer ones are refused."""
FRAME_BYTES: Final = 64
ALIGNMENT: Final = 64
"""Bytes: where the payload starts is a multiple of it."""
MAX_HEADER_BYTES: Final = 1 << 20

_HEAD: Final = struct.Struct("<8sHHIQ")
_FRAME: Final = struct.Struct("<8sHHIQ16s24x")


class Kind(enum.IntEnum):
    """What a value is."""

    CHUNK = 1
    """Keys and values of some tokens."""
    SESSION = 2
    """The tokens of a session that is kept by its name."""


class Frame(NamedTuple):
    """A value that is whole.

    Parameters
    ----------
    header, payload : memoryview
        Bytes of the value itself, not copies.
    """

    header: memoryview
    payload: memoryview


def seal(kind: Kind, header: bytes, payload: Sequence[Any]) -> bytes:
    """Return what stands before the payload of a value.

    Parameters
    ----------
    kind : Kind
    header : bytes
    payload : sequence of bytes-like
        The parts of the payload, each contiguous.
    """
    nbytes = sum(memoryview(part).nbytes for part in payload)
    head = _HEAD.pack(MAGIC, FORMAT, kind, len(header), nbytes)
    digest = _digest(head, header, payload)
    padding = bytes(-len(header) % ALIGNMENT)
    return _FRAME.pack(MAGIC, FORMAT, kind, len(header), nbytes, digest) + header + padding


def unseal(value: memoryview, kind: Kind) -> Frame:
    """Return the header and the payload of a value, once everything about its frame is right.

    Raises
    ------
    ChunkError
        It is not a value of this kind, it is of a newer format, or it is damaged. The reason is
        ``"magic"``, ``"version"``, ``"kind"``, ``"length"`` or ``"digest"``.
    """
    if value.nbytes < FRAME_BYTES or bytes(value[: len(MAGIC)]) != MAGIC:
        raise ChunkError("the value does not begin as those of kvpool do", "magic")
    _, version, its_kind, header_nbytes, nbytes, digest = _FRAME.unpack_from(value)
    if version > FORMAT:
        raise ChunkError(
            f"the value has the format {version}; this version of kvpool reads up to {FORMAT}",
            "version",
        )
    start = FRAME_BYTES + align_up(header_nbytes, ALIGNMENT)
    if header_nbytes > MAX_HEADER_BYTES or start + nbytes != value.nbytes:
        raise ChunkError(
            f"the value has {value.nbytes} bytes, its frame tells {start + nbytes}", "length"
        )
    header = value[FRAME_BYTES : FRAME_BYTES + header_nbytes]
    payload = value[start:]
    padding = bytes(value[_FRAME.size - 24 : FRAME_BYTES]), bytes(value[FRAME_BYTES:start])
    filled = any(padding[0]) or any(padding[1][header_nbytes:])
    if filled or digest != _digest(value[: _HEAD.size], header, [payload]):
        raise ChunkError("the value is damaged: its digest is another one", "digest")
    if its_kind != kind:
        raise ChunkError(f"the value is of the kind {its_kind}, not {kind}", "kind")
    return Frame(header, payload)


def _digest(head: Any, header: Any, payload: Sequence[Any]) -> bytes:
    digest = xxhash.xxh3_128(head)
    digest.update(header)
    for part in payload:
        digest.update(part)
    return digest.digest()
