"""`CopyWorker`: moves chunks between vLLM's cache in memory and its memory for offloading."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult

__all__ = ["CopyWorker"]

Bytes = NDArray[np.int8]


class _Pages(NamedTuple):
    """The pages of one tensor, on both sides.

    Parameters
    ----------
    cache : ndarray, shape (blocks, page bytes)
        Of the engine.
    chunks : ndarray, shape (chunks, blocks of a chunk, page bytes)
        Of the offloading.
    """

    cache: Bytes
    chunks: Bytes


class CopyWorker(OffloadingWorker):
    """Copies chunks when it is told to, where keys and values are in the memory of the system.

    Parameters
    ----------
    kv_caches : CanonicalKVCaches
        Of the engine. What a page contains is the business of vLLM: bytes are moved as they are.
    blocks_per_chunk : int
    region : SharedOffloadRegion
        Belongs to the worker from now on.

    Notes
    -----
    A transfer is done when the call that begins it returns. vLLM begins those that store after
    the step that computed their blocks, and before the next one.
    """

    def __init__(self, kv_caches: Any, blocks_per_chunk: int, region: Any) -> None:
        self._region: Any = region
        self._blocks_per_chunk = blocks_per_chunk
        self._refs = [
            [(ref.tensor_idx, ref.page_size_bytes) for ref in refs]
            for refs in kv_caches.group_data_refs
        ]
        self._pages: list[_Pages] = []
        for one in kv_caches.tensors:
            page = one.page_size_bytes
            chunks = region.create_next_worker_view(page * blocks_per_chunk)
            cache = one.tensor.view(torch.int8).view(-1, page)
            shaped = chunks.unflatten(1, (blocks_per_chunk, page))
            self._pages.append(_Pages(cache.numpy(), shaped.numpy()))
        self._finished: list[Any] = []

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        """Copy blocks of the engine to chunks."""
        begun, nbytes = time.monotonic(), 0
        for cache, chunk in self._pairs(src_spec, dst_spec.block_ids):
            chunk[:] = cache
            nbytes += cache.nbytes
        return self._finish(job_id, nbytes, begun)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        """Copy chunks to blocks of the engine."""
        begun, nbytes = time.monotonic(), 0
        for cache, chunk in self._pairs(dst_spec, src_spec.block_ids):
            cache[:] = chunk
            nbytes += cache.nbytes
        return self._finish(job_id, nbytes, begun)

    def _pairs(self, spec: Any, chunk_ids: NDArray[np.int32]) -> Iterator[tuple[Bytes, Bytes]]:
        """Yield each page of the engine that a transfer is about, and its place in a chunk.

        Parameters
        ----------
        spec : GPULoadStoreSpec
            Blocks of the engine, group by group. The first of a group may lie inside of a chunk.
        chunk_ids : ndarray of int32
            The chunks that they are in, group by group.
        """
        size = self._blocks_per_chunk
        block_at = chunk_at = 0
        for refs, count, index in zip(
            self._refs, spec.group_sizes, spec.block_indices, strict=True
        ):
            blocks = spec.block_ids[block_at : block_at + count]
            block_at += count
            if not count:
                continue
            first = index % size
            for tensor, nbytes in refs:
                pages = self._pages[tensor]
                for place, block in enumerate(blocks, first):
                    chunk = chunk_ids[chunk_at + place // size]
                    yield (
                        pages.cache[block, :nbytes],
                        pages.chunks[chunk, place % size, :nbytes],
                    )
            chunk_at += -(-(first + count) // size)

    def _finish(self, job_id: int, nbytes: int, begun: float) -> bool:
        seconds = time.monotonic() - begun
        self._finished.append(
            TransferResult(job_id, success=True, transfer_size=nbytes, transfer_time=seconds)
        )
        return True

    def get_finished(self) -> list[Any]:
        """Return the transfers since the last call: all of them are done."""
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Do nothing: no transfer is under way between calls."""

    def shutdown(self) -> None:
        """Let go of all memory."""
        self._pages.clear()
        if self._region is not None:
            self._region.cleanup()
            self._region = None
