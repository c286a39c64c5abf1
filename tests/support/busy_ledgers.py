"""Ledgers of managers that many threads use, closed while the threads still run."""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

import numpy as np

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import KVPoolError, PoolClosedError
from kvpool.layout import KVLayout
from kvpool.ledger import LedgerSink
from kvpool.manager import KVCacheManager

__all__ = ["BACKENDS", "write_busy_ledger"]

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=32, dtype="float32")
CAPACITY = 4 << 20  # bytes; not enough for all sessions with all their tokens
SESSIONS = 24
THREADS = 8
LONGEST = 0.03  # seconds until the manager is closed
TTL = 0.002  # seconds; several sessions expire at once, in a batch
TOKENS = np.ones((LAYOUT.layers, LAYOUT.kv_heads, 32, LAYOUT.head_dim), "float32")

# Where pages are charged, other threads change what is used between two evictions of a batch.
BACKENDS = ("mmap", "ctypes") if sys.platform == "linux" else ("numpy",)


def write_busy_ledger(path: Path, backend: str, seed: int) -> None:
    """Let 8 threads use one manager, and close it at a random moment.

    Parameters
    ----------
    path : Path
        Of the new ledger.
    backend : str
    seed : int
        For the calls of the threads and for the moment. How the threads take turns is up to
        the system.

    Raises
    ------
    Exception
        A thread raised it. Errors of kvpool, such as that of a full pool, are expected.
    """
    sink = LedgerSink(path, checkpoint_every=50, rotate_at=40_000, fsync="never")
    manager = KVCacheManager(CAPACITY, backend, LAYOUT, receipts=[sink])
    users = [_User(manager, seed * THREADS + number) for number in range(THREADS)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for user in users:
            user.start()
        time.sleep(random.Random(seed).uniform(0.002, LONGEST))
        manager.close()
        for user in users:
            user.join()
    finally:
        sys.setswitchinterval(interval)
    for user in users:
        if user.error is not None:
            raise user.error


class _User(threading.Thread):
    """Makes random calls until the manager is closed."""

    def __init__(self, manager: KVCacheManager, seed: int) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self._manager = manager
        self._random = random.Random(seed)

    def run(self) -> None:
        while True:
            try:
                self._call()
            except PoolClosedError:
                return
            except KVPoolError:  # a session that is gone or full, a pool that is full
                continue
            except Exception as error:
                self.error = error
                return

    def _call(self) -> None:
        manager, draw = self._manager, self._random
        key, other = (CacheKey("s", draw.randrange(SESSIONS)) for _ in range(2))
        choice = draw.random()
        if choice < 0.2:
            ttl = draw.choice([None, TTL, TTL])
            manager.get_or_create_cache(key, draw.choice([256, 1024]), ttl=ttl)
        elif choice < 0.65:
            self._append(key)
        elif choice < 0.75:
            manager.fork_cache_entry(key, other)
        elif choice < 0.85:
            manager.evict_expired()
        elif choice < 0.93:
            manager.remove_cache_entry(key)
        elif choice < 0.98:
            manager.evict_lru_entries(draw.choice([1 << 16, 1 << 20]))
        else:
            manager.emit_pool_snapshot()

    def _append(self, key: CacheKey) -> None:
        """Append to a session again and again, outside of the manager's lock, and trim it."""
        entry = self._manager.get_cache_entry(key)
        if isinstance(entry, KVCacheEntry):
            view = entry.keys() if self._random.random() < 0.3 else None
            for _ in range(self._random.randrange(8)):
                entry.extend(TOKENS, TOKENS)
            entry.truncate(entry.token_count // 2)
            del view
