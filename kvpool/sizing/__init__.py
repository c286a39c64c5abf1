"""Sizing: how big a pool a trace needs, from the prefixes that its prompts share."""

from __future__ import annotations

from kvpool import _exports
from kvpool.sizing._ages import AGE_EDGES, Ages, block_lifetimes, reuse_ages
from kvpool.sizing._clairvoyant import clairvoyant_curve
from kvpool.sizing._curve import HitCurve
from kvpool.sizing._errors import SizingError
from kvpool.sizing._lru import lru_curve, stack_distances
from kvpool.sizing._prefix_trace import MAX_BLOCKS, MAX_REFERENCES, PrefixTrace
from kvpool.sizing._sampling import Sample, draw_sample

__all__ = [
    "AGE_EDGES",
    "MAX_BLOCKS",
    "MAX_REFERENCES",
    "Ages",
    "HitCurve",
    "PrefixTrace",
    "Sample",
    "SizingError",
    "block_lifetimes",
    "clairvoyant_curve",
    "draw_sample",
    "lru_curve",
    "reuse_ages",
    "stack_distances",
]

_exports.publish(__name__)
