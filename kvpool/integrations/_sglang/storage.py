"""`KVPoolStorage`: pool and tiers as a storage of SGLang's hierarchical cache."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    PoolHitPolicy,
    PoolName,
    PoolTransferResult,
)

from kvpool.errors import InvalidOptionError, TierError
from kvpool.integrations._blocks import BlockOptions, BlockStore
from kvpool.integrations._sglang.figures import Figures
from kvpool.integrations._sglang.hits import leading, usable
from kvpool.integrations._sglang.identity import identity_of, shard_of
from kvpool.integrations._sglang.pages import Pages, bytes_of, fill, prefix_of

__all__ = ["KVPoolStorage"]

T = TypeVar("T")

_log = logging.getLogger("kvpool.sglang")

_AT_ONCE: Final = 64 << 20

# What SGLang itself reads from the extra configuration of a storage, and leaves in it.
_OF_SGLANG: Final = {"backend_name", "module_path", "class_name", "interface_v1"}

# SGLang calls from threads of its own, so a storage has none for transfers.
_WITHOUT_MEANING: Final = {"backlog", "threads"}


class KVPoolStorage(HiCacheStorage):
    """Keeps the pages of SGLang's hierarchical cache (HiCache) in a pool and in tiers.

    SGLang makes it from ``--hicache-storage-backend dynamic`` and the class in its extra
    configuration.

    Parameters
    ----------
    storage_config : HiCacheStorageConfig
        From SGLang. Its extra configuration has the options ``model_id``, ``pool``, ``backend``,
        ``policy``, ``ttl``, ``tiers``, ``load_budget``, ``queue``, ``drain`` and ``namespace``.
        The page "SGLang" tells what each one means.
    kwargs : dict, optional
        From SGLang, which passes an empty one.

    Raises
    ------
    InvalidOptionError
        An option is not known, or its value is not accepted.
    KVPoolError
        The pool or a tier cannot be opened.

    Notes
    -----
    Once it is made, only `clear` raises: SGLang reports that as a failure of the request to clear.
    All else that goes wrong is logged, and counts as a page that is not there or not stored.

    *Threads.* SGLang calls from its threads for prefetching and for backups, and waits there.
    """

    def __init__(self, storage_config: Any, kwargs: dict[str, Any] | None = None) -> None:
        del kwargs
        given = dict(storage_config.extra_config or {})
        options = {name: value for name, value in given.items() if name not in _OF_SGLANG}
        model_id = options.pop("model_id", None)
        if unused := sorted(_WITHOUT_MEANING & options.keys()):
            raise InvalidOptionError(
                f"{unused[0]!r} is not an option here: SGLang has threads for transfers of its own"
            )
        if model_id is not None and not isinstance(model_id, str):
            raise InvalidOptionError(f'"model_id" must be a text, not {model_id!r}')
        self._config = storage_config
        identity = identity_of(storage_config, model_id)
        chosen = BlockOptions.of({"namespace": "sglang", **options})
        self._figures = Figures(wanted=bool(storage_config.enable_storage_metrics))
        self._pages: dict[str, Pages] = {}
        self._store: BlockStore = chosen.open_store(identity)
        _log.info("pages of %s are kept", identity)

    @property
    def store(self) -> BlockStore:
        """The store behind it."""
        return self._store

    # -- the pools of SGLang -----------------------------------------------------------------

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Take note of the pool whose pages are keys and values."""
        super().register_mem_pool_host(mem_pool_host)
        self._register(mem_pool_host, PoolName.KV)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: str) -> None:
        """Take note of a further pool, of states or indexes that belong to the pages."""
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        self._register(host_pool, host_pool_name)

    def _register(self, pool: Any, name: str) -> None:
        self._pages[name] = Pages(pool, str(name), shard_of(self._config, name))

    def _keys(self, name: str, page_hashes: Sequence[str]) -> list[bytes]:
        """Return the keys of pages in the store; also of values for which no pool is known."""
        if pages := self._pages.get(name):
            return [pages.key(page_hash) for page_hash in page_hashes]
        prefix = prefix_of(str(name), shard_of(self._config, name), "", {})
        return [prefix + page_hash.encode() for page_hash in page_hashes]

    # -- what there is -----------------------------------------------------------------------

    def exists(self, key: str) -> bool:
        """Return whether a page is there."""
        return self.batch_exists([key]) == 1

    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        """Return how many pages are there, from the first one on."""
        del extra_info
        return _safely("look-up", lambda: leading(self._there(PoolName.KV, keys)), 0)

    def batch_exists_v2(
        self, keys: list[str], pool_transfers: list[Any] | None = None, extra_info: Any = None
    ) -> Any:
        """Return how many leading pages can be used, with what further pools need beside them.

        Parameters
        ----------
        keys : list of str
            Hashes of pages.
        pool_transfers : list of PoolTransfer, optional
            The further pools, and which of their pages they need.
        extra_info : HiCacheStorageExtraInfo, optional
            Not used.

        Returns
        -------
        PoolTransferResult

        Notes
        -----
        A pool whose pages stand for whole groups (``BLOCK_GROUPS``) is said to have none, which
        has no effect on the others.
        """
        del extra_info
        return _safely(
            "look-up", lambda: self._hits(keys, pool_transfers or []), PoolTransferResult.empty()
        )

    def _hits(self, keys: list[str], transfers: list[Any]) -> Any:
        count = leading(self._there(PoolName.KV, keys))
        hits: dict[str, int] = {PoolName.KV: count} if count else {}
        lengths = list(range(1, count + 1))
        for transfer in transfers:
            if lengths and transfer.hit_policy != PoolHitPolicy.BLOCK_GROUPS:
                fitting = usable(transfer, self._there(transfer.name, keys[:count]))
                if fitting:
                    hits[transfer.name] = fitting[-1]
                lengths = sorted(set(lengths) & set(fitting))
        return PoolTransferResult(lengths[-1] if lengths else 0, hits, lengths)

    def _there(self, name: str, page_hashes: list[str]) -> list[bool]:
        return self._store.contains(self._keys(name, page_hashes))

    # -- pages of the pools ------------------------------------------------------------------

    def batch_get_v1(
        self, keys: list[str], host_indices: Any, extra_info: Any = None
    ) -> list[bool]:
        """Copy pages to the pool of SGLang; return which are there, up to the first that is not."""
        del extra_info
        return self._each("load", self._load, PoolName.KV, keys, host_indices)

    def batch_set_v1(
        self, keys: list[str], host_indices: Any, extra_info: Any = None
    ) -> list[bool]:
        """Keep pages of the pool of SGLang; return which are kept."""
        del extra_info
        return self._each("backup", self._keep, PoolName.KV, keys, host_indices)

    def batch_get_v2(self, transfers: list[Any], extra_info: Any = None) -> dict[str, list[bool]]:
        """Do as `batch_get_v1` with several pools."""
        del extra_info
        return {
            one.name: self._each("load", self._load, one.name, one.keys or [], one.host_indices)
            for one in transfers
        }

    def batch_set_v2(self, transfers: list[Any], extra_info: Any = None) -> dict[str, list[bool]]:
        """Do as `batch_set_v1` with several pools."""
        del extra_info
        return {
            one.name: self._each("backup", self._keep, one.name, one.keys or [], one.host_indices)
            for one in transfers
        }

    def _each(
        self,
        what: str,
        move: Callable[[Pages, list[tuple[bytes, int]]], list[bool]],
        name: str,
        page_hashes: list[str],
        host_indices: Any,
    ) -> list[bool]:
        """Move pages, in parts whose copies take 64 MiB."""

        def run() -> list[bool]:
            pages, begun = self._pages[name], time.monotonic()
            places = pages.places(page_hashes, host_indices)
            items = list(zip(map(pages.key, page_hashes), places, strict=True))
            count = max(1, _AT_ONCE // pages.nbytes)
            moved: list[bool] = []
            for start in range(0, len(items), count):
                moved += move(pages, items[start : start + count])
                if what == "load" and not all(moved):
                    break
            self._figures.note(what, sum(moved), pages.nbytes, time.monotonic() - begun)
            return moved + [False] * (len(items) - len(moved))

        return _safely(what, run, [False] * len(page_hashes))

    def _load(self, pages: Pages, items: list[tuple[bytes, int]]) -> list[bool]:
        memory = np.empty((len(items), pages.nbytes), np.uint8)
        found = self._store.load([(key, row) for (key, _), row in zip(items, memory, strict=True)])
        for (_, place), row in zip(items[: leading(found)], memory, strict=False):
            pages.write(place, row)
        return found

    def _keep(self, pages: Pages, items: list[tuple[bytes, int]]) -> list[bool]:
        return self._store.put([(key, pages.read(place)) for key, place in items])

    # -- values ------------------------------------------------------------------------------

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """Return a value; None if it is not there.

        Parameters
        ----------
        key : str
        target_location : Tensor, optional
            Of the size of the value, which is copied to it. [default: a new one of the size of a
            page]
        target_sizes : object, optional
            Not used.
        """
        del target_sizes
        return self.batch_get([key], [target_location])[0]

    def batch_get(
        self, keys: list[str], target_locations: Any = None, target_sizes: Any = None
    ) -> list[Any]:
        """Return several values, None for each that is not there. See `get`."""
        del target_sizes
        targets = list(target_locations or [None] * len(keys))
        return _safely("load", lambda: self._values(keys, targets), [None] * len(keys))

    def _values(self, keys: list[str], targets: list[Any]) -> list[Any]:
        if pages := self._pages.get(PoolName.KV):
            targets = [pages.flat_page() if target is None else target for target in targets]
        asked = [at for at, target in enumerate(targets) if target is not None]
        memory = [np.empty(max(targets[at].nbytes, 1), np.uint8) for at in asked]
        names = self._keys(PoolName.KV, [keys[at] for at in asked])
        found = self._store.load(list(zip(names, memory, strict=True)))
        values: list[Any] = [None] * len(keys)
        for at, data, there in zip(asked, memory, found, strict=True):
            if there:
                fill(targets[at], data)
                values[at] = targets[at]
        return values

    def set(
        self,
        key: str,
        value: Any = None,
        target_location: Any = None,
        target_sizes: Any = None,
    ) -> bool:
        """Keep a value; return whether it is kept."""
        del target_location, target_sizes
        return self.batch_set([key], [value])

    def batch_set(
        self,
        keys: list[str],
        values: Any = None,
        target_locations: Any = None,
        target_sizes: Any = None,
    ) -> bool:
        """Keep several values; return whether all of them are kept."""
        del target_locations, target_sizes

        def run() -> bool:
            names = self._keys(PoolName.KV, keys)
            given = [bytes_of(value) for value in values]
            return all(self._store.put(list(zip(names, given, strict=True))))

        return _safely("backup", run, failed=False)

    # -- the rest ----------------------------------------------------------------------------

    def clear(self) -> None:
        """Remove all pages of the pool, and all chunks of the tiers.

        Chunks that other processes have stored are removed as well.

        Raises
        ------
        TierError
            A tier does not answer, or does not write in time what is queued for it.
        """
        if not self._store.clear():
            raise TierError(
                "the storage is not empty: a tier does not answer, or is still being written"
            )

    def get_stats(self) -> Any:
        """Return SGLang's figures of transfers since the last call; None if it wants none."""
        return self._figures.take()

    def close(self) -> None:
        """Write what is queued, and close pool and tiers."""
        self._store.close()


def _safely(what: str, run: Callable[[], T], failed: T) -> T:
    """Run a call of SGLang; log what it raises, as the threads of SGLang end with an error."""
    try:
        return run()
    except Exception:
        _log.exception("a %s of pages has failed", what)
        return failed
