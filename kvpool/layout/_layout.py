"""`KVLayout`: the geometry of the keys and values of a model, in tokens and in bytes.

An entry holds ``[keys | values]``, each as layer x head x token x dim: *head-major*. The
tokens of one head lie next to each other, so attention reads one contiguous stripe per head, and
a new token is appended in place, without moving those before it.

If memory comes in pages, the last page of each stripe is partly empty. A model with small or few
heads can pack tokens more densely: then a stripe holds all heads of a layer, or whole tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvpool._checks import align_up, check_alignment, whole_number
from kvpool.arena import MIN_ALIGNMENT
from kvpool.errors import InvalidLayoutError
from kvpool.layout._model_config import cache_shape
from kvpool.pool import Bytes

__all__ = ["DTYPES", "PACKINGS", "EntryGeometry", "KVLayout", "Packing"]

Packing = Literal["head", "layer", "token"]

PACKINGS: tuple[Packing, ...] = ("head", "layer", "token")
"""What a stripe, which is a range of consecutive tokens, holds of each token: the key or value of
one head, the keys or values of all heads of one layer, or everything."""

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
    packing : {"head", "layer", "token"}
        What lies next to each other. "head": the tokens of one head, so that attention reads
        one contiguous range per head. "layer": all heads of a layer, with fewer partly empty
        pages. "token": everything of one token, with the fewest. Views are zero-copy and have
        the same shape in each.

    Raises
    ------
    InvalidLayoutError
        A dimension is not a whole number of at least 1, or the dtype or the packing is not
        supported.

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
    packing: Packing

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        dtype: DTypeLike = "float16",
        packing: Packing = "head",
    ) -> None:
        object.__setattr__(self, "layers", _dimension("layers", layers))
        object.__setattr__(self, "kv_heads", _dimension("kv_heads", kv_heads))
        object.__setattr__(self, "head_dim", _dimension("head_dim", head_dim))
        object.__setattr__(self, "dtype", _element_type(dtype))
        if str(packing) not in PACKINGS:
            raise InvalidLayoutError(f"unsupported packing {packing!r}; use {_either(PACKINGS)}")
        object.__setattr__(self, "packing", packing)

    @classmethod
    def from_config(cls, config: Any, dtype: Any = None) -> Self:
        """Return the layout of a model's cache, from its configuration.

        Parameters
        ----------
        config : object
            With the attributes of a ``PreTrainedConfig`` of Hugging Face transformers:
            ``num_hidden_layers``, ``num_attention_heads``, ``num_key_value_heads``,
            ``head_dim`` or ``hidden_size``, ``layer_types``. If the model has several parts,
            they are those of ``text_config``.
        dtype : dtype, str or torch.dtype, optional
            By default the configuration's own.

        Raises
        ------
        InvalidLayoutError
            An attribute is missing, or a layer is of a type that keeps other things than the
            keys and values of each token; the text names the attribute or the layer.

        Examples
        --------
        >>> from types import SimpleNamespace
        >>> config = SimpleNamespace(
        ...     num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, head_dim=128
        ... )
        >>> print(KVLayout.from_config(config, dtype="bfloat16"))
        32 x 8 x 128 bfloat16
        """
        return cls(*cache_shape(config, dtype))

    @property
    def bytes_per_token(self) -> int:
        """Bytes of the keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize

    def geometry(self, max_context_length: int, alignment: int = MIN_ALIGNMENT) -> EntryGeometry:
        """Return where everything lies in an entry for `max_context_length` tokens.

        Parameters
        ----------
        max_context_length : int
            Tokens that the entry has room for.
        alignment : int, default 64
            Bytes, a power of two: every stripe starts at a multiple of it.

        Raises
        ------
        InvalidLayoutError
            `max_context_length` is not a whole number of at least 1.
        InvalidAlignmentError
            `alignment` is not a power of two.
        """
        # Sessions of one model ask for the same few lengths. What is not an int is not a key of
        # the cache: it may not be hashable, or be equal to an int, as 8.0 is.
        if max_context_length.__class__ is int and alignment.__class__ is int:
            return _geometry(self, max_context_length, alignment)
        return _geometry.__wrapped__(self, max_context_length, alignment)

    def __str__(self) -> str:
        packing = "" if self.packing == "head" else f" by {self.packing}"
        return f"{self.layers} x {self.kv_heads} x {self.head_dim} {self.dtype}{packing}"


