"""The arguments of a `PooledCache`, in the form that it works with."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from kvpool.errors import InvalidLayoutError, InvalidTokensError
from kvpool.integrations._transformers.measuring import measure
from kvpool.layout import KVLayout, LayerKind, layer_kinds
from kvpool.manager import KVCacheManager

__all__ = ["CacheParts", "cache_parts", "whole_number"]


class CacheParts(NamedTuple):
    """What a `PooledCache` is made of.

    Parameters
    ----------
    layout : KVLayout
        Of one sequence.
    kinds : sequence of LayerKind
        What each layer of the model keeps.
    weights : int or None
        Tells models with other weights apart; None if the model is not known.
    """

    layout: KVLayout
    kinds: Sequence[LayerKind]
    weights: int | None


def cache_parts(manager: KVCacheManager, model: Any, config: Any, dtype: Any) -> CacheParts:
    """Return what a cache is made of, from a model, its configuration or the manager.

    Raises
    ------
    InvalidLayoutError
        Neither the model, its configuration nor the manager has a layout, or their layouts
        differ, or the model cannot have one.
    """
    own = manager.layout
    if model is None and config is None:
        if own is None:
            raise InvalidLayoutError(
                "no layout: give the cache a model or a config, or the manager a layout"
            )
        return CacheParts(own, [LayerKind(is_cached=True)] * own.layers, None)
    if dtype is None and own is not None:
        dtype = own.dtype
    if model is not None:
        measured = measure(model)
        layout, kinds = measured.layout(dtype), measured.kinds
        weights = measured.weights
    else:
        layout, kinds = KVLayout.from_config(config, dtype), tuple(layer_kinds(config))
        weights = None
    if own is not None:  # the manager says how tokens are packed
        parts = layout.layers, layout.kv_heads, layout.head_dim, layout.dtype
        layout = KVLayout(*parts, packing=own.packing)
    if own is not None and own != layout:
        raise InvalidLayoutError(f"the model has the layout {layout}, the manager has {own}")
    return CacheParts(layout, kinds, weights)


def whole_number(name: str, value: Any) -> int:
    """Return an argument as an int.

    Raises
    ------
    InvalidTokensError
        It is not a whole number.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidTokensError(f"{name} must be a whole number, not {value!r}") from None
