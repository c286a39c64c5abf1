"""Threads that serve sessions out of one manager, and check every byte that they read."""

from __future__ import annotations

import itertools
import random
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpool import CacheKey, KVCacheEntry, KVCacheManager, KVLayout
from kvpool.errors import EntryNotFoundError, EntryRemovedError, PoolExhaustedError
from tests.support.observer import Life, Witness
from tests.support.workers import Worker

__all__ = ["CONTEXTS", "LAYOUT", "Held", "Server", "ticks"]

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=8, dtype="float32")
CONTEXTS = (8, 24, 64)
SHARED_CONTEXT = 16
SESSIONS = 6  # of each thread, of each kind

# What may happen to a thread because another one was faster, or because of many leases.
EXPECTED = (EntryNotFoundError, EntryRemovedError, PoolExhaustedError)

Held = deque[tuple[NDArray[Any], NDArray[Any]]]


def ticks() -> Callable[[], float]:
    """Return a clock that goes on by one whenever somebody looks; any thread may."""
    numbers = itertools.count()
    return lambda: float(next(numbers))


class Server(Worker):
    """Does random things to sessions of its own, and to some that it shares with the others.

    Parameters
    ----------
    manager : KVCacheManager
    witness : Witness
    number : int
        Of the thread.
    steps : int
    held : deque
        Views, and copies of what they showed; any thread ends the leases of any other.
    """

    def __init__(
        self, manager: KVCacheManager, witness: Witness, number: int, steps: int, held: Held
    ) -> None:
        super().__init__(number)
        self.manager, self.witness, self.held = manager, witness, held
        self.steps = steps
        self.draws = random.Random(number)

    def work(self) -> None:
        actions = [
            *[self.converse] * 10, *[self.share] * 4, *[self.keep_raw] * 3, *[self.remove] * 2,
            self.work_pinned, self.press, self.expire, self.look,
        ]  # fmt: skip
        for _ in range(self.steps):
            action = self.draws.choice(actions)
            try:
                action()
                self.done[action.__name__] += 1
            except EXPECTED as error:
                self.done[type(error).__name__] += 1
            if len(self.held) > 4 and self.draws.random() < 0.5:
                self.let_go()

    # -- sessions of its own ---------------------------------------------------------------

    def own_key(self, kind: str) -> CacheKey:
        return CacheKey(f"{kind} {self.number}", self.draws.randrange(SESSIONS))

    def open(self, key: CacheKey) -> tuple[KVCacheEntry, Life]:
        """Find an entry, make it, or let it grow."""
        ttl = self.draws.choice([None, None, 400.0])
        entry = self.manager.get_or_create_cache(key, self.draws.choice(CONTEXTS), ttl=ttl)
        return entry, self.witness.saw(key, entry)

    def converse(self) -> None:
        """Go on with a session: read what is there, write, read again, perhaps hold on to it."""
        entry, life = self.open(self.own_key("talk"))
        self.read(entry, life.number)
        room = entry.max_context_length - entry.token_count
        if room:
            tokens = pattern(life.number, entry.token_count, self.draws.randint(1, room))
            if room % 2:
                self.manager.update_cache(life.key, *tokens)
            else:
                entry.extend(*tokens)
        self.read(entry, life.number)
        if self.draws.random() < 0.2:
            self.hold(entry.key(0))

    def read(self, entry: KVCacheEntry, number: int) -> None:
        for shown, expected in zip(
            (entry.keys(), entry.values()), pattern(number, 0, entry.token_count), strict=True
        ):
            assert np.array_equal(shown, expected), f"{entry} shows {np.unique(shown)}"

    def keep_raw(self) -> None:
        """Keep plain bytes for a session, for some time."""
        key = self.own_key("raw")
        self.witness.removed(key, self.manager.remove_cache_entry(key))
        size = self.draws.randrange(1, 20_000)
        entry = self.manager.allocate_entry(key, size, ttl=self.draws.choice([None, 150.0]))
        self.witness.saw(key, entry)
        data = entry.data()
        assert not data.any()
        data[:] = self.number + 1
        assert (entry.data() == self.number + 1).all()
        if self.draws.random() < 0.2:
            self.hold(data)

    def remove(self) -> None:
        key = self.own_key(self.draws.choice(["talk", "raw"]))
        self.witness.removed(key, self.manager.remove_cache_entry(key))

    def work_pinned(self) -> None:
        """A pinned session stays, whatever the others need."""
        entry, life = self.open(self.own_key("talk"))
        self.manager.pin(life.key)
        self.read(entry, life.number)
        with suppress(PoolExhaustedError):
            self.press()
        assert self.manager.get_cache_entry(life.key) is entry
        self.manager.unpin(life.key)

    # -- what all threads do to the same sessions ------------------------------------------

    def share(self) -> None:
        """Append to, read or remove a session whose tokens all read the same."""
        session = self.draws.randrange(SESSIONS)
        key = CacheKey("shared", session)
        entry = self.manager.get_or_create_cache(key, SHARED_CONTEXT)
        self.witness.saw(key, entry)
        if entry.token_count < SHARED_CONTEXT - len(threading.enumerate()):
            entry.extend(*(np.full((2, 2, 1, 8), session, np.float32) for _ in range(2)))
        assert (entry.keys() == session).all()
        if self.draws.random() < 0.1:
            self.hold(entry.values())
        if self.draws.random() < 0.2:
            self.witness.removed(key, self.manager.remove_cache_entry(key))

    # -- the pool --------------------------------------------------------------------------

    def press(self) -> None:
        room = self.draws.choice([4, 8, 16])
        self.witness.evicted(self.manager.evict_lru_entries(self.manager.pool.capacity // room))

    def expire(self) -> None:
        self.witness.evicted(self.manager.evict_expired())

    def look(self) -> None:
        self.manager.emit_pool_snapshot()
        self.manager.check_integrity()

    # -- leases ----------------------------------------------------------------------------

    def hold(self, view: NDArray[Any]) -> None:
        self.held.append((view, view.copy()))

    def let_go(self) -> None:
        """End a lease, of whatever thread: it shows what it showed."""
        with suppress(IndexError):  # another thread was faster
            view, before = self.held.popleft()
            assert np.array_equal(view, before)


def pattern(number: int, start: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return keys and values that no other entry has, and no other token of this one."""
    shape = (LAYOUT.layers, LAYOUT.kv_heads, count, LAYOUT.head_dim)
    positions = np.arange(start, start + count, dtype=np.float32)[:, np.newaxis]
    base = np.float32(number * CONTEXTS[-1])  # exact below 2**24
    keys = np.broadcast_to(base + positions, shape)
    return keys, -keys
