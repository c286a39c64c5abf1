"""The form of a line: schema, version, canonical JSON, and the fault of a line that is broken."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import msgspec

from kvpool.ledger._lines import FORMAT, LedgerLine, ReceiptLine
from kvpool.receipts.canonical import UNREADABLE, canonical, is_canonical
from kvpool.receipts.codec import check_kind, check_version, unknown_names
from kvpool.receipts.errors import SchemaVersionError
from kvpool.receipts.types import SCHEMA_VERSION

__all__ = ["Problem", "form_problem", "what_is_wrong"]

# What msgspec says of a value that does not fit.
_AT = re.compile(r"(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?", re.DOTALL)
_NAMED = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)


class Problem(NamedTuple):
    """What is wrong with a line."""

    field: str
    expected: object
    found: object
    rule: str


def form_problem(line: LedgerLine, raw: bytes) -> Problem | None:
    """Return what is wrong with the form of a line that could be read, or None."""
    try:
        if isinstance(line, ReceiptLine):
            receipt = line.receipt
            if receipt.schema_version != receipt.since:
                check_version(receipt.schema_version)
                check_kind(receipt)
            encoded = canonical(line, receipt.measures)
        else:
            encoded = canonical(line)
    except SchemaVersionError as error:
        return Problem("receipt.schema_version", SCHEMA_VERSION, receipt.schema_version, f"{error}")
    except ValueError:
        encoded = b""
    if encoded == raw:
        return None
    if not is_canonical(raw):
        return Problem("line", "canonical JSON", raw[:80], "RFC 8785")
    # Canonical, and not what the types make of it: there are fields that they do not have.
    return _unknown_fields(line, raw)


def what_is_wrong(raw: bytes, error: Exception) -> Problem:
    """Return what is wrong with a line that could not be read.

    Parameters
    ----------
    raw : bytes
    error : Exception
        What was raised.
    """
    try:
        fields = msgspec.json.decode(raw)
    except UNREADABLE as malformed:
        return Problem("line", "JSON", raw[:80], f"{malformed}")
    if isinstance(fields, dict):
        receipt = fields.get("receipt")
        version = receipt.get("schema_version") if isinstance(receipt, dict) else None
        problem = _version_problem(version) if isinstance(version, str) else None
        if problem:
            return problem
        if fields.get("kind") == "header" and fields.get("format") != FORMAT:
            return Problem("format", FORMAT, fields.get("format"), "what this kvpool reads")
    return _schema_problem(fields, raw, f"{error}")


def _schema_problem(fields: Any, raw: bytes, text: str) -> Problem:
    """Take the text of a validation error apart."""
    match = _AT.fullmatch(text)
    what, path = (match[1], match[2] or "") if match else (text, "")
    if named := _NAMED.fullmatch(what):
        path = f"{path}.{named[2]}".lstrip(".")
        expected = "this field" if named[1] == "missing required" else "no such field"
    elif what.startswith("Invalid"):
        expected = "a value that is known"
    else:
        expected = what.removeprefix("Expected ").partition(", got")[0]
    found = _at(fields, path) if path else raw[:80]
    return Problem(path or "line", expected, found, "the schema of a line")


def _version_problem(version: str) -> Problem | None:
    try:
        check_version(version)
    except SchemaVersionError as error:
        return Problem("receipt.schema_version", SCHEMA_VERSION, version, f"{error}")
    return None


def _unknown_fields(line: LedgerLine, raw: bytes) -> Problem | None:
    """Return a field that the version of the line does not have, as a problem; None if none."""
    if isinstance(line, ReceiptLine):
        names = unknown_names(line.receipt, msgspec.json.decode(raw)["receipt"])
        if _minor(line.receipt.schema_version) <= _NEWEST_MINOR and names:
            version = line.receipt.schema_version
            return Problem(f"receipt.{names[0]}", "no such field", "one", f"schema {version}")
    return None


_NEWEST_MINOR: Final = 0
"""Of every major version that is read."""


def _minor(version: str) -> int:
    return int(version.split(".")[1])


def _at(fields: Any, path: str) -> Any:
    """Return the value at a path such as ``receipt.sequence``."""
    found = fields
    for name in path.split("."):
        if not isinstance(found, dict):
            return found
        found = found.get(name, "nothing")
    return found
