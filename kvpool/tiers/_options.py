"""What the options of tiers have in common: their values are texts of a URL."""

from __future__ import annotations

from typing import Final

from kvpool.errors import InvalidTierError

__all__ = ["flag_option", "positive_option"]

_FLAGS: Final = {"yes": True, "no": False}


def flag_option(name: str, text: str) -> bool:
    """Return the value of an option that is yes or no.

    Raises
    ------
    InvalidTierError
        It is neither.

    Examples
    --------
    >>> flag_option("readonly", "yes")
    True
    """
    if text not in _FLAGS:
        raise InvalidTierError(f"the option {name!r} must be 'yes' or 'no', not {text!r}")
    return _FLAGS[text]


def positive_option(name: str, text: str | None, default: float | None) -> float | None:
    """Return the value of an option that is a number above 0; the default if it is not given.

    Raises
    ------
    InvalidTierError
        It is not such a number.
    """
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InvalidTierError(f"the option {name!r} must be a number above 0, not {text!r}")
    return value
