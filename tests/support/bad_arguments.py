"""Arguments that a call refuses, and a check that the call does that and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from kvpool.errors import KVPoolError
from kvpool.pool import MemoryBlock, MemoryPool

__all__ = [
    "BELOW_ZERO",
    "NOT_WHOLE",
    "TOO_MUCH",
    "WRONG_OBJECTS",
    "Values",
    "cases",
    "check_all_refused",
    "check_refused",
    "pool_state",
    "without",
]

Values = tuple[Any, ...]

WRONG_OBJECTS: tuple[Any, ...] = (
    None,
    "x",
    "",
    b"x",
    1.5,
    float("nan"),
    float("inf"),
    -1,
    7,
    10**30,
    True,
    np.True_,
    np.float32(2),
    np.int64(2),
    np.array([1, 2]),
    [],
    {},
    (1, 2),
    ...,
    slice(None),
    1j,
    type,
)
"""Wherever kvpool wants an object of its own, these are none."""

NOT_WHOLE = tuple(
    value
    for value in WRONG_OBJECTS
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer)
)
"""What is not a whole number."""

BELOW_ZERO = (-1, np.int64(-1), -(10**30))
TOO_MUCH = (10**30,)


def without(values: tuple[Any, ...], *accepted: Any) -> tuple[Any, ...]:
    """Return the values but those that a call accepts, which are of the same type and equal."""
    shown = {(type(value), repr(value)) for value in accepted}
    return tuple(value for value in values if (type(value), repr(value)) not in shown)


def cases(table: Mapping[str, tuple[Callable[..., object], tuple[Any, ...]]]) -> list[Any]:
    """Return a parameter set for each call of a table: the call, and all of its bad values."""
    return [pytest.param(act, values, id=name) for name, (act, values) in table.items()]


def check_all_refused(
    act: Callable[[Any], object], values: tuple[Any, ...], state: Callable[[], object]
) -> None:
    """Prove what `check_refused` does for each of several bad values, one after the other."""
    for value in values:
        try:
            check_refused(act, value, state)
        except BaseException as error:
            error.add_note(f"with the value {value!r}")
            raise


def check_refused(act: Callable[[Any], object], value: Any, state: Callable[[], object]) -> None:
    """Prove that a call with a bad value raises an error of kvpool that names the value.

    Parameters
    ----------
    act : callable
        Makes the call, with the value.
    value : object
        The bad value.
    state : callable
        Returns what must be the same before and after.
    """
    before = state()
    with pytest.raises(KVPoolError) as caught:
        act(value)
    text = str(caught.value)
    assert isinstance(value, MemoryBlock) or repr(value) in text or str(value) in text, text
    assert state() == before


def pool_state(pool: MemoryPool) -> object:
    """Return all figures of a pool, after a check that they agree."""
    pool.check_integrity()
    return pool.stats(), pool.usage(), pool.ranges()
