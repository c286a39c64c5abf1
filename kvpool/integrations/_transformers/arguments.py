"""What callers of a `PooledCache` hand in, in the form that it works with."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

from kvpool.errors import InvalidLayoutError
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager

__all__ = ["layout_of", "token_list"]


def layout_of(manager: KVCacheManager, config: Any, dtype: Any) -> KVLayout:
    """Return the layout of one sequence, of a manager, a model's configuration, or both.

    Raises
    ------
    InvalidLayoutError
        Neither has one, they differ, or the model cannot have one.
    """
    if config is None:
        if manager.layout is None:
            raise InvalidLayoutError("no layout: give the manager one, or the cache a config")
        return manager.layout
    if dtype is None and manager.layout is not None:
        dtype = manager.layout.dtype
    layout = KVLayout.from_config(config, dtype)
    if manager.layout is not None:  # how tokens are packed is for the manager to say
        parts = layout.layers, layout.kv_heads, layout.head_dim, layout.dtype
        layout = KVLayout(*parts, packing=manager.layout.packing)
    if manager.layout is not None and manager.layout != layout:
        raise InvalidLayoutError(f"the model has {layout}, the manager {manager.layout}")
    return layout


def token_list(input_ids: Any) -> Sequence[int]:
    """Return token ids as numbers, of a tensor of one sequence or of a sequence."""
    if not isinstance(input_ids, torch.Tensor):
        return [operator.index(token) for token in input_ids]
    flat: list[int] = input_ids.reshape(-1).tolist()
    return flat
