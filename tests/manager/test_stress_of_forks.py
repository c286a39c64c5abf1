"""Threads that append, fork, truncate and remove in a small elastic pool."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    ContextOverflowError,
    EntryExistsError,
    EntryNotFoundError,
    EntryRemovedError,
    InvalidTokensError,
    LayerMismatchError,
    PoolExhaustedError,
)
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.marks import elastic, needs_pages
from tests.support.page_counts import kernel_bytes
from tests.support.sessions import key_of
from tests.support.workers import Worker, run_all

SECONDS = float(os.environ.get("KVPOOL_STRESS_SECONDS", "4"))
THREADS = 6
SESSIONS = 16
LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=64, dtype="float32")
EXPECTED = (
    ContextOverflowError,
    EntryExistsError,
    EntryNotFoundError,
    EntryRemovedError,
    InvalidTokensError,
    LayerMismatchError,
    PoolExhaustedError,
)
ACTIONS = {  # and how often
    "append": 6, "extend": 8, "read": 8, "keep": 3, "fork": 6, "grow": 2, "truncate": 4,
    "trim": 2, "remove": 2, "press": 1, "look": 1,
}  # fmt: skip

pytestmark = [
    pytest.mark.no_cover,
    needs_pages,
]


def stamps(*shape: int, first: int, number: int) -> NDArray[np.float32]:
    """Return tokens each of which tells its position, and who wrote it in which dimension."""
    tokens = np.empty((*shape, LAYOUT.head_dim), np.float32)
    tokens[..., 0] = np.arange(first, first + shape[-1])
    tokens[..., 1:] = number
    return tokens


class Chaos(Worker):
    """Does random things to random sessions, and checks all that it reads.

    A token that is torn, or lies where another belongs, shows: all its elements but the first
    are equal, and the first is its position. That is so in every fork of every session.
    """

    def __init__(self, manager: KVCacheManager, number: int, until: float) -> None:
        super().__init__(number)
        self.manager = manager
        self.draws = random.Random(number)
        self.until = until
        self.kept: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def work(self) -> None:
        names, weights = list(ACTIONS), list(ACTIONS.values())
        while time.monotonic() < self.until:
            (name,) = self.draws.choices(names, weights)
            try:
                getattr(self, name)(self.draws.randrange(SESSIONS))
                self.done[name] += 1
            except EXPECTED as error:
                self.done[type(error).__name__] += 1
        self.kept.clear()

    def session(self, number: int, context: int = 64) -> KVCacheEntry:
        return self.manager.get_or_create_cache(key_of(number), context)

    def write(self, entry: KVCacheEntry, layer: int | None, count: int) -> None:
        """Write tokens that know their position, which the entry tells when it is their turn."""
        layers = (
            self.draws.sample(range(LAYOUT.layers), LAYOUT.layers) if layer is None else [layer]
        )
        for each in layers:
            with entry.writing(each, count) as place:
                tokens = stamps(LAYOUT.kv_heads, count, first=place.start, number=self.number)
                keys, values = place
                keys[:] = values[:] = tokens

    def append(self, number: int) -> None:
        self.write(self.session(number), self.draws.randrange(LAYOUT.layers), 3)

    def extend(self, number: int) -> None:
        self.write(self.session(number), None, self.draws.choice([3, 3, 17]))

    def read(self, number: int) -> None:
        entry = self.session(number)
        layer = self.draws.randrange(LAYOUT.layers)
        for view in (entry.key(layer), entry.value(layer)):
            self.check(view)

    def check(self, view: NDArray[Any]) -> None:
        """Look at tokens that may be dropped and written anew under the view."""
        copied = view.copy()
        assert (copied[..., 0] == np.arange(view.shape[-2])).all()

    def keep(self, number: int) -> None:
        """Keep a view of a fork that nobody else knows: what it shows never changes."""
        new_key = key_of(f"{self.name} keeps {self.draws.random()}")
        entry = self.manager.fork_cache_entry(key_of(number), new_key)
        view = entry.key(0)
        self.kept.append((view, view.copy()))
        self.manager.remove_cache_entry(new_key)
        for held, expected in self.kept:
            assert np.array_equal(held, expected)
        del self.kept[:-4]

    def fork(self, number: int) -> None:
        new = self.draws.randrange(SESSIONS)
        self.manager.fork_cache_entry(key_of(number), key_of(new))

    def grow(self, number: int) -> None:
        self.session(number, 128)

    def truncate(self, number: int) -> None:
        entry = self.session(number)
        entry.truncate(self.draws.randrange(entry.token_count + 1))

    def trim(self, number: int) -> None:
        self.session(number).trim()

    def remove(self, number: int) -> None:
        self.manager.remove_cache_entry(key_of(number))

    def press(self, _number: int) -> None:
        self.manager.evict_lru_entries(self.manager.pool.capacity // 4)

    def look(self, _number: int) -> None:
        self.manager.check_integrity()


@pytest.mark.stress
@pytest.mark.usefixtures("frequent_switches")
@elastic
def test_threads_do_everything_at_once(backend: str) -> None:
    with KVCacheManager(1 << 21, backend, LAYOUT, elastic=True, receipts=False) as manager:
        until = time.monotonic() + SECONDS / 2
        done = run_all([Chaos(manager, number, until) for number in range(THREADS)])
        assert all(done[name] for name in ACTIONS)
        manager.check_integrity()
        assert kernel_bytes(manager.pool) <= manager.get_stats().used_memory
        for key in manager.session_keys():
            manager.remove_cache_entry(key)
        stats = manager.pool.stats()
        assert (stats.used, stats.reserved, stats.forks, stats.parting_blocks) == (0, 0, 0, 0)
        assert kernel_bytes(manager.pool) == 0
