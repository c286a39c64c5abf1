"""Checks of sizes, counts, numbers and flags, and rounding to powers of two."""

from __future__ import annotations

import contextlib
import math
import operator
from numbers import Real
from typing import Any

import numpy as np

from kvpool.errors import InvalidAlignmentError, InvalidArgumentError, InvalidSizeError

__all__ = [
    "align_up",
    "byte_count",
    "check_alignment",
    "check_callable",
    "check_flag",
    "check_number",
    "whole_number",
]


def whole_number(
    name: str,
    value: Any,
    error: type[Exception],
    *,
    least: int | None = None,
    most: int | None = None,
) -> int:
    """Return `value` as an `int`; a NumPy integer is a whole number, a bool or float is not.

    Parameters
    ----------
    name : str
        What the value is, for the text of the error.
    value : object
    error : type of Exception
        Raised unless the value is a whole number between `least` and `most`.
    least, most : int, optional
        Both are allowed values. None: no limit.

    Returns
    -------
    int
    """
    if value.__class__ is int:  # as nearly always
        number: int = value
    else:
        try:
            if isinstance(value, (bool, np.bool)):  # both count as an index, NumPy's until 2.2
                raise TypeError
            number = operator.index(value)
        except TypeError:
            raise error(f"{name} must be a whole number, not {value!r}") from None
    if least is not None and number < least:
        raise error(f"{name} must be at least {least}, not {number}")
    if most is not None and number > most:
        raise error(f"{name} must be at most {most}, not {number}")
    return number


def byte_count(name: str, value: Any, *, least: int | None = None, most: int | None = None) -> int:
    """Return a number of bytes as an `int`; raise InvalidSizeError as `whole_number` does."""
    if value.__class__ is int and most is None and (least is None or value >= least):
        number: int = value  # as nearly always
        return number
    return whole_number(name, value, InvalidSizeError, least=least, most=most)


def check_alignment(alignment: int) -> int:
    """Return `alignment` as an `int` if it is a power of two.

    Raises
    ------
    InvalidAlignmentError
        `alignment` is not a power of two.
    """
    number = whole_number("alignment", alignment, InvalidAlignmentError)
    if number < 1 or number & (number - 1):
        raise InvalidAlignmentError(f"alignment {alignment} is not a power of two")
    return number


def check_number(
    name: str,
    value: Any,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
) -> None:
    """Raise InvalidArgumentError unless a value is None, or a finite number in a range."""
    if value is None:
        return
    number = math.nan
    if not isinstance(value, bool) and isinstance(value, Real):
        with contextlib.suppress(OverflowError):  # an int that no float can hold
            number = float(value)
    if not math.isfinite(number):
        raise InvalidArgumentError(f"{name} must be a finite number, not {value!r}")
    if number < at_least:
        raise InvalidArgumentError(f"{name} must be at least {at_least}, not {value}")
    if number <= above:
        raise InvalidArgumentError(f"{name} must be above {above}, not {value}")
    if number > at_most:
        raise InvalidArgumentError(f"{name} must be at most {at_most}, not {value}")


def check_callable(name: str, value: Any) -> None:
    """Raise an error unless a value can be called.

    Raises
    ------
    InvalidArgumentError
    """
    if not callable(value):
        raise InvalidArgumentError(f"{name} must be a callable, not {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Raise InvalidArgumentError unless a value is True or False; a bool of NumPy is one."""
    if not isinstance(value, bool | np.bool_):
        raise InvalidArgumentError(f"{name} must be True or False, not {value!r}")


def align_up(offset: int, alignment: int) -> int:
    """Return the first multiple of `alignment`, a power of two, at or after `offset`."""
    return (offset + alignment - 1) & -alignment
