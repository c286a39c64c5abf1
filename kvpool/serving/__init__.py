"""Serving: many conversations at once from one model and one pool.

An `Engine` needs the extra ``kvpool[transformers]``; the guide is the page "serving".
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.serving._engine import Engine
from kvpool.serving._errors import EngineClosedError, ModelFailedError, QueueFullError
from kvpool.serving._generation import (
    Completion,
    FinishReason,
    Generation,
    TokenLogprob,
    TokenPiece,
    Usage,
)
from kvpool.serving._request import Request, Sampling
from kvpool.serving._stats import EngineObserver, EngineStats, Histogram

__all__ = [
    "Completion",
    "Engine",
    "EngineClosedError",
    "EngineObserver",
    "EngineStats",
    "FinishReason",
    "Generation",
    "Histogram",
    "ModelFailedError",
    "QueueFullError",
    "Request",
    "Sampling",
    "TokenLogprob",
    "TokenPiece",
    "Usage",
]

_exports.publish(__name__)
