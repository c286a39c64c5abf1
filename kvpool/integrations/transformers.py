"""The pool as the cache of Hugging Face transformers models.

Needs the extra ``kvpool[transformers]``; the guide is the page "transformers".
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.integrations._transformers.attention import register_attention
from kvpool.integrations._transformers.batch import BatchStep, PooledBatch
from kvpool.integrations._transformers.cache import PooledCache
from kvpool.integrations._transformers.measuring import cache_argument, model_layout

__all__ = [
    "BatchStep",
    "PooledBatch",
    "PooledCache",
    "cache_argument",
    "model_layout",
    "register_attention",
]

_exports.publish(__name__)