class EntryGeometry:
    """Byte offsets and strides inside an entry; from `KVLayout.geometry`.

    Parameters
    ----------
    layout : KVLayout
    max_context_length : int
        Tokens that each stripe has room for.
    alignment : int, default 64
        Bytes: each stripe starts at a multiple of it.

    Raises
    ------
    InvalidLayoutError
        `layout` is not a `KVLayout`, or `max_context_length` not a whole number of at least 1.
    InvalidAlignmentError
        `alignment` is not a power of two.

    Attributes
    ----------
    token_stride, head_stride, layer_stride : int
        Bytes from one token, head or layer to the next.
    value_offset : int
        Bytes from a key to the value of the same token; keys start at 0.
    nbytes : int
        Bytes of the whole entry.
    groups, stripes_per_group : int
        The stripes of one group fill together: those of a layer, or the only one of the entry.
    """

    __slots__ = (
        "_strides",
        "groups",
        "head_stride",
        "layer_stride",
        "layout",
        "max_context_length",
        "nbytes",
        "stripes_per_group",
        "token_stride",
        "value_offset",
    )

    def __init__(
        self, layout: KVLayout, max_context_length: int, alignment: int = MIN_ALIGNMENT
    ) -> None:
        if not isinstance(layout, KVLayout):
            raise InvalidLayoutError(f"layout must be a KVLayout, not {layout!r}")
        max_context_length = _dimension("max_context_length", max_context_length)
        alignment = check_alignment(alignment)
        self.layout = layout
        self.max_context_length = max_context_length
        row = layout.head_dim * layout.dtype.itemsize  # one head's key, or value, of one token
        heads, layers = layout.kv_heads, layout.layers
        self.groups = 1 if layout.packing == "token" else layers
        stripes = {"head": 2 * layers * heads, "layer": 2 * layers, "token": 1}[layout.packing]
        self.stripes_per_group = stripes // self.groups
        self.token_stride = layout.bytes_per_token // stripes
        stripe = align_up(max_context_length * self.token_stride, alignment)
        self.nbytes = stripes * stripe
        if layout.packing == "head":
            self.head_stride, self.layer_stride, self.value_offset = (
                stripe,
                heads * stripe,
                stripes // 2 * stripe,
            )
        elif layout.packing == "layer":
            self.head_stride, self.layer_stride, self.value_offset = row, stripe, layers * stripe
        else:
            self.head_stride, self.layer_stride = row, heads * row
            self.value_offset = layers * heads * row
        self._strides = (self.head_stride, self.token_stride, layout.dtype.itemsize)

    def group(self, layer: int) -> int:
        """Return the group of the stripes that hold a layer."""
        return layer if self.groups > 1 else 0

    def bytes_in_pages(self, tokens: int, page_size: int) -> int:
        """Return the bytes of the pages that hold the first tokens, the last ones partly empty.

        Parameters
        ----------
        tokens : int
            Tokens that every layer holds.
        page_size : int
            Bytes; every stripe starts with a page.
        """
        pages = -(-tokens * self.token_stride // page_size)
        return self.groups * self.stripes_per_group * pages * page_size

    def stripe_offsets(self, group: int) -> list[int]:
        """Return where the stripes of a group start: bytes from the start of the entry."""
        if self.layout.packing == "token":
            return [0]
        heads = self.layout.kv_heads if self.layout.packing == "head" else 1
        return [
            region * self.value_offset + group * self.layer_stride + head * self.head_stride
            for region in range(2)
            for head in range(heads)
        ]

    def layer_view(self, root: Bytes, layer: int, start: int, count: int) -> NDArray[Any]:
        """Return tokens of one layer as an array over the bytes of an entry.

        Parameters
        ----------
        root : ndarray of uint8, shape (nbytes,)
        layer, start, count : int
            Must lie inside the entry; only the bounds of `root` are checked.

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
        """Return tokens of all layers as an array over the bytes of an entry.

        Parameters
        ----------
        root : ndarray of uint8, shape (nbytes,)
        start, count : int
            Must lie inside the entry; only the bounds of `root` are checked.

        Returns
        -------
        ndarray, shape (2, layers, kv_heads, count, head_dim)
            Keys and values.
        """
        layout = self.layout
        return np.ndarray(
            (2, layout.layers, layout.kv_heads, count, layout.head_dim),
            layout.dtype,
            root,
            start * self.token_stride,
            (self.value_offset, self.layer_stride, *self._strides),
        )


@functools.lru_cache(maxsize=256)
def _geometry(layout: KVLayout, max_context_length: int, alignment: int) -> EntryGeometry:
    return EntryGeometry(layout, max_context_length, alignment)


def _either(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


def _dimension(name: str, value: int) -> int:
    return whole_number(name, value, InvalidLayoutError, least=1)


def _element_type(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        element = DTYPES.get(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    except (TypeError, ValueError):
        element = None
    if element not in DTYPES.values() or element is None:
        raise InvalidLayoutError(f"unsupported dtype {dtype!r}; use {_either(DTYPES)}")
    return element
