"""Canonical JSON (RFC 8785): one value, one sequence of bytes, so that a hash names it.

The library `rfc8785` is the authority and takes some 40 µs for a receipt. `msgspec` with
sorted keys writes the same bytes in 1 µs, except for some numbers; those are left to the
library. The tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import rfc8785

from kvpool.receipts.errors import InvalidReceiptError

__all__ = ["UNREADABLE", "canonical", "is_canonical"]

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What reading JSON raises: malformed, of another type, no Unicode, nested too deep."""

_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def canonical(value: object, measures: Iterable[float] = ()) -> bytes:
    """Return the canonical JSON of a value.

    Parameters
    ----------
    value : object
        What msgspec can write; member names are ASCII.
    measures : iterable of float
        The numbers in `value` that need not be of type int.

    Raises
    ------
    InvalidReceiptError
        A text is not Unicode, or a number has no exact place in JSON.
    """
    for number in measures:
        # msgspec writes a fraction of zero (1.0), and differs from RFC 8785 in where
        # scientific notation begins (0.000001 and 1e-6, 1e16 and 10000000000000000).
        if not isinstance(number, int) and not (
            number % 1 and (1e-5 <= number < 1e15 or 0 < number < 1e-6)
        ):
            return _by_library(msgspec.to_builtins(value))
    try:
        return _encode_sorted(value)
    except UnicodeEncodeError as error:
        raise InvalidReceiptError(f"a text cannot be written as JSON: {error}") from None


def is_canonical(raw: bytes) -> bool:
    """Tell whether bytes are canonical JSON, whatever they say. Never raises."""
    try:
        return _by_library(msgspec.json.decode(raw)) == raw
    except UNREADABLE:
        return False


def _by_library(value: Any) -> bytes:
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise InvalidReceiptError(f"{error}") from None
