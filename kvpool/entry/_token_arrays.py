"""Checks of the arrays of tokens that callers hand in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpool.errors import InvalidTokensError
from kvpool.layout import KVLayout

__all__ = ["checked_pair"]


def checked_pair(
    layout: KVLayout, lead: tuple[int, ...], keys: ArrayLike, values: ArrayLike, session_id: str
) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Return keys and values as arrays with a token axis, and the number of tokens.

    Parameters
    ----------
    layout : KVLayout
    lead : tuple of int
        The dimensions before the token axis.
    keys, values : array, shape ``(*lead, tokens, head_dim)``, or ``(*lead, head_dim)`` for one
    session_id : str
        Named in errors.

    Raises
    ------
    InvalidTokensError
        Shape or dtype do not fit the layout, there are no tokens, or not equally many.
    """
    new_keys: NDArray[Any] = np.asarray(keys)
    new_values: NDArray[Any] = np.asarray(values)
    shape = new_keys.shape
    # An append costs a few microseconds, so what is right passes in one look.
    if (
        shape[:-2] == lead
        and shape[-1] == layout.head_dim
        and shape[-2]
        and shape == new_values.shape
        and new_keys.dtype == layout.dtype == new_values.dtype
    ):
        return new_keys, new_values, shape[-2]
    new_keys = _checked(layout, lead, "keys", new_keys, session_id)
    new_values = _checked(layout, lead, "values", new_values, session_id)
    if new_keys.shape != new_values.shape:
        raise InvalidTokensError(
            f"session {session_id!r} gets {new_keys.shape[-2]} keys "
            f"and {new_values.shape[-2]} values: their numbers must be equal"
        )
    return new_keys, new_values, int(new_keys.shape[-2])


def _checked(
    layout: KVLayout, lead: tuple[int, ...], what: str, array: NDArray[Any], session_id: str
) -> NDArray[Any]:
    if array.dtype != layout.dtype:
        raise InvalidTokensError(
            f"{what} for session {session_id!r} are {array.dtype}, "
            f"the layout is {layout.dtype}: cast them first"
        )
    if array.shape == (*lead, layout.head_dim):
        array = array[..., None, :]
    shape = array.shape
    if len(shape) != len(lead) + 2 or shape[:-2] != lead or shape[-1] != layout.head_dim:
        wanted = ", ".join([*map(str, lead), "tokens", str(layout.head_dim)])
        raise InvalidTokensError(
            f"{what} for session {session_id!r} have shape {shape}, not ({wanted})"
        )
    if not shape[-2]:
        raise InvalidTokensError(f"{what} for session {session_id!r} have no tokens")
    return array
