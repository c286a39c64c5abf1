"""The codec ``zstd``: lossless, the bytes of all elements by significance, compressed.

The bits of a float that say how large it is repeat; its other bits are noise. So the bytes of all
elements are put into planes, the lowest bytes first, and each plane is compressed if a sample of it
promises a gain. Matches between tokens are as good as none, and looking for them only costs
time: a small hash table makes zstd three times as fast, and the result no larger.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kvpool import _optional_imports
from kvpool.errors import ChunkError, InvalidTierError
from kvpool.hookspecs import hookimpl
from kvpool.tiers._base import Part
from kvpool.tiers._codec import Codec, CodecFactory, Form

__all__ = ["ZstdCodec", "kvpool_codec"]

_PLANE: Final = struct.Struct("<BxxxxxxxQ")  # whether it is compressed, and its bytes
_HASH_LOG: Final = 6
_SAMPLED: Final = 1 << 14  # bytes of a plane that tell whether it is worth compressing
_WORTH: Final = 7.6  # bits per byte, of 8
_LEVELS: Final = range(1, 20)
_MODULE: Final = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


class ZstdCodec(Codec):
    """Byte planes, compressed by Zstandard.

    Parameters
    ----------
    level : int, default 1
        1 to 19. Higher levels are many times as slow, and gain a few per mille at most: on keys and
        values of SmolLM2, level 9 makes larger chunks than level 1.

    Raises
    ------
    InvalidTierError
        There is no such level.
    MissingExtraError
        The extra ``kvpool[zstd]`` is not installed; Python 3.14 and later do not need it.
    """

    name = "zstd"

    def __init__(self, level: int = 1) -> None:
        if level not in _LEVELS:
            raise InvalidTierError(f"the level of zstd must be from 1 to 19, not {level!r}")
        self._zstd = _optional_imports.load(_MODULE, "zstd", "the codec 'zstd'")
        parameter = self._zstd.CompressionParameter
        self._options = {parameter.compression_level: level, parameter.checksum_flag: 0}
        if level == 1:
            self._options[parameter.hash_log] = _HASH_LOG

    def encode(self, data: memoryview, form: Form, /) -> Sequence[Part]:
        """Return the planes, each behind its size; see `Codec.encode`."""
        size = form.dtype.itemsize
        parts: list[Part] = []
        for plane in _planes(np.frombuffer(data, np.uint8), size):
            packed: Part = plane.data
            is_compressed = _is_worth_it(plane)
            if is_compressed:
                packed = self._zstd.compress(plane, options=self._options)
            parts += [_PLANE.pack(is_compressed, memoryview(packed).nbytes), packed]
        return parts

    def decode(self, data: memoryview, form: Form, /) -> Part:
        """Return the elements; see `Codec.decode`."""
        size, planes, at = form.dtype.itemsize, [], 0
        for _ in range(size):
            is_compressed, nbytes = _PLANE.unpack_from(data, at)
            at += _PLANE.size
            stored = data[at : at + nbytes]
            at += nbytes
            planes.append(self._plane(stored, form, size) if is_compressed else stored)
        if at != data.nbytes or len({plane.nbytes for plane in planes}) > 1:
            raise ChunkError("the planes of the chunk do not fit together", "payload")
        return _joined([np.frombuffer(plane, np.uint8) for plane in planes]).data

    def _plane(self, stored: memoryview, form: Form, size: int) -> memoryview:
        """Return a plane that is compressed, unless it is longer than it can be."""
        if form.nbytes is None:
            return memoryview(self._zstd.decompress(stored))
        most = form.nbytes // size
        decompressor = self._zstd.ZstdDecompressor()
        plane = memoryview(decompressor.decompress(stored, most + 1))
        if plane.nbytes != most or not decompressor.eof or decompressor.unused_data:
            raise ChunkError("a plane of the chunk has another size than it must have", "payload")
        return plane


def _planes(data: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    """Return the first byte of all elements, then the second one, and so on."""
    if size == 1 or data.nbytes % size:
        return [data] if size == 1 else [data[at::size].copy() for at in range(size)]
    if size == 2:  # shifts are faster than a copy with strides
        numbers = data.view("<u2")
        return [numbers.astype(np.uint8), (numbers >> 8).astype(np.uint8)]
    return [np.ascontiguousarray(data[at::size]) for at in range(size)]


def _joined(planes: list[NDArray[np.uint8]]) -> NDArray[Any]:
    """Return the elements of planes: what `_planes` was given."""
    if len(planes) == 1:
        return planes[0]
    kind = np.dtype(f"<u{len(planes)}")
    numbers = planes[-1].astype(kind)
    for plane in planes[-2::-1]:
        numbers <<= 8
        numbers |= plane
    return numbers.view(np.uint8)


def _is_worth_it(plane: NDArray[np.uint8]) -> bool:
    """Return whether some bytes of a plane are less than random, by their entropy."""
    step = max(1, len(plane) // _SAMPLED)
    counts = np.bincount(plane[::step])
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) < _WORTH


def _create(*, level: str = "1") -> Codec:
    """Create the codec from the options of a URL."""
    if not level.isdecimal():
        raise InvalidTierError(f"the level of zstd must be from 1 to 19, not {level!r}")
    return ZstdCodec(int(level))


@hookimpl
def kvpool_codec() -> CodecFactory:
    """Describe the codec to kvpool."""
    return CodecFactory(
        create=_create,
        summary="lossless: byte planes, compressed by Zstandard",
        options={"level": "1 to 19 [default: 1]"},
        modules=(_MODULE,),
        extra="kvpool[zstd]",
    )
