"""Sizes in bytes as people write them."""

from __future__ import annotations

import re

__all__ = ["parse_size"]

_UNITS: dict[str, int] = {
    "": 1,
    "b": 1,
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
}


def parse_size(text: str, error: type[Exception]) -> int:
    """Return the number of bytes in a text like ``512MiB``, ``1.5 GiB`` or ``65536``.

    Parameters
    ----------
    text : str
    error : type of Exception
        Raised if the text is not a number with a known unit, or not a whole number of bytes.
    """
    match = re.fullmatch(r"\s*(\d+)(?:\.(\d+))?\s*([a-z]*)\s*", str(text), re.ASCII | re.IGNORECASE)
    factor = _UNITS.get(match[3].lower()) if match else None
    if match is None or factor is None:
        raise error(f"invalid size {text!r}; expected e.g. 512MiB, 1.5GB or 65536")
    decimals = match[2] or ""
    scaled = int(match[1] + decimals) * factor  # integers, because a float would round
    nbytes, rest = divmod(scaled, int("1" + "0" * len(decimals)))
    if rest:
        raise error(f"invalid size {text!r}: not a whole number of bytes")
    return nbytes
