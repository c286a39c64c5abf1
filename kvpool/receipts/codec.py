"""Receipts to and from JSON, including fields of newer minor versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kvpool.receipts.canonical import UNREADABLE, canonical
from kvpool.receipts.errors import InvalidReceiptError, SchemaVersionError
from kvpool.receipts.types import SCHEMA_VERSION, Receipt

__all__ = [
    "ReceiptRecord",
    "check_kind",
    "check_version",
    "decode_receipt",
    "encode_receipt",
    "unknown_names",
]

_FORM = re.compile(r"\d{1,9}\.\d{1,9}\.\d{1,9}", re.ASCII)
_MAJORS = ("1", SCHEMA_VERSION.partition(".")[0])


class _Version(msgspec.Struct):
    schema_version: str = SCHEMA_VERSION


_read_version = msgspec.json.Decoder(_Version).decode
_read_receipt = msgspec.json.Decoder[Receipt](Receipt).decode


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A receipt that was read, with its unknown fields.

    Attributes
    ----------
    receipt : Receipt
    unknown : mapping of str to value
        Fields that a newer minor version has added; they are written back unchanged.
    """

    receipt: Receipt
    unknown: Mapping[str, Any] = field(default_factory=dict)


def encode_receipt(receipt: Receipt | ReceiptRecord) -> bytes:
    """Return a receipt as canonical JSON (RFC 8785).

    Raises
    ------
    InvalidReceiptError
        A text is not Unicode, or a number has no exact place in JSON.
    """
    if not isinstance(receipt, ReceiptRecord):
        return canonical(receipt, receipt.measures)
    known = receipt.receipt
    if not receipt.unknown:
        return canonical(known, known.measures)
    # Values of unknown fields may be any numbers, so it is left to the library (see there).
    return canonical({**receipt.unknown, **msgspec.to_builtins(known)}, [float("nan")])


def decode_receipt(data: bytes) -> ReceiptRecord:
    """Read a receipt.

    Parameters
    ----------
    data : bytes
        JSON, canonical or not.

    Raises
    ------
    SchemaVersionError
        The receipt has another major version.
    InvalidReceiptError
        The bytes are not a receipt; the text names the field.

    Examples
    --------
    >>> decode_receipt(b'{"event":"kv_eviction","schema_version":"3.0.0"}')
    Traceback (most recent call last):
    kvpool.receipts.errors.SchemaVersionError: schema_version 3.0.0 is of another major version: ...
    """
    try:
        check_version(_read_version(data).schema_version)
        receipt = _read_receipt(data)
        check_kind(receipt)
        fields = msgspec.json.decode(data)
    except UNREADABLE as error:
        if isinstance(error, SchemaVersionError):
            raise
        raise InvalidReceiptError(f"not a receipt: {error}") from None
    return ReceiptRecord(receipt, {name: fields[name] for name in unknown_names(receipt, fields)})


def check_version(version: str) -> None:
    """Raise an error unless a version has a major version that this kvpool reads.

    Raises
    ------
    SchemaVersionError
    """
    if not _FORM.fullmatch(version):
        raise SchemaVersionError(
            f"invalid schema_version {version!r}; expected MAJOR.MINOR.PATCH, e.g. 1.0.0"
        )
    if version.partition(".")[0] not in _MAJORS:
        read = " and ".join(f"{major}.x.y" for major in _MAJORS)
        raise SchemaVersionError(
            f"schema_version {version} is of another major version: this kvpool reads {read}"
        )


def check_kind(receipt: Receipt) -> None:
    """Raise an error unless the version of a receipt, which is one that is read, has its kind.

    Raises
    ------
    SchemaVersionError
    """
    if receipt.schema_version.partition(".")[0] < receipt.since.partition(".")[0]:
        raise SchemaVersionError(
            f"schema_version {receipt.schema_version} has no {receipt.event}: that is of "
            f"{receipt.since}"
        )


def unknown_names(receipt: Receipt, fields: Mapping[str, Any]) -> list[str]:
    """Return the names among `fields` that this version of the schema does not have."""
    known = {*receipt.__struct_fields__, "event"}
    return [name for name in fields if name not in known]
