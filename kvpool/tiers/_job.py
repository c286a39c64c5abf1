"""`Job`: a chunk that is to be written."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kvpool.tiers._chunk import Chunk, ChunkBuffer

__all__ = ["Job"]


class Job:
    """A chunk to be written, with its keys and values or with where they are.

    Parameters
    ----------
    chunk : Chunk
    keys, values : ndarray, shape (layers, kv_heads, tokens, head_dim)
        Of the session; the job keeps them, and so the memory of the session, until it is done.
    """

    __slots__ = ("_data", "_source", "chunk")

    def __init__(self, chunk: Chunk, keys: NDArray[Any], values: NDArray[Any]) -> None:
        self.chunk = chunk
        self._source: tuple[NDArray[Any], NDArray[Any]] | None = (keys, values)
        self._data: NDArray[Any] | ChunkBuffer | None = None

    @classmethod
    def of(cls, chunk: Chunk, data: NDArray[Any] | ChunkBuffer) -> Self:
        """Return a job with keys and values in the shape of the chunk, of its own."""
        shown = data.data if isinstance(data, ChunkBuffer) else data
        job = cls(chunk, shown, shown)
        job._data, job._source = data, None
        return job

    def data(self) -> NDArray[Any] | ChunkBuffer:
        """Return keys and values in the shape of the chunk, and let go of the session."""
        source = self._source
        if self._data is None and source is not None:
            chunk, buffer = self.chunk, ChunkBuffer(self.chunk)
            place = np.s_[:, :, chunk.start : chunk.start + chunk.tokens]
            buffer.data[:, 0], buffer.data[:, 1] = source[0][place], source[1][place]
            self._data, self._source = buffer, None
        if self._data is None:
            raise AssertionError("a job has keys and values, or knows where they are")
        return self._data

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.chunk.nbytes
