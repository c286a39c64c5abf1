"""`KVLayout`: the geometry of the keys and values of a model, in tokens and in bytes.

An entry holds ``[keys | values]``, each as layer x head x token x dim: *head-major*. The
tokens of one head lie next to each other, so attention reads one contiguous run per head, and
a new token is appended in place, without moving those before it.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvpool.alignment import align_up
from kvpool.arena import MIN_ALIGNMENT
from kvpool.block import Bytes
from kvpool.errors import InvalidLayoutError

__all__ = ["DTYPES", "EntryGeometry", "KVLayout"]

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
}
"""The element types that a cache may have, by name."""


@dataclass(frozen=True, slots=True, init=False)
class KVLayout:
    """What one token of a model's KV cache is made of.

    Parameters
    ----------
    layers : int
        Layers that have a cache.
    kv_heads : int
        Key-value heads per layer (fewer than query heads under grouped-query attention).
    head_dim : int
        Elements of one head.
    dtype : dtype or str
        ``float32``, ``float16``, ``bfloat16`` or ``int8``.

    Raises
    ------
    InvalidLayoutError
        A dimension is no whole number of at least 1, or the dtype is another.

    Examples
    --------
    >>> layout = KVLayout(layers=32, kv_heads=8, head_dim=128, dtype="bfloat16")
    >>> layout.bytes_per_token
    131072
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: np.dtype[Any]

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, dtype: DTypeLike = "float16"
    ) -> None:
        object.__setattr__(self, "layers", _dimension("layers", layers))
        object.__setattr__(self, "kv_heads", _dimension("kv_heads", kv_heads))
        object.__setattr__(self, "head_dim", _dimension("head_dim", head_dim))
        object.__setattr__(self, "dtype", _element_type(dtype))

    @property
    def bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize

    def geometry(self, max_context_length: int) -> EntryGeometry:
        """Return where everything lies in an entry for that many tokens.

        Raises
        ------
        InvalidLayoutError
            `max_context_length` is no whole number of at least 1.
        """
        return EntryGeometry(self, _dimension("max_context_length", max_context_length))

    def __str__(self) -> str:
        return f"{self.layers} x {self.kv_heads} x {self.head_dim} {self.dtype}"


class EntryGeometry:
    """Byte offsets and strides inside an entry.

    Parameters
    ----------
    layout : KVLayout
    max_context_length : int
        Tokens that each head's run has room for.

    Attributes
    ----------
    token_stride, head_stride, layer_stride : int
        Bytes from one token, head or layer to the next. Each head's run starts at a
        multiple of 64 bytes.
    value_offset : int
        Bytes from a key to the value of the same token; keys start at 0.
    nbytes : int
        Bytes of the whole entry.
    """

    __slots__ = (
        "_strides",
        "head_stride",
        "layer_stride",
        "layout",
        "max_context_length",
        "nbytes",
        "token_stride",
        "value_offset",
    )

    def __init__(self, layout: KVLayout, max_context_length: int) -> None:
        self.layout = layout
        self.max_context_length = max_context_length
        self.token_stride = layout.head_dim * layout.dtype.itemsize
        self.head_stride = align_up(max_context_length * self.token_stride, MIN_ALIGNMENT)
        self.layer_stride = layout.kv_heads * self.head_stride
        self.value_offset = layout.layers * self.layer_stride
        self.nbytes = 2 * self.value_offset
        self._strides = (self.head_stride, self.token_stride, layout.dtype.itemsize)

    def layer_view(self, root: Bytes, layer: int, start: int, count: int) -> NDArray[Any]:
        """Return tokens of one layer as an array over the bytes of an entry.

        Parameters
        ----------
        root : ndarray of uint8, shape (nbytes,)
        layer, start, count : int
            Not checked beyond the bounds of `root`.

        Returns
        -------
        ndarray, shape (2, kv_heads, count, head_dim)
            Keys and values.
        """
        layout = self.layout
        return np.ndarray(
            (2, layout.kv_heads, count, layout.head_dim),
            layout.dtype,
            root,
            layer * self.layer_stride + start * self.token_stride,
            (self.value_offset, *self._strides),
        )

    def full_view(self, root: Bytes, start: int, count: int) -> NDArray[Any]:
        """Return tokens of all layers: shape (2, layers, kv_heads, count, head_dim)."""
        layout = self.layout
        return np.ndarray(
            (2, layout.layers, layout.kv_heads, count, layout.head_dim),
            layout.dtype,
            root,
            start * self.token_stride,
            (self.value_offset, self.layer_stride, *self._strides),
        )


def _dimension(name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidLayoutError(f"{name} must be a whole number, not {value!r}") from None
    if number < 1:
        raise InvalidLayoutError(f"{name} must be at least 1, not {number}")
    return number


def _element_type(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        element = DTYPES.get(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    except TypeError:
        element = None
    if element not in DTYPES.values() or element is None:
        raise InvalidLayoutError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    return element
