"""Token ids as bytes, so that comparing them is comparing memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvpool.errors import InvalidTokensError

__all__ = ["TOKEN_BYTES", "TokenIds", "common_bytes", "token_bytes"]

TOKEN_BYTES: Final = 8
"""Bytes of one token id: a signed 64-bit integer, in the order of the machine."""

TokenIds: TypeAlias = Sequence[int] | NDArray[np.integer[Any]]
"""Token ids: a list, an array of whole numbers of one dimension, or a tensor on the CPU."""

_INT64: Final = np.dtype(np.int64)


def token_bytes(tokens: Any) -> bytes:
    """Return token ids as bytes, `TOKEN_BYTES` for each.

    Parameters
    ----------
    tokens : sequence of int, or array or CPU tensor of whole numbers, shape (n,)

    Raises
    ------
    InvalidTokensError
        They are not whole numbers of 64 bits in one dimension. The text has the first one that
        is not.
    """
    if tokens.__class__ is np.ndarray and tokens.dtype is _INT64 and tokens.ndim == 1:
        data: bytes = tokens.tobytes()  # as when it has to be fast
        return data
    try:
        array = np.asarray(tokens)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InvalidTokensError(f"token ids must be whole numbers: {error}") from None
    if array.size == 0 and array.ndim == 1:
        return b""
    if array.ndim == 0:
        raise InvalidTokensError(f"token ids must be a sequence of whole numbers, not {tokens!r}")
    if array.ndim != 1:
        raise InvalidTokensError(
            f"token ids must have one dimension, not the shape {array.shape}: "
            "pass the ids of one sequence"
        )
    if array.dtype.kind not in "iu":
        raise InvalidTokensError(f"token ids must be whole numbers, not {_first_odd(tokens)!r}")
    if array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise InvalidTokensError(f"token ids must fit 64 bits with a sign, unlike {array.max()}")
    return array.astype(_INT64, copy=False).tobytes()


def _first_odd(tokens: Any) -> object:
    """Return the first of some token ids that is not a whole number."""
    for token in tokens:
        if isinstance(token, bool) or not isinstance(token, int):
            return token
    return max(tokens, key=abs)  # all are, but one is too large for an array


def common_bytes(one: bytes, other: bytes, start: int) -> int:
    """Return how many bytes of `one` are those of `other` from `start` on: whole tokens.

    A binary search over comparisons of memory: O(n) bytes are compared, in O(log n) calls.
    """
    low, high = 0, min(len(one), len(other) - start)
    if other.startswith(one[:high], start):
        return high
    while high - low > TOKEN_BYTES:  # equal up to `low`, not up to `high`
        middle = (low + high) // (2 * TOKEN_BYTES) * TOKEN_BYTES
        if other.startswith(one[low:middle], start + low):
            low = middle
        else:
            high = middle
    return low
