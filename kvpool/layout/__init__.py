"""Layouts: how the keys and values of one token, and of one entry, lie in memory."""

from __future__ import annotations

from kvpool import _exports
from kvpool.layout._layout import DTYPES, PACKINGS, EntryGeometry, KVLayout, Packing
from kvpool.layout._model_config import LayerKind, layer_kinds

__all__ = [
    "DTYPES",
    "PACKINGS",
    "EntryGeometry",
    "KVLayout",
    "LayerKind",
    "Packing",
    "layer_kinds",
]

_exports.publish(__name__)
