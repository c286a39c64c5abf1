"""Keys and values with the statistics of those of a model, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["kv_like"]


def kv_like(layers: int, heads: int, tokens: int, dim: int, seed: int = 0) -> NDArray[Any]:
    """Return keys and values of shape (layers, 2, heads, tokens, dim), float32.

    Each channel has a scale of its own, larger ones among the keys, and a mean.
    """
    draws = np.random.default_rng(seed)
    scale = np.exp(draws.normal(0, 0.8, (layers, 2, heads, 1, dim)))
    mean = draws.normal(0, 1, (layers, 2, heads, 1, dim)) * scale
    noise = draws.standard_normal((layers, 2, heads, tokens, dim))
    return (noise * scale + mean).astype(np.float32)
