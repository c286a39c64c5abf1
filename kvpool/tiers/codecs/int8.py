"""The codec ``int8``: not lossless, each element in one byte."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvpool.hookspecs import hookimpl
from kvpool.tiers._codec import CodecFactory
from kvpool.tiers._quantized import Quantizer

__all__ = ["Int8Codec", "kvpool_codec"]


class Int8Codec(Quantizer):
    """One byte per element, with a range for each channel of keys and each token of values."""

    name = "int8"
    steps = 255

    def pack(self, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return levels as they are."""
        return levels

    def unpack(self, packed: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
        """Return levels as they are."""
        return packed[:count]


@hookimpl
def kvpool_codec() -> CodecFactory:
    """Describe the codec to kvpool."""
    return CodecFactory(create=Int8Codec, summary="lossy: one byte per element, and ranges")
