"""The codec ``int4``: not lossless, two elements in one byte."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvpool.hookspecs import hookimpl
from kvpool.tiers._codec import CodecFactory
from kvpool.tiers._quantized import Quantizer

__all__ = ["Int4Codec", "kvpool_codec"]


class Int4Codec(Quantizer):
    """Half a byte per element, with a range for each channel of keys and each token of values."""

    name = "int4"
    steps = 15

    def pack(self, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return two levels in each byte, the first one in its low half."""
        if len(levels) % 2:
            levels = np.append(levels, np.uint8(0))
        return levels[0::2] | np.left_shift(levels[1::2], np.uint8(4))

    def unpack(self, packed: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
        """Return one level from each half of the bytes."""
        levels = np.empty((len(packed), 2), np.uint8)
        levels[:, 0] = packed & 15
        levels[:, 1] = packed >> 4
        return levels.reshape(-1)[:count]


@hookimpl
def kvpool_codec() -> CodecFactory:
    """Describe the codec to kvpool."""
    return CodecFactory(create=Int4Codec, summary="lossy: half a byte per element, and ranges")
