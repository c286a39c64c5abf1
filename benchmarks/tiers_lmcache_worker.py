"""Writes and reads chunks by LMCache's backends; run by a Python that has LMCache.

It knows nothing of kvpool. See `benchmarks.tiers_lmcache`, which runs it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Coroutine
from typing import Any

PATIENCE = 120  # seconds


class Disk:
    """The backend that keeps each chunk in a file."""

    def __init__(self, config: Any, metadata: Any, loop: Any, memory: Any) -> None:
        module = importlib.import_module("lmcache.v1.storage_backend.local_disk_backend")
        self._backend = module.LocalDiskBackend(config, loop, memory, "cpu", metadata=metadata)

    def put(self, keys: list[Any], chunks: list[Any]) -> None:
        """Write chunks, and wait until each is written."""
        written = threading.Semaphore(0)
        self._backend.batched_submit_put_task(
            keys, chunks, on_complete_callback=lambda _: written.release()
        )
        for _ in keys:
            if not written.acquire(timeout=PATIENCE):
                raise TimeoutError("a chunk is not written")

    def get(self, keys: list[Any]) -> list[Any]:
        """Read chunks into memory of LMCache."""
        found: list[Any] = self._backend.batched_get_blocking(keys)
        return found

    def clear(self, keys: list[Any]) -> None:
        """Remove chunks."""
        for key in keys:
            self._backend.remove(key)


class Redis:
    """The connector for a redis-server."""

    def __init__(self, port: int, loop: Any, memory: Any) -> None:
        module = importlib.import_module("lmcache.v1.storage_backend.connector.redis_connector")
        self._connector = module.RESPConnector("127.0.0.1", port, loop, memory)
        self._loop = loop
        self._client = importlib.import_module("redis").Redis(port=port)

    def put(self, keys: list[Any], chunks: list[Any]) -> None:
        """Write chunks, and wait until each is written."""
        self._wait(self._connector.batched_put(keys, chunks))

    def get(self, keys: list[Any]) -> list[Any]:
        """Read chunks into memory of LMCache."""
        found: list[Any] = self._wait(self._connector.batched_get(keys))
        return found

    def clear(self, keys: list[Any]) -> None:
        """Remove chunks."""
        self._client.delete(*(key.to_string() for key in keys))

    def _wait(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE)


class Worker:
    """Answers calls."""

    def __init__(self, told: dict[str, Any]) -> None:
        half = importlib.import_module("torch").float16
        key = importlib.import_module("lmcache.utils").CacheEngineKey
        configs = importlib.import_module("lmcache.v1.config")
        described = importlib.import_module("lmcache.v1.metadata")
        memories = importlib.import_module("lmcache.v1.storage_backend.local_cpu_backend")
        config = configs.LMCacheEngineConfig.from_defaults(
            chunk_size=told["shape"][2],
            local_cpu=False,
            max_local_cpu_size=1.0,  # GiB: what is written, and what is read
            local_disk=told["folder"],
            max_local_disk_size=2.0,
        )
        shape, size = tuple(told["shape"]), told["shape"][2]
        metadata = described.LMCacheMetadata("model", 1, 1, 0, 0, half, shape, chunk_size=size)
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        memory = memories.LocalCPUBackend(config, metadata, "cpu")
        self._backend: Disk | Redis = (
            Disk(config, metadata, loop, memory)
            if told["store"] == "disk"
            else Redis(told["port"], loop, memory)
        )
        shapes, dtypes = metadata.get_shapes(), metadata.get_dtypes()
        self._chunks = [memory.allocate(shapes, dtypes) for _ in range(told["chunks"])]
        for chunk in self._chunks:
            view = memoryview(chunk.byte_array).cast("B")
            view[:] = os.urandom(view.nbytes)
        self._keys = [key("model", 1, 0, number, half) for number in range(told["chunks"])]
        self._is_there = False

    def put(self) -> float:
        """Write all chunks; return seconds."""
        self.clear()
        start = time.perf_counter()
        self._backend.put(self._keys, self._chunks)
        took = time.perf_counter() - start
        self._is_there = True
        return took

    def get(self) -> float:
        """Read all chunks; return seconds."""
        start = time.perf_counter()
        found = self._backend.get(self._keys)
        took = time.perf_counter() - start
        for ours, theirs in zip(self._chunks, found, strict=True):
            if bytes(memoryview(ours.byte_array)) != bytes(memoryview(theirs.byte_array)):
                raise AssertionError("what was read is not what was written")
            theirs.ref_count_down()
        return took

    def clear(self) -> float:
        """Remove all chunks."""
        if self._is_there:
            self._backend.clear(self._keys)
            self._is_there = False
        return 0.0

    def version(self) -> str:
        """Return the version of LMCache."""
        version: str = importlib.import_module("importlib.metadata").version("lmcache")
        return version


def main() -> None:
    """Answer the calls of standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what LMCache prints is no answer
    worker = Worker(json.loads(sys.argv[1]))
    for line in sys.stdin:
        call = {one.__name__: one for one in (worker.put, worker.get, worker.clear, worker.version)}
        answers.write(json.dumps(call[line.strip()]()) + "\n")
        answers.flush()
    os._exit(0)  # threads of the peer would go on


if __name__ == "__main__":
    main()
