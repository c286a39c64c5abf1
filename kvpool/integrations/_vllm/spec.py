"""`KVPoolOffloadingSpec`: vLLM's offloading with tiers, also where it runs on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm.platforms import current_platform
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from kvpool.errors import InvalidOptionError
from kvpool.integrations._vllm.copying import CopyWorker

__all__ = ["KVPoolOffloadingSpec"]


class WorkerRegion(SharedOffloadRegion):
    """The memory for offloading as a worker has it. Its file has no name when it is released."""

    _creator: bool  # of vLLM: whether this process made the file

    def cleanup(self) -> None:
        """Release the memory."""
        is_creator = self._creator
        self._creator = False  # or vLLM would warn that the file is not there
        super().cleanup()
        if is_creator:  # there never was a scheduler
            Path(self.mmap_path).unlink(missing_ok=True)


class KVPoolOffloadingSpec(TieringOffloadingSpec):
    """vLLM's ``TieringOffloadingSpec``, which also works where vLLM computes on a CPU.

    vLLM makes it from ``"spec_name": "KVPoolOffloadingSpec"``. Its options are those of
    ``TieringOffloadingSpec``. On a GPU it is that, and nothing else.

    Raises
    ------
    InvalidOptionError
        On a CPU: the option ``canonical_layout`` is set.
    """

    _worker: Any  # of vLLM, None until the first call
    _manager: Any  # the same

    def get_manager(self) -> Any:
        """Return what vLLM's scheduler asks; on a CPU, leave no file in ``/dev/shm`` behind.

        The workers have mapped the file before the scheduler begins, so it needs no name any more:
        however the processes end, its memory is free again.
        """
        is_first = self._manager is None
        manager = super().get_manager()
        if is_first and current_platform.is_cpu():
            region: Any = self._scheduler_mmap
            if not vars(region)["_creator"]:
                Path(region.mmap_path).unlink(missing_ok=True)
        return manager

    def get_worker(self, kv_caches: Any) -> Any:
        """Return the worker that moves chunks; on a CPU, one that copies memory."""
        if not current_platform.is_cpu():
            return super().get_worker(kv_caches)
        if self._worker is None:
            if self.config.canonical_layout:
                raise InvalidOptionError(
                    "canonical_layout is for GPUs: leave it out where vLLM runs on a CPU"
                )
            region = WorkerRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=0 if self.replicated_layout else self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            try:
                self._worker = CopyWorker(kv_caches, self.blocks_per_chunk, region)
            except BaseException:
                region.cleanup()
                raise
        return self._worker
