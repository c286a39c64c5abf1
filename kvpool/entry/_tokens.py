"""Tokens by themselves: how many each layer holds, and the check of arrays of new ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvpool.errors import InvalidTokensError, LayerMismatchError
from kvpool.layout import KVLayout

__all__ = ["TokenCount", "as_token_arrays"]


class TokenCount:
    """The token counts of the layers of one entry.

    A *step* begins when a layer appends while all layers are equal. It ends when every layer
    has appended the same number of tokens. Not thread-safe.

    Parameters
    ----------
    layers : int

    Attributes
    ----------
    complete : int
        Tokens that every layer holds.
    lowest : float
        The fewest tokens that a truncation has left; infinite without one.
    """

    # Invariant: a layer in `_ahead` holds complete + _step tokens, every other one `complete`.
    # It holds after an interrupt, too: nothing can interrupt between two stores of one statement.
    __slots__ = ("_ahead", "_layers", "_step", "complete", "lowest")

    def __init__(self, layers: int) -> None:
        self.complete = 0
        self.lowest = math.inf
        self._layers = layers
        self._step = 0
        self._ahead: set[int] = set()

    @property
    def longest(self) -> int:
        """Tokens of the layer that holds the most."""
        return self.complete + self._step if self._ahead else self.complete

    def of(self, layer: int) -> int:
        """Return the tokens that a layer holds."""
        return self.complete + self._step if layer in self._ahead else self.complete

    def check_append(self, layer: int, count: int, session_id: str) -> int:
        """Return the position at which a layer may append `count` tokens.

        Raises
        ------
        LayerMismatchError
            The layer has appended in this step already, or another number of tokens than the
            layers before it in this step.
        """
        if not self._ahead:
            return self.complete
        if layer in self._ahead:
            behind = [other for other in range(self._layers) if other not in self._ahead]
            raise LayerMismatchError(
                f"layer {layer} of session {session_id!r} already holds {self.of(layer)} tokens, "
                f"layer {behind[0]} still {self.complete}: each layer appends once per step"
            )
        if count != self._step:
            raise LayerMismatchError(
                f"layer {layer} of session {session_id!r} appends {count} tokens, "
                f"layer {min(self._ahead)} appended {self._step} in the same step"
            )
        return self.complete

    def append(self, layer: int, count: int) -> int:
        """Count what `check_append` allowed; return the tokens that the layer now holds."""
        held = self.complete + count
        if len(self._ahead) + 1 < self._layers:
            self._step = count
            self._ahead.add(layer)
        else:
            self.complete, self._ahead = held, set()
        return held

    def check_extend(self, session_id: str) -> int:
        """Return the position at which all layers may append at once.

        Raises
        ------
        LayerMismatchError
            Some layers hold more tokens than the others.
        """
        if self._ahead:
            ahead = min(self._ahead)
            raise LayerMismatchError(
                f"layer {ahead} of session {session_id!r} holds {self.of(ahead)} tokens, "
                f"others {self.complete}: they must be equal before all are extended"
            )
        return self.complete

    def extend(self, count: int) -> int:
        """Count what `check_extend` allowed; return the tokens that every layer now holds."""
        self.complete += count
        return self.complete

    def truncate(self, count: int) -> None:
        """Let every layer hold `count` tokens, which is at most `complete`."""
        self.lowest = min(self.lowest, count)  # first: after an interrupt it may be too low
        self.complete, self._ahead = count, set()


def as_token_arrays(
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
        The shape or dtype of an array does not fit the layout, an array has no tokens, or
        there are not as many keys as values.
    """
    try:
        new_keys: NDArray[Any] = np.asarray(keys)
        new_values: NDArray[Any] = np.asarray(values)
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidTokensError(
            f"keys or values for session {session_id!r} are not an array: {error}"
        ) from None
    shape = new_keys.shape
    # An append costs a few microseconds, so valid arrays pass with one condition.
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
