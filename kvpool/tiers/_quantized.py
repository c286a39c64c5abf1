"""Keys and values in fewer bits: what the codecs ``int8`` and ``int4`` have in common.

Keys have channels whose elements are all large, so each channel of a head has a range of its own
over the tokens of the chunk; values have none, so each token of a head has its range. Each range is
cut into equal steps. That is the scheme of KIVI (Liu et al., 2024, arXiv 2402.02750).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from kvpool.errors import ChunkError, TierError
from kvpool.tiers._base import Part
from kvpool.tiers._codec import Codec, Form

__all__ = ["Quantizer"]

_TOKEN_AXIS: Final = 2  # of (layers, kv_heads, tokens, head_dim)
_CHANNEL_AXIS: Final = 3
_RANGE: Final = np.dtype("<f4")


class Quantizer(Codec):
    """Stores elements as steps of a range, with the start and the step of each range.

    Attributes
    ----------
    steps : int
        From one end of a range to the other one.
    """

    is_lossless = False
    takes_arrays_only = True
    steps: ClassVar[int]

    @abstractmethod
    def pack(self, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return levels, each from 0 to `steps`, as bytes to store."""

    @abstractmethod
    def unpack(self, packed: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
        """Return what `pack` was given."""

    def packed_nbytes(self, count: int) -> int:
        """Return the bytes of this many levels."""
        return self.pack(np.zeros(count, np.uint8)).nbytes

    def encode(self, data: memoryview, form: Form, /) -> Sequence[Part]:
        """Return ranges and levels of the keys, then those of the values; see `Codec.encode`."""
        if form.dtype.kind in "iub" or form.shape is None:
            raise TierError(f"the codec {self.name!r} stores floats, not {form.dtype}")
        array = np.frombuffer(data, form.dtype).reshape(form.shape).astype(np.float32)
        parts: list[Part] = []
        for region, axis in enumerate((_TOKEN_AXIS, _CHANNEL_AXIS)):
            numbers = array[:, region]
            low = numbers.min(axis, keepdims=True)
            with np.errstate(invalid="ignore", over="ignore"):  # such numbers are refused below
                step = (numbers.max(axis, keepdims=True) - low) / np.float32(self.steps)
            if not np.isfinite(step).all():
                raise TierError(f"the codec {self.name!r} stores numbers that are finite")
            step[step == 0] = 1
            levels = np.rint((numbers - low) / step).astype(np.uint8)
            ranges = np.stack([low, step]).astype(_RANGE)
            parts += [ranges.data, self.pack(levels.reshape(-1)).data]
        return parts

    def decode(self, data: memoryview, form: Form, /) -> Part:
        """Return keys and values that are nearly those that were stored; see `Codec.decode`."""
        if form.shape is None:
            raise ChunkError(f"the codec {self.name!r} has to be the first one", "payload")
        layers, _, heads, tokens, dim = form.shape
        array: NDArray[Any] = np.empty(form.shape, form.dtype)
        stored, at = np.frombuffer(data, np.uint8), 0
        count = layers * heads * tokens * dim
        for region, shape in enumerate(((layers, heads, 1, dim), (layers, heads, tokens, 1))):
            end = at + 2 * int(np.prod(shape)) * _RANGE.itemsize
            low, step = stored[at:end].view(_RANGE).reshape(2, *shape)
            at = end + self.packed_nbytes(count)
            levels = self.unpack(stored[end:at], count).reshape(layers, heads, tokens, dim)
            numbers = levels.astype(np.float32)
            numbers *= step
            numbers += low
            array[:, region] = numbers
        if at != stored.nbytes:
            raise ChunkError("the chunk is longer or shorter than its levels", "payload")
        return array.reshape(-1).view(np.uint8).data
