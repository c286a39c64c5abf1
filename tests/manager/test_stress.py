"""Eight threads do everything at once for some seconds; $KVPOOL_STRESS_SECONDS says how many."""

from __future__ import annotations

import gc
import os
import random
import time
from collections import deque
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    ContextOverflowError,
    EntryExistsError,
    EntryKindError,
    EntryNotFoundError,
    EntryRemovedError,
    InvalidTokensError,
    LayerMismatchError,
    PoolExhaustedError,
)
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.sessions import key_of
from tests.support.workers import Worker, run_all

pytestmark = pytest.mark.no_cover

SECONDS = float(os.environ.get("KVPOOL_STRESS_SECONDS", "4"))
THREADS = 8
SESSIONS = 24
LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=16, dtype="float32")
CONTEXTS = (4, 16, 64)
CAPACITY = 10 * LAYOUT.geometry(64).nbytes

# What may happen to a thread because another one was faster, or because of many leases.
EXPECTED = (
    ContextOverflowError,
    EntryExistsError,
    EntryKindError,
    EntryNotFoundError,
    EntryRemovedError,
    InvalidTokensError,
    LayerMismatchError,
    PoolExhaustedError,
)


ACTIONS = {  # and how often
    "append": 6, "extend": 6, "read": 12, "keep": 2, "find": 2, "grow": 2, "raw": 2,
    "truncate": 2, "remove": 1, "press": 1, "pin": 1, "expire": 1, "look": 1,
}  # fmt: skip


class Chaos(Worker):
    """Does random things to random sessions, and checks all that it reads.

    Every element that is written for session n is n plus a multiple of `SESSIONS`, so one that
    belongs to another session shows, wherever it comes from.
    """

    def __init__(self, manager: KVCacheManager, number: int, until: float) -> None:
        super().__init__(number)
        self.manager = manager
        self.draws = random.Random(number)
        self.until = until
        self.kept: deque[tuple[int, NDArray[Any]]] = deque()

    def work(self) -> None:
        names, weights = list(ACTIONS), list(ACTIONS.values())
        while time.monotonic() < self.until:
            (name,) = self.draws.choices(names, weights)
            try:
                getattr(self, name)(self.draws.randrange(SESSIONS))
                self.done[name] += 1
            except EXPECTED as error:
                self.done[type(error).__name__] += 1
        while self.kept:
            self.check(*self.kept.popleft())

    # -- what it does --------------------------------------------------------------------

    def session(self, number: int, context: int = 16) -> KVCacheEntry:
        entry = self.manager.get_or_create_cache(key_of(number), context)
        self.done["look-ups"] += 1
        return entry

    def tokens(self, number: int, *shape: int) -> NDArray[np.float32]:
        stamp = number + SESSIONS * self.draws.randrange(1000)
        return np.full((*shape, LAYOUT.head_dim), stamp, np.float32)

    def append(self, number: int) -> None:
        tokens = self.tokens(number, LAYOUT.kv_heads, self.draws.randrange(1, 4))
        self.session(number).append(self.draws.randrange(LAYOUT.layers), tokens, tokens)

    def extend(self, number: int) -> None:
        self.session(number)
        tokens = self.tokens(number, LAYOUT.layers, LAYOUT.kv_heads, self.draws.randrange(1, 6))
        self.manager.update_cache(key_of(number), tokens, tokens)

    def read(self, number: int) -> None:
        entry = self.session(number)
        layer = self.draws.randrange(LAYOUT.layers)
        for view in (entry.key(layer), entry.value(layer), entry.keys(), entry.values()):
            self.check(number, view)

    def keep(self, number: int) -> None:
        self.kept.append((number, self.session(number).keys()))
        if len(self.kept) > 3:
            self.check(*self.kept.popleft())

    def find(self, number: int) -> None:
        entry = self.manager.get_cache_entry(key_of(number))
        self.done["look-ups"] += 1
        self.done["found nothing"] += entry is None

    def grow(self, number: int) -> None:
        entry = self.session(number, self.draws.choice(CONTEXTS))
        entry.data()

    def raw(self, number: int) -> None:
        entry = self.manager.allocate_entry(
            key_of(number), self.draws.randrange(1, 2000), ttl=0.005
        )
        self.done["made raw"] += 1
        assert not entry.data().any()
        entry.data()[:] = 255

    def truncate(self, number: int) -> None:
        entry = self.session(number)
        entry.truncate(min(entry.token_count, self.draws.randrange(8)))

    def remove(self, number: int) -> None:
        self.manager.remove_cache_entry(key_of(number))

    def press(self, number: int) -> None:
        self.manager.evict_lru_entries(CAPACITY // (2 + number))

    def pin(self, number: int) -> None:
        self.manager.pin(key_of(number))
        try:
            self.session(number)
        finally:
            self.manager.unpin(key_of(number))

    def expire(self, _number: int) -> None:
        self.manager.evict_expired()

    def look(self, _number: int) -> None:
        check_figures(self.manager)
        self.manager.check_integrity()

    @staticmethod
    def check(number: int, view: NDArray[Any]) -> None:
        strangers = view[view % SESSIONS != number]
        assert not strangers.size, f"session {number} shows {np.unique(strangers)}"


def check_figures(manager: KVCacheManager) -> None:
    stats = manager.get_stats()
    assert stats.active_entries == stats.allocations - stats.evictions
    assert stats.evictions == sum(stats.evictions_by_reason.values())
    assert stats.used_memory == stats.bytes_allocated - stats.bytes_freed <= stats.total_capacity


@pytest.mark.stress
@pytest.mark.usefixtures("frequent_switches")
def test_eight_threads(backend: str) -> None:
    seconds = SECONDS if backend == "numpy" else SECONDS / 5
    with KVCacheManager(CAPACITY, backend, LAYOUT, ttl=0.01, elastic=False) as manager:
        until = time.monotonic() + seconds
        done = run_all([Chaos(manager, number, until) for number in range(THREADS)])
        manager.check_integrity()
        check_figures(manager)
        stats = manager.get_stats()
        assert stats.hits + stats.misses == done["look-ups"]
        assert stats.allocations == stats.misses - done["found nothing"] + done["made raw"]
        assert done.keys() >= set(ACTIONS), f"too short a run: {done}"
        gc.collect()
        assert manager.get_stats().parting_entries == 0
        for key in manager.session_keys():
            manager.remove_cache_entry(key)
        assert manager.get_stats().used_memory == 0
        manager.check_integrity()
