"""The scheduler's and the worker's side of vLLM's offloading, without a model.

Needs vllm, so tests have it as a fixture.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.platforms import current_platform
from vllm.v1.kv_offload.base import (
    CanonicalKVCacheRef,
    CanonicalKVCaches,
    CanonicalKVCacheTensor,
    GPULoadStoreSpec,
    LookupResult,
    ReqContext,
    ScheduleEndContext,
    make_offload_key,
)
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.kv_offload.cpu.policies.base import ChunkStatus
from vllm.v1.kv_offload.factory import OffloadingSpecFactory

from kvpool.integrations.vllm import KVPoolTier

__all__ = [
    "LAYERS",
    "PAGE",
    "CPULoadStoreSpec",
    "ChunkStatus",
    "GPULoadStoreSpec",
    "Offloading",
    "OffloadingSpecFactory",
    "ReqContext",
    "as_caches",
    "current_platform",
    "files_left",
    "key",
    "make_config",
    "make_tensors",
    "path_of",
    "worker_alone",
]

LAYERS, PAGE, BLOCKS = 3, 1000, 64
MARK = f"test-{os.getpid()}"


def key(number: int) -> bytes:
    """Return a key as vLLM makes it: a hash of 32 bytes, and the group."""
    return bytes(make_offload_key(number.to_bytes(32, "big"), 0))


def make_config(
    secondary: Sequence[dict[str, Any]] = (),
    *,
    chunks: int = 16,
    blocks_per_chunk: int = 1,
    model: str = "acme/model-7b",
    **extra: Any,
) -> Any:
    """Return what vLLM tells a spec; the memory for offloading has room for some chunks."""
    aligned = -(-LAYERS * PAGE * blocks_per_chunk // 4096) * 4096
    return OffloadingConfig(
        groups=(OffloadingGroupConfig(16, tuple(f"layer.{n}" for n in range(LAYERS)), 0),),
        worker_kv_bytes_per_block=LAYERS * PAGE,
        enable_kv_cache_events=False,
        extra_config={
            "spec_name": "KVPoolOffloadingSpec",
            "cpu_bytes_to_use": chunks * aligned,
            "secondary_tiers": [dict(one) for one in secondary],
            **extra,
        },
        engine_id=f"{MARK}-{uuid.uuid4().hex}",
        model=OffloadingModelConfig(model, "bfloat16"),
        cache=OffloadingCacheConfig(16, blocks_per_chunk),
        parallel=OffloadingParallelConfig(
            0, 1, 1, 1, 1, 1, 0, 1, None, is_parallelism_agnostic=True
        ),
        canonical_layout=bool(extra.get("canonical_layout", False)),
    )


def make_tensors() -> list[Any]:
    """Return the blocks of an engine, layer by layer."""
    return [torch.zeros((BLOCKS, PAGE), dtype=torch.int8) for _ in range(LAYERS)]


def as_caches(tensors: Sequence[Any]) -> Any:
    """Return the blocks of an engine as vLLM gives them to a worker."""
    return CanonicalKVCaches(
        [CanonicalKVCacheTensor(tensor, PAGE) for tensor in tensors],
        [[CanonicalKVCacheRef(layer, PAGE) for layer in range(len(tensors))]],
    )


def worker_alone() -> Any:
    """Return the spec of an engine that has a worker, and no scheduler."""
    spec = OffloadingSpecFactory.create_spec(make_config())
    spec.get_worker(as_caches(make_tensors()))
    return spec


def files_left() -> list[Path]:
    """Return the files of memory for offloading that this process has made and not removed."""
    return list(Path("/dev/shm").glob(f"vllm_offload_{MARK}-*"))


def path_of(spec: Any) -> Path:
    """Return the file of the memory for offloading."""
    return Path(f"/dev/shm/vllm_offload_{spec.config.engine_id}.mmap")


class Offloading:
    """One engine: its blocks, and what it keeps of them beyond.

    Parameters
    ----------
    *secondary : dict
        The configurations of secondary tiers.
    **options : object
        Of `make_config`.
    """

    def __init__(self, *secondary: dict[str, Any], **options: Any) -> None:
        config = make_config(secondary, **options)
        self.size = config.cache.blocks_per_chunk
        self.tensors = make_tensors()
        self.worker_spec = OffloadingSpecFactory.create_spec(config)
        self.worker: Any = self.worker_spec.get_worker(as_caches(self.tensors))
        self.spec = OffloadingSpecFactory.create_spec(config)
        self.path = path_of(self.spec)
        try:
            self.manager: Any = self.spec.get_manager()
        except BaseException:  # as vLLM does when its engine does not start
            self.worker.shutdown()
            raise
        self.requests = self.jobs = 0
        self.is_closed = False

    @property
    def tier(self) -> KVPoolTier:
        """The first secondary tier."""
        (tier, *_) = self.manager.secondary_tiers
        assert isinstance(tier, KVPoolTier)
        return tier

    def begin(self) -> Any:
        """Return a new request."""
        self.requests += 1
        context = ReqContext(req_id=f"request {self.requests}")
        self.manager.on_new_request(context)
        return context

    def step(self, *new: str) -> None:
        """End a step of the scheduler."""
        self.manager.on_schedule_end(ScheduleEndContext(new, ()))

    def settle(self) -> None:
        """Make steps until nothing is under way."""
        deadline = time.monotonic() + 60
        self.step()
        while self.manager.has_pending_work():
            assert time.monotonic() < deadline
            time.sleep(0.001)
            self.step()

    def compute(self, number: int, first: int) -> None:
        """Fill the blocks of a chunk, from a block on, with what stands for its keys and values."""
        for block in range(self.size):
            for layer, page in enumerate(self.contents(number, block)):
                self.tensors[layer][first + block] = torch.from_numpy(page)

    def contents(self, number: int, block: int) -> NDArray[np.int8]:
        """Return the bytes of a block of a chunk, layer by layer."""
        seed = np.random.default_rng([number, block])
        return seed.integers(-128, 128, (LAYERS, PAGE), np.int8)

    def store(self, *numbers: int) -> list[int]:
        """Compute chunks and have them kept; return those that vLLM has taken."""
        context = self.begin()
        output = self.manager.prepare_store([key(number) for number in numbers], context)
        taken = [] if output is None else [int.from_bytes(one[:32]) for one in output.keys_to_store]
        if taken:
            for place, number in enumerate(taken):
                self.compute(number, place * self.size)
            self.transfer(self.worker.submit_store, self.blocks(len(taken)), output.store_spec)
            self.manager.complete_store(output.keys_to_store, context)
        self.manager.on_request_finished(context)
        self.settle()
        return taken

    def look(self, *numbers: int) -> int:
        """Return how many chunks can be loaded, from the first on."""
        context = self.begin()
        found = self.look_in(context, *numbers)
        self.manager.on_request_finished(context)
        return found

    def look_in(self, context: Any, *numbers: int) -> int:
        deadline = time.monotonic() + 60
        while True:
            results = []
            for number in numbers:
                results.append(self.manager.lookup(key(number), context))
                if results[-1] is LookupResult.MISS:
                    break
            if not {LookupResult.RETRY, LookupResult.HIT_PENDING} & set(results):
                return results.count(LookupResult.HIT)
            assert time.monotonic() < deadline
            self.step()
            time.sleep(0.001)

    def load(self, *numbers: int) -> int:
        """Load the chunks that are there, from the first on; check their bytes; return how many."""
        context = self.begin()
        found = self.look_in(context, *numbers)
        if found:
            keys = [key(number) for number in numbers[:found]]
            for tensor in self.tensors:
                tensor.zero_()
            source = self.manager.prepare_load(keys, context)
            self.transfer(self.worker.submit_load, source, self.blocks(found))
            self.manager.complete_load(keys, context)
            for place, number in enumerate(numbers[:found]):
                for block in range(self.size):
                    there = [one[place * self.size + block].numpy() for one in self.tensors]
                    assert np.array_equal(there, self.contents(number, block))
        self.manager.on_request_finished(context)
        self.settle()
        return found

    def blocks(self, count: int) -> Any:
        """Return the first blocks of the engine."""
        return GPULoadStoreSpec(list(range(count * self.size)), [count * self.size], [0])

    def transfer(self, submit: Any, source: Any, target: Any) -> None:
        """Have the worker copy, and wait for it."""
        self.jobs += 1
        assert submit(self.jobs, source, target)
        self.worker.wait({self.jobs})
        (result,) = self.worker.get_finished()
        assert (result.job_id, result.success) == (self.jobs, True)

    def forget(self) -> None:
        """Drop what is in vLLM's own memory."""
        self.manager.reset_cache()

    def close(self) -> None:
        """End it, as vLLM does; a second call does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        self.worker.shutdown()
        self.manager.shutdown()
