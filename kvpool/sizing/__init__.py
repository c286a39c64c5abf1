"""Sizing: how big a pool a trace needs, from the prefixes that its prompts share."""

from __future__ import annotations

from kvpool import _exports
from kvpool.sizing._ages import AGE_EDGES, Ages, block_lifetimes, reuse_ages
from kvpool.sizing._clairvoyant import clairvoyant_curve
from kvpool.sizing._curve import HitCurve
from kvpool.sizing._errors import SizingError
from kvpool.sizing._lru import lru_curve, stack_distances
from kvpool.sizing._measuring import LRU, WHOLE_REFERENCES, measure, usable_policies
from kvpool.sizing._page import page, require_charts, write_page
from kvpool.sizing._prefix_trace import MAX_BLOCKS, MAX_REFERENCES, PrefixTrace
from kvpool.sizing._report import SHARES, Answer, SizingReport
from kvpool.sizing._sampling import Sample, draw_sample
from kvpool.sizing._simulation import policy_hits
from kvpool.sizing._words import describe

__all__ = [
    "AGE_EDGES",
    "LRU",
    "MAX_BLOCKS",
    "MAX_REFERENCES",
    "SHARES",
    "WHOLE_REFERENCES",
    "Ages",
    "Answer",
    "HitCurve",
    "PrefixTrace",
    "Sample",
    "SizingError",
    "SizingReport",
    "block_lifetimes",
    "clairvoyant_curve",
    "describe",
    "draw_sample",
    "lru_curve",
    "measure",
    "page",
    "policy_hits",
    "require_charts",
    "reuse_ages",
    "stack_distances",
    "usable_policies",
    "write_page",
]

_exports.publish(__name__)
