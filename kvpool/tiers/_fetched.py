"""`Fetched`: chunks that a tier has, with the memory that they are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from numpy.typing import NDArray

from kvpool.errors import ChunkError
from kvpool.tiers._base import Tier
from kvpool.tiers._chunk import Chunk, ChunkBuffer, decode_chunk
from kvpool.tiers._codec import CodecChain
from kvpool.tiers._job import Job

__all__ = ["Fetched", "close_fetched", "fetch_run", "let_go"]


class Fetched:
    """The leading run of some chunks that a tier has, whole and right, until `close`.

    Attributes
    ----------
    arrays : list of ndarray
        Keys and values, in the shape of each chunk. They may be the memory of the store.
    queued : int
        How many of the last arrays are not in the tier yet.
    error : ChunkError or None
        What was wrong with the chunk behind them, if it was there.
    """

    def __init__(self) -> None:
        self.arrays: list[NDArray[Any]] = []
        self.queued = 0
        self.error: ChunkError | None = None
        self._block: AbstractContextManager[Any] = nullcontext()

    def read(self, tier: Tier, chunks: Sequence[Chunk], codec: CodecChain) -> None:
        """Add the leading run that a tier has; called once."""
        block = tier.read([chunk.key for chunk in chunks])
        values = block.__enter__()
        self._block = block
        try:
            for chunk, value in zip(chunks, values, strict=True):
                if value is None:
                    break
                self.arrays.append(decode_chunk(value, chunk, codec))
        except ChunkError as error:
            self.error = error.with_traceback(None)  # it would keep the value
        except BaseException:
            self.close()
            raise

    def add_queued(self, chunks: Sequence[Chunk], queued: Mapping[bytes, Job]) -> None:
        """Add the chunks behind the arrays that wait to be written to the tier."""
        if self.error is not None:
            return
        try:
            for chunk in chunks[len(self.arrays) :]:
                if chunk.name not in queued:
                    break
                data = queued[chunk.name].data()
                self.arrays.append(data.data if isinstance(data, ChunkBuffer) else data)
                self.queued += 1
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the store's memory."""
        self.arrays.clear()
        self._block.__exit__(None, None, None)


def fetch_run(tier: Tier, chunks: Sequence[Chunk], codec: CodecChain) -> Fetched | None:
    """Fetch the leading run of some chunks that a tier has."""
    fetched = Fetched()
    fetched.read(tier, chunks, codec)
    return fetched


def let_go(fetched: Fetched | None) -> None:
    """Let go of chunks, if they are there."""
    if fetched is not None:
        fetched.close()


def close_fetched(done: Future[Fetched | None]) -> None:
    """Let go of what `Level.fetch_ahead` has fetched, and no one waits for."""
    if done.exception() is None:
        let_go(done.result())
