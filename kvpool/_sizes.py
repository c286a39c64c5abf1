"""Sizes in bytes as people write them."""

from __future__ import annotations

import re
from typing import Any

from kvpool._checks import byte_count
from kvpool.errors import InvalidSizeError

__all__ = ["as_capacity", "format_size", "parse_size"]

_UNITS: dict[str, int] = {
    "": 1,
    "b": 1,
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
}

_SIZE = re.compile(
    r"\s*(\d{1,40})(?:\.(\d{1,40}))?\s*([a-z]*)\s*",  # of too many digits Python makes no number
    re.ASCII | re.IGNORECASE,
)


def parse_size(text: str, error: type[Exception]) -> int:
    """Return the number of bytes in a text like ``512MiB``, ``1.5 GiB`` or ``65536``.

    Parameters
    ----------
    text : str
    error : type of Exception
        Raised if the text is not a number with a known unit, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(str(text))
    factor = _UNITS.get(match[3].lower()) if match else None
    if match is None or factor is None:
        raise error(f"invalid size {text!r}; expected e.g. 512MiB, 1.5GB or 65536")
    decimals = match[2] or ""
    scaled = int(match[1] + decimals) * factor  # integers, because a float would round
    nbytes, rest = divmod(scaled, int("1" + "0" * len(decimals)))
    if rest:
        raise error(f"invalid size {text!r}: not a whole number of bytes")
    return nbytes


def as_capacity(name: str, value: Any) -> int:
    """Return a size as a number of bytes: a whole number, or a text like ``"4GiB"``.

    Raises
    ------
    InvalidSizeError
        It is neither.
    """
    if not isinstance(value, str):
        return byte_count(name, value)
    try:
        return parse_size(value, InvalidSizeError)
    except InvalidSizeError as error:
        raise InvalidSizeError(f"{name}: {error}") from None


def format_size(nbytes: float) -> str:
    """Return a number of bytes with a binary unit, with at most four digits before the point.

    Examples
    --------
    >>> format_size(536870912), format_size(1000)
    ('512.0 MiB', '1000 B')
    """
    if nbytes < 1024:
        return f"{nbytes:.0f} B"
    size = float(nbytes)
    for prefix in "KMGT":
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {prefix}iB"
    return f"{size / 1024:.1f} PiB"
