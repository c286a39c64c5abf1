"""`Fetched`: chunks that a tier has, with the memory that they are in."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

from numpy.typing import NDArray

from kvpool.errors import ChunkError
from kvpool.tiers._base import Tier
from kvpool.tiers._chunk import Chunk, decode_chunk
from kvpool.tiers._codec import CodecChain

__all__ = ["Fetched", "close_fetched", "fetch_run", "let_go"]


class Fetched:
    """The leading run of some chunks that a tier has, whole and right, until `close`.

    Attributes
    ----------
    arrays : list of ndarray
        Keys and values, in the shape of each chunk. They may be the memory of the store.
    error : ChunkError or None
        What was wrong with the chunk behind them, if it was there.
    """

    def __init__(self, tier: Tier, chunks: Sequence[Chunk], codec: CodecChain) -> None:
        self.arrays: list[NDArray[Any]] = []
        self.error: ChunkError | None = None
        self._block: AbstractContextManager[Any] = tier.read([chunk.key for chunk in chunks])
        values = self._block.__enter__()
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

    def close(self) -> None:
        """Let go of the store's memory."""
        self.arrays.clear()
        self._block.__exit__(None, None, None)


def fetch_run(tier: Tier, chunks: Sequence[Chunk], codec: CodecChain) -> Fetched | None:
    """Fetch the leading run of some chunks that a tier has."""
    return Fetched(tier, chunks, codec)


def let_go(fetched: Fetched | None) -> None:
    """Let go of chunks, if they are there."""
    if fetched is not None:
        fetched.close()


def close_fetched(done: Future[Fetched | None]) -> None:
    """Let go of what `Level.fetch_ahead` has fetched, and no one waits for."""
    if done.exception() is None:
        let_go(done.result())
