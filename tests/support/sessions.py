"""What the tests of entries and managers share: tokens, a clock, comparisons of bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.layout import KVLayout

__all__ = ["LAYOUT", "Clock", "Tokens", "bits", "key_of", "random_tokens", "same_bits"]

# Odd numbers, so that the stripe of a head is not a multiple of 64 bytes by itself.
LAYOUT = KVLayout(layers=2, kv_heads=3, head_dim=5, dtype="float32")


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Tokens:
    """Keys and values of some tokens, each of shape (layers, kv_heads, tokens, head_dim)."""

    keys: NDArray[Any]
    values: NDArray[Any]

    def layer(self, layer: int) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.keys[layer], self.values[layer]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return iter((self.keys, self.values))


def random_tokens(layout: KVLayout, count: int, seed: int = 0) -> Tokens:
    """Return tokens of random bits: NaN with any payload, infinities and subnormals too."""
    shape = (layout.layers, layout.kv_heads, count, layout.head_dim)
    draws = np.random.default_rng((seed, count))
    nbytes = int(np.prod(shape)) * layout.dtype.itemsize
    keys, values = (
        draws.integers(0, 256, nbytes, np.uint8).view(layout.dtype).reshape(shape) for _ in range(2)
    )
    return Tokens(keys, values)


def bits(array: NDArray[Any]) -> tuple[tuple[int, ...], str, bytes]:
    """Return shape, dtype and bytes: equal where no bit differs, for NaN too."""
    return array.shape, str(array.dtype), array.tobytes()


def same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return bits(one) == bits(other)


def key_of(number: int | str) -> CacheKey:
    return CacheKey("chat", number)
