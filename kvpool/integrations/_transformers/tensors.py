"""Tensors over the bytes of an entry."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kvpool.errors import InvalidTokensError
from kvpool.layout import EntryGeometry, KVLayout
from kvpool.pool import Bytes

__all__ = ["EntryTensors", "as_tensor", "check_states", "dtype_name", "is_held_as"]


def dtype_name(dtype: Any) -> str:
    """Return how NumPy and kvpool call a dtype of torch."""
    return str(dtype).removeprefix("torch.")


def is_held_as(dtype: Any, held: np.dtype[Any]) -> bool:
    """Return whether states of a dtype of torch can be held in a layout of a dtype.

    They can if both are the same. Under autocast, states of two dtypes come out of one layer;
    they are cast to float32, which holds all of their values, or to the dtype of autocast, which
    attention would cast them to.
    """
    name, wanted = dtype_name(dtype), str(held)
    if name == wanted:
        return True
    if not torch.is_autocast_enabled("cpu"):
        return False
    autocast = dtype_name(torch.get_autocast_dtype("cpu"))
    return wanted in {"float32", autocast} and name in {"float32", autocast}


class EntryTensors:
    """The keys and values of an entry as tensors, for as long as it does not move.

    Parameters
    ----------
    root : ndarray of uint8
        The bytes of the entry; they are leased while this or one of its tensors lives.
    geometry : EntryGeometry
    rows : int
        Sequences in the batch; a divisor of the layout's heads.

    Attributes
    ----------
    root : ndarray of uint8
    geometry : EntryGeometry
    """

    __slots__ = ("_flat", "_heads", "_layers", "_steps", "_width", "geometry", "root")

    def __init__(self, root: Bytes, geometry: EntryGeometry, rows: int) -> None:
        layout = geometry.layout
        size = layout.dtype.itemsize
        heads = layout.kv_heads // rows
        strides = (heads * geometry.head_stride, geometry.head_stride, geometry.token_stride, size)
        self.root = root
        self.geometry = geometry
        self._heads = (rows, heads)
        self._width = layout.head_dim
        self._steps = tuple(stride // size for stride in strides)
        starts = range(0, geometry.value_offset, geometry.layer_stride)
        self._layers = [(at // size, (at + geometry.value_offset) // size) for at in starts]
        with torch.inference_mode(mode=False):  # else it could not be written to outside of it
            self._flat = torch.from_numpy(root).view(getattr(torch, str(layout.dtype)))

    def tokens(self, layer: int, first: int, count: int) -> tuple[Any, Any]:
        """Return the keys and values of some tokens of a layer; the bounds are not checked.

        Returns
        -------
        keys, values : Tensor, shape (rows, kv_heads, count, head_dim)
        """
        width, steps = self._width, self._steps
        shape = (*self._heads, count, width)
        keys_at, values_at = self._layers[layer]
        at = first * steps[2]
        # Of the ways to take a part of a tensor this is the fastest one: no checks in between.
        strided = self._flat.as_strided
        return strided(shape, steps, keys_at + at), strided(shape, steps, values_at + at)

    def all_layers(self, first: int, count: int) -> tuple[Any, Any]:
        """Return some tokens of all layers; the bounds are not checked.

        Returns
        -------
        keys, values : Tensor, shape (layers, rows, kv_heads, count, head_dim)
        """
        geometry = self.geometry
        size = geometry.layout.dtype.itemsize
        shape = (len(self._layers), *self._heads, count, self._width)
        steps = (geometry.layer_stride // size, *self._steps)
        at, to_values = first * self._steps[2], geometry.value_offset // size
        strided = self._flat.as_strided
        return strided(shape, steps, at), strided(shape, steps, at + to_values)


def as_tensor(view: NDArray[Any], rows: int) -> Any:
    """Return a view of an entry as a tensor, without a copy.

    Parameters
    ----------
    view : ndarray, shape (rows * kv_heads, tokens, head_dim)
    rows : int

    Returns
    -------
    Tensor, shape (rows, kv_heads, tokens, head_dim)
    """
    view.setflags(write=True)  # torch has no read-only tensors, and warns of such arrays
    # torch does not know the bfloat16 of NumPy, so it takes the bytes and names them.
    with torch.inference_mode(mode=False):
        tensor = torch.from_numpy(view.view(np.uint8)).view(getattr(torch, str(view.dtype)))
        return tensor.unflatten(0, (rows, -1))


def check_states(layout: KVLayout, rows: int, keys: Any, values: Any, session: str) -> None:
    """Refuse new keys and values that do not fit.

    Raises
    ------
    InvalidTokensError
        Shape, dtype or device are not those of the session; the text has both.
    """
    if not keys.numel():
        raise InvalidTokensError(f"session {session!r} gets no keys: shape {tuple(keys.shape)}")
    shape = (rows, layout.kv_heads // rows, keys.shape[-2], layout.head_dim)
    for what, states in (("keys", keys), ("values", values)):
        if states.shape[0] != rows and states.dim() == len(shape):
            raise InvalidTokensError(
                f"session {session!r} holds a batch of {rows}, {what} come for "
                f"{states.shape[0]}: call batch_repeat_interleave or batch_select_indices first"
            )
        if tuple(states.shape) != shape:
            raise InvalidTokensError(
                f"{what} for session {session!r} have the shape {tuple(states.shape)}, not {shape}"
            )
        if not is_held_as(states.dtype, layout.dtype):
            raise InvalidTokensError(
                f"{what} for session {session!r} are {dtype_name(states.dtype)}, "
                f"the layout is {layout.dtype}"
            )
        if not states.is_cpu:
            raise InvalidTokensError(
                f"{what} for session {session!r} are on {states.device}: a pool is in host memory"
            )
