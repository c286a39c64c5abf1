"""`KVPoolL2Adapter`: pool and tiers as the second level (L2) of LMCache's server."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import AdapterUsage, L2AdapterInterface
from lmcache.v1.platform import create_event_notifier

from kvpool.errors import InvalidOptionError
from kvpool.integrations._blocks import BlockOptions, BlockStore, Done, Jobs
from kvpool.integrations._lmcache.keys import block_key, identity_of

__all__ = ["KVPoolL2Adapter"]

_log = logging.getLogger("kvpool.lmcache")

_STORE, _LOOKUP, _LOAD = _KINDS = ("store", "lookup", "load")
_LOOKUPS: Final = 1  # threads for them
_FAILED: Final = L2StoreResult(success=False, bytes_transferred=0)


class _Task(NamedTuple):
    """What a job is for: its kind, its number, and how many objects it has."""

    kind: str
    number: int
    objects: int


class KVPoolL2Adapter(L2AdapterInterface):
    """Keeps the objects of LMCache's server in a pool and in tiers.

    LMCache makes it from an option ``--l2-adapter '{"type": "plugin", …}'``.

    Parameters
    ----------
    adapter_params : dict
        ``model_id``, ``pool``, ``backend``, ``policy``, ``ttl``, ``tiers``, ``load_budget``,
        ``queue``, ``backlog``, ``drain``, ``threads`` and ``namespace``. The page "LMCache" tells
        what each one means.
    l1_memory_desc : L1MemoryDesc, optional
        From LMCache; not used.

    Raises
    ------
    InvalidOptionError
        An option is not known, or its value is not accepted.
    KVPoolError
        The pool or a tier cannot be opened.

    Notes
    -----
    Once it is made it fails no server: a store that cannot be done in time is reported as failed,
    and an object that is late, damaged or gone as missing, after which LMCache has it computed.

    *Locks.* LMCache locks objects between a look-up and the load. Here an object that leaves
    between the two is one that is missing, so a lock has no effect.

    *Eviction* is that of the pool and of each tier; LMCache is told of no capacity.

    *Threads.* Any method may be called from any thread, and none waits for bytes.
    """

    def __init__(self, adapter_params: dict[str, Any], l1_memory_desc: Any = None) -> None:
        super().__init__()
        del l1_memory_desc
        options = dict(adapter_params)
        model_id = options.pop("model_id", None)
        if model_id is not None and not isinstance(model_id, str):
            raise InvalidOptionError(f'"model_id" must be a text, not {model_id!r}')
        chosen = BlockOptions.of({"namespace": "lmcache", **options})
        identity = identity_of(model_id)
        self._store: BlockStore = chosen.open_store(identity)
        self._tasks = itertools.count(1)
        self._lock = threading.Lock()  # guards what follows
        self._results: dict[str, dict[int, Any]] = {kind: {} for kind in _KINDS}
        self._is_open = True
        self._events = {kind: create_event_notifier() for kind in _KINDS}
        self._jobs = chosen.open_jobs("kvpool lmcache", on_done=self._collect)
        # A look-up is waited for by a request, so it must not wait behind loads of others.
        self._lookups = Jobs(_LOOKUPS, 1, "kvpool lmcache lookup", on_done=self._collect)
        _log.info("objects are kept as those of %s", identity)

    @property
    def store(self) -> BlockStore:
        """The store behind the adapter."""
        return self._store

    # -- events ------------------------------------------------------------------------------

    def get_store_event_fd(self) -> int:
        """Return the descriptor that can be read when a store has ended."""
        return int(self._events[_STORE].fileno())

    def get_lookup_and_lock_event_fd(self) -> int:
        """Return the descriptor that can be read when a look-up has ended."""
        return int(self._events[_LOOKUP].fileno())

    def get_load_event_fd(self) -> int:
        """Return the descriptor that can be read when a load has ended."""
        return int(self._events[_LOAD].fileno())

    def _collect(self) -> None:
        for done in (*self._jobs.finished(), *self._lookups.finished()):
            self._end(done)

    def _end(self, done: Done) -> None:
        task, result = done.job, done.result
        assert isinstance(task, _Task)  # all that the jobs are given
        if result is None:  # it raised, or never began
            result = _FAILED if task.kind == _STORE else Bitmap(task.objects)
        with self._lock:
            self._results[task.kind][task.number] = result
            if self._is_open:
                self._events[task.kind].notify()

    def _take(self, kind: str, task: int) -> Any:
        with self._lock:
            return self._results[kind].pop(task, None)

    # -- stores ------------------------------------------------------------------------------

    def submit_store_task(self, keys: list[Any], objects: list[Any]) -> int:
        """Begin to keep objects; return the number of the task."""
        task = next(self._tasks)
        job = _Task(_STORE, task, len(keys))
        nbytes = sum(one.get_size() for one in objects)
        if not self._jobs.store(job, partial(self._keep, keys, objects), nbytes):
            self._end(Done(job, None, 0.0))
        return task

    def _keep(self, keys: list[Any], objects: list[Any]) -> Any:
        kept = self._store.put(_items(keys, objects))
        sizes = [one.get_size() for one in objects]
        stored = [at for at, is_kept in enumerate(kept) if is_kept]
        self._notify_keys_stored([keys[at] for at in stored], [sizes[at] for at in stored])
        return L2StoreResult(all(kept), sum(sizes[at] for at in stored))

    def pop_completed_store_tasks(self) -> dict[int, Any]:
        """Return what has become of the stores that have ended since the last call.

        A store counts as failed if one of its objects is not kept.
        """
        with self._lock:
            ended, self._results[_STORE] = self._results[_STORE], {}
        return ended

    # -- look-ups ----------------------------------------------------------------------------

    def submit_lookup_and_lock_task(
        self, keys: list[Any], group_layout_descs: dict[int, Any]
    ) -> int:
        """Begin to look for objects; return the number of the task."""
        task = next(self._tasks)
        dtypes = {group: tuple(one.dtypes) for group, one in group_layout_descs.items()}
        self._lookups.load(_Task(_LOOKUP, task, len(keys)), partial(self._look, keys, dtypes))
        return task

    def _look(self, keys: list[Any], dtypes: Mapping[int, Sequence[Any]]) -> Any:
        known = [at for at, key in enumerate(keys) if key.object_group_id in dtypes]
        names = [block_key(keys[at], dtypes[keys[at].object_group_id]) for at in known]
        found = Bitmap(len(keys))
        for at, is_there in zip(known, self._store.contains(names), strict=True):
            if is_there:
                found.set(at)
        return found

    def query_lookup_and_lock_result(self, task_id: int) -> Any:
        """Return which objects were there, once; None if the look-up has not ended."""
        return self._take(_LOOKUP, task_id)

    def submit_unlock(self, keys: list[Any]) -> None:
        """Do nothing: see *Locks* in the notes of the class."""

    # -- loads -------------------------------------------------------------------------------

    def submit_load_task(self, keys: list[Any], objects: list[Any]) -> int:
        """Begin to load objects into memory of LMCache; return the number of the task."""
        task = next(self._tasks)
        self._jobs.load(_Task(_LOAD, task, len(keys)), partial(self._fill, keys, objects))
        return task

    def _fill(self, keys: list[Any], objects: list[Any]) -> Any:
        found = Bitmap(len(keys))
        loaded = []
        for at, is_there in enumerate(self._store.load(_items(keys, objects))):
            if is_there:
                found.set(at)
                loaded.append(keys[at])
        self._notify_keys_accessed(loaded)
        return found

    def query_load_result(self, task_id: int) -> Any:
        """Return which objects were loaded, once; None if the load has not ended."""
        return self._take(_LOAD, task_id)

    # -- the rest ----------------------------------------------------------------------------

    def get_usage(self) -> Any:
        """Return the bytes in the pool; the capacity is 0, because eviction is not LMCache's."""
        manager = self._store.manager
        used = 0 if manager is None else manager.pool.stats().used
        return AdapterUsage(total_bytes_used=used, total_capacity_bytes=0)

    def report_status(self) -> dict[str, Any]:
        """Return figures of the store, and the state of each tier."""
        stats, tiers = self._store.stats(), self._store.tiers
        levels = () if tiers is None else tiers.levels
        states = {level.name: level.breaker.state.value for level in levels}
        return {
            "is_healthy": self._is_open,
            "type": "kvpool",
            "pool_hits": stats.pool_hits,
            "tier_hits": stats.tier_hits,
            "misses": stats.misses,
            "kept": stats.kept,
            "shed": stats.shed,
            "backlog_bytes": self._jobs.backlog,
            "tiers": states,
        }

    def close(self) -> None:
        """End all threads, write what is queued, and close pool and tiers."""
        self._lookups.close()
        self._jobs.close()
        with self._lock:
            self._is_open = False
        for event in self._events.values():
            event.close()
        self._store.close()


def _items(keys: list[Any], objects: list[Any]) -> list[tuple[bytes, Any]]:
    """Return the keys of objects in the store, and their memory."""
    return [
        (block_key(key, one.get_dtypes()), np.frombuffer(one.byte_array, np.uint8))
        for key, one in zip(keys, objects, strict=True)
    ]
