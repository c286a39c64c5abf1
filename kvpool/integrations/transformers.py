"""The pool as the cache of Hugging Face transformers models.

Needs the extra ``kvpool[transformers]``; the guide is the page "transformers".
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.integrations._transformers.attention import register_attention
from kvpool.integrations._transformers.batch import BatchStep, PooledBatch
from kvpool.integrations._transformers.cache import PooledCache
from kvpool.integrations._transformers.measuring import cache_argument, model_layout
from kvpool.integrations._transformers.opening import OpeningCache

__all__ = [
    "BatchStep",
    "OpeningCache",
    "PooledBatch",
    "PooledCache",
    "cache_argument",
    "model_layout",
    "register_attention",
]

_exports.publish(__name__)
