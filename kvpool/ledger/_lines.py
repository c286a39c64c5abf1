"""The lines of a ledger: their types, their bytes, their hash.

``docs/ledger-format.md`` says all of this for other implementations.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

from kvpool.receipts.canonical import canonical
from kvpool.receipts.types import Count, Receipt, Timestamp

__all__ = [
    "FORMAT",
    "MAX_LINE",
    "ZERO",
    "BaseLine",
    "Checkpoint",
    "Header",
    "LedgerLine",
    "ReceiptLine",
    "Recovery",
    "Redaction",
    "Rotation",
    "Seal",
    "Signed",
    "SignedLine",
    "decode_line",
    "encode_line",
    "line_hash",
    "signed_bytes",
]

FORMAT = 1
"""Of the lines; a reader refuses any other."""

ZERO = "0" * 64
"""Stands for the hash of a line before the first."""

MAX_LINE = 1 << 18
"""Bytes that a line has at most, without its end."""

_DOMAIN = b"kvpool ledger 1\n"  # so that no signature made for something else fits here

HexId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$", max_length=32)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
# Compared with a hash, so anything else is found there.
Link = Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
Signature = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$", max_length=128)]
# The name of a file beside this one: a ledger cannot send its reader anywhere else.
FileName = Annotated[str, msgspec.Meta(pattern=r"^[^/\\:\x00-\x1f]+$", max_length=255)]


class BaseLine(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    gc=False,
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """What every line has.

    Attributes
    ----------
    prev : str
        SHA-256 of the bytes of the line before, without its line end; hexadecimal.
    """

    prev: Link


class Redaction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How session ids were replaced.

    Attributes
    ----------
    algorithm : str
    salt_id : str
        Names the salt without giving it away.
    """

    algorithm: Literal["blake2b-128"]
    salt_id: HexId


class Header(BaseLine, frozen=True, kw_only=True, tag="header"):
    """The first line of each segment: what one writer wrote from opening to closing.

    Attributes
    ----------
    format : int
    ledger_id : str
        32 random hexadecimal digits, the same in all segments of a ledger.
    file : int
        0 in the first file of the ledger, 1 in the one that it was continued in, …
    created : str
        When the segment was begun.
    public_key : str or None
        The raw Ed25519 key, hexadecimal, to check signatures with; None if
        nothing is signed.
    redaction : Redaction or None
    copy_of : str or None
        The head of the ledger that this one is a copy of.
    """

    format: Annotated[int, msgspec.Meta(ge=FORMAT, le=FORMAT)]
    ledger_id: HexId
    file: Count
    created: Timestamp
    public_key: Digest | None
    redaction: Redaction | None
    copy_of: Digest | None


class Recovery(BaseLine, frozen=True, kw_only=True, tag="recovery"):
    """The segment before was not ended; written right after the header of the next one.

    Attributes
    ----------
    torn_bytes : int
        Bytes of an unfinished last line, which were moved to a file beside the ledger.
    torn_sha256 : str
        Of these bytes, hexadecimal.
    """

    torn_bytes: Count
    torn_sha256: Digest


class ReceiptLine(BaseLine, frozen=True, kw_only=True, gc=False, tag="receipt"):
    """One receipt."""

    receipt: Receipt


class SignedLine(BaseLine, frozen=True, kw_only=True):
    """What signed lines have.

    Attributes
    ----------
    lines, receipts : int
        Of this segment, before this line.
    signature : str or None
        Ed25519 over `signed_bytes`, hexadecimal; None in a ledger without a public key.
    """

    lines: Count
    receipts: Count
    signature: Signature | None


class Checkpoint(SignedLine, frozen=True, kw_only=True, tag="checkpoint"):
    """Vouches for all lines before it."""


class Rotation(SignedLine, frozen=True, kw_only=True, tag="rotation"):
    """Ends a segment and its file; the ledger goes on in another.

    Attributes
    ----------
    next : str
        Name of that file, which lies beside this one.
    """

    next: FileName


class Seal(SignedLine, frozen=True, kw_only=True, tag="seal"):
    """Ends a segment: the writer closed the ledger."""


Signed = Checkpoint | Rotation | Seal
LedgerLine = Header | Recovery | ReceiptLine | Checkpoint | Rotation | Seal

_decode = msgspec.json.Decoder[LedgerLine](LedgerLine).decode


def encode_line(line: LedgerLine) -> bytes:
    """Return the bytes of a line, without its end: canonical JSON (RFC 8785).

    Raises
    ------
    InvalidReceiptError
        A text is not Unicode, or a number has no exact place in JSON.
    """
    return canonical(line, line.receipt.measures if isinstance(line, ReceiptLine) else ())


def decode_line(raw: bytes) -> LedgerLine:
    """Read a line.

    Raises
    ------
    MsgspecError, ValueError, RecursionError
        It is none; the text says where. See `kvpool.receipts.canonical.UNREADABLE`.
    """
    line: LedgerLine = _decode(raw)
    return line


def line_hash(raw: bytes) -> str:
    """Return the hash of a line's bytes, which the next line carries."""
    return hashlib.sha256(raw).hexdigest()


def signed_bytes(line: Signed) -> bytes:
    """Return what the signature of a line covers: all of it but the signature itself."""
    return _DOMAIN + encode_line(msgspec.structs.replace(line, signature=None))
