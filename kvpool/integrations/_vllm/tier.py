"""`KVPoolTier`: pool and tiers as a secondary tier of vLLM's offloading."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Iterable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    RequestOffloadingContext,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager

from kvpool.errors import InvalidOptionError
from kvpool.integrations._blocks import BlockOptions, BlockStore, Done, Jobs
from kvpool.integrations._vllm.identity import identity_of
from kvpool.integrations._vllm.lookup import BlockLookup

__all__ = ["KVPoolTier"]

_log = logging.getLogger("kvpool.vllm")

Rows = NDArray[np.int8]


class KVPoolTier(SecondaryTierManager):
    """Keeps the chunks of vLLM's offloading in a pool and in tiers.

    vLLM makes it from an entry ``{"type": "kvpool", …}`` of ``secondary_tiers``.

    Parameters
    ----------
    offloading_spec, primary_kv_view, tier_type, backpressure_detector
        From vLLM.
    locality : {"LOCAL", "REMOTE"}, optional
        Told to vLLM, which may leave tiers out by it.
    model_id : str, optional
        Stands for the weights of the model. Give one, with the revision, if the weights behind the
        name of the model may change. [default: the name, and a hash of the files if it is that of
        a directory]
    **options : object
        ``pool``, ``backend``, ``policy``, ``ttl``, ``tiers``, ``load_budget``, ``queue``,
        ``backlog``, ``drain``, ``threads`` and ``namespace``. The page "vLLM" tells what each one
        means.

    Raises
    ------
    InvalidOptionError
        An option is not known, or its value is not accepted.
    KVPoolError
        The pool or a tier cannot be opened.

    Notes
    -----
    Once it is made it fails no engine: a store that cannot be done in time is left out, and a
    chunk that is late, damaged or gone is computed again.

    *Threads.* vLLM calls from its scheduler, and no call waits for bytes: they are copied in
    threads of the tier.
    """

    medium: ClassVar[Any] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        *,
        locality: str | None = None,
        model_id: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        if locality is not None:
            if locality not in Locality.__members__:
                known = ", ".join(Locality.__members__)
                raise InvalidOptionError(f"locality must be one of {known}, not {locality!r}")
            self.locality = Locality[locality]
        # vLLM kills a process that has not ended after 5 seconds, unless it is told otherwise.
        chosen = BlockOptions.of({"namespace": "vllm", "drain": 2.0, **options})
        identity = identity_of(offloading_spec, model_id)
        self._store: BlockStore = chosen.open_store(identity)
        self._jobs: Jobs = chosen.open_jobs(f"kvpool {tier_type}")
        self._lookup = BlockLookup(tier_type, self._store)
        # vLLM frees this memory after `shutdown`, and cannot while an array shows it.
        self._rows: Rows | None = np.asarray(primary_kv_view)
        self._chunk_bytes = int(self._rows.strides[0])
        self._loading: dict[int, list[bytes]] = {}
        self._storing: dict[int, int] = {}
        self._refused: list[Any] = []
        _log.info("%s keeps chunks of %s", tier_type, identity)

    @property
    def store(self) -> BlockStore:
        """The store behind the tier."""
        return self._store

    # -- what there is -----------------------------------------------------------------------

    def on_new_request(self, req_context: Any) -> Any:
        """Have the chunks of a request offered as they are computed."""
        del req_context
        return RequestOffloadingContext()

    def lookup(self, key: bytes, req_context: Any) -> Any:
        """Return whether a chunk is there; "retry" until a thread has looked."""
        found = self._lookup.lookup(key, req_context)
        if found is None:
            return LookupResult.RETRY
        return LookupResult.HIT if found else LookupResult.MISS

    def touch(self, keys: Collection[bytes], req_context: Any) -> None:
        """Note uses of chunks that vLLM has in memory of its own, for the policy of the pool."""
        del req_context
        self._store.touch([bytes(key) for key in keys])

    def on_schedule_end(self, context: Any) -> None:
        """Begin the look-ups of this step."""
        del context
        self._lookup.flush()

    def on_request_finished(self, req_context: Any) -> None:
        """Forget what a request has asked for."""
        self._lookup.cleanup(req_context.req_id)

    # -- transfers ---------------------------------------------------------------------------

    def submit_store(self, job_metadata: Any) -> None:
        """Begin to keep chunks; those of a full backlog are not kept."""
        job, keys = job_metadata.job_id, [bytes(key) for key in job_metadata.keys]
        nbytes = len(keys) * self._chunk_bytes
        run = functools.partial(self._put, keys, job_metadata.chunk_ids)
        self._storing[job] = nbytes
        if not self._jobs.store(job, run, nbytes):
            del self._storing[job]
            self._refused.append(JobResult(job, success=False))

    def submit_load(self, job_metadata: Any) -> None:
        """Begin to load chunks into the memory of vLLM."""
        job, keys = job_metadata.job_id, [bytes(key) for key in job_metadata.keys]
        self._loading[job] = keys
        self._jobs.load(job, functools.partial(self._load, keys, job_metadata.chunk_ids))

    def _put(self, keys: list[bytes], chunk_ids: NDArray[np.int32]) -> bool:
        return all(self._store.put(self._items(keys, chunk_ids)))

    def _load(self, keys: list[bytes], chunk_ids: NDArray[np.int32]) -> list[bool]:
        return self._store.load(self._items(keys, chunk_ids))

    def _items(self, keys: list[bytes], chunk_ids: NDArray[np.int32]) -> list[tuple[bytes, Rows]]:
        rows = self._rows
        if rows is None:
            return []
        return [(key, rows[chunk]) for key, chunk in zip(keys, chunk_ids, strict=True)]

    def get_finished_jobs(self) -> Iterable[Any]:
        """Return what has become of transfers since the last call."""
        refused, self._refused = self._refused, []
        return refused + [self._result(done) for done in self._jobs.finished()]

    def _result(self, done: Done) -> Any:
        job = int(str(done.job))
        if job in self._storing:
            nbytes = self._storing.pop(job)
            return JobResult(job, bool(done.result), None, done.seconds, nbytes)
        keys = self._loading.pop(job)
        found = done.result or [False] * len(keys)
        loaded = [key for key, there in zip(keys, found, strict=True) if there]
        if len(loaded) < len(keys):
            missing = [key for key, there in zip(keys, found, strict=True) if not there]
            # Without this vLLM would ask for them again until the request ends.
            self._lookup.mark_miss(missing)
        return JobResult(
            job,
            success=len(loaded) == len(keys),
            successful_keys=tuple(loaded) or None,
            transfer_time=done.seconds,
            transfer_bytes=len(loaded) * self._chunk_bytes,
        )

    def drain_jobs(self) -> None:
        """Wait until no transfer uses the memory of vLLM."""
        self._jobs.drain()

    def shutdown(self) -> None:
        """End all threads, let go of the memory of vLLM, and write what is queued."""
        self._lookup.shutdown()
        self._jobs.close()
        self._rows = None
        self._primary_kv_view = memoryview(b"")
        try:
            self._store.close()
        except Exception as error:  # vLLM keeps its memory if this raises, and a plugin may
            _log.warning("%s does not close: %s", self.tier_type, error)
