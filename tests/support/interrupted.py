"""Random calls of a manager that are interrupted anywhere, and what must hold after each."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import KVPoolError
from kvpool.layout import KVLayout
from kvpool.ledger import LedgerSink, verify
from kvpool.manager import KVCacheManager
from tests.support.injection import Injection, Kind, error_of
from tests.support.sessions import Clock

__all__ = ["POOLS", "HungError", "InterruptedSessions"]

POOLS = [("numpy", False), ("mmap", False), ("mmap", True), ("ctypes", True)]

LAYOUT = KVLayout(layers=2, kv_heads=1, head_dim=64, dtype="float32")
CAPACITY = 1 << 20
PLACES = 260  # in most calls there are fewer places; then they end undisturbed
PATIENCE = 60  # seconds; a call that takes longer waits for a lock that nobody releases

Filled = list[float]  # what each token of a session is filled with


class HungError(Exception):
    """A call did not end."""


@dataclass
class InterruptedSessions:
    """One manager, what each of its sessions may hold, and random calls.

    Every token is filled with one number. After a call that was interrupted, the sessions that
    it names hold what they held before or what they would hold after; all others are as they
    were, unless the call may evict.
    """

    backend: str
    elastic: bool
    seed: int
    ledger: Path
    policy: str = "lru"
    interruptions: int = 0
    places: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.clock = Clock()
        self.manager = KVCacheManager(
            CAPACITY,
            self.backend,
            LAYOUT,
            ttl=50,
            policy=self.policy,
            clock=self.clock,
            receipts=LedgerSink(self.ledger),
            elastic=self.elastic,
        )
        self.held: dict[CacheKey, Filled] = {}
        self.serial = 0

    # -- calls ---------------------------------------------------------------------------

    def step(self) -> None:
        """Make one random call, interrupted at a random place, and check what is left."""
        name = self.random.choice(list(CALLS))
        kind: Kind = self.random.choice(["interrupt", "memory"])
        injection = Injection(self.random.randint(1, PLACES), kind)
        self.serial += 1
        self.clock.now += self.random.choice([0, 0, 0, 1, 20])
        call = CALLS[name]
        try:
            with patience(name), injection:
                call(self)
        except type(error_of(kind)):
            self.interruptions += 1
        except KVPoolError:
            pass
        if injection.where:
            self.places.add(injection.where)
        try:
            with patience(f"the check after {name}"):
                self.check()
        except BaseException as error:
            error.add_note(f"after {name}, {kind} at {injection.where}; seed {self.seed}")
            raise

    def some_key(self) -> CacheKey:
        """Return the key of a session, or a new one where there is none."""
        return self.random.choice(list(self.held)) if self.held else self.new_key()

    def new_key(self) -> CacheKey:
        return CacheKey("s", self.serial)

    def tokens(self, count: int, layers: tuple[int, ...] = (2,)) -> NDArray[Any]:
        return np.full((*layers, 1, count, 64), float(self.serial), "float32")

    def entry(self) -> KVCacheEntry | None:
        found = self.manager.get_cache_entry(self.some_key())
        return found if isinstance(found, KVCacheEntry) else None

    # -- what must hold ------------------------------------------------------------------

    def check(self) -> None:
        """Books agree, nothing is lost, and every session holds what it may hold."""
        manager = self.manager
        manager.check_integrity()
        stats = manager.pool.stats()
        keys = manager.session_keys()
        waiting = sum(not usage.is_live for usage in manager.pool.usage()) if self.elastic else 0
        assert stats.live_blocks == len(keys), f"{stats.live_blocks} blocks, {len(keys)} sessions"
        assert stats.parting_blocks == waiting
        for key in keys if manager.get_stats().pinned_entries else []:
            with contextlib.suppress(KVPoolError):  # a pin whose call was interrupted
                manager.unpin(key)
        self.held = {key: self.read(key) for key in keys}

    def read(self, key: CacheKey) -> Filled:
        """Return what the tokens of a session are filled with; each by one number."""
        entry = self.manager.get_cache_entry(key)
        if not isinstance(entry, KVCacheEntry):
            return []
        count = entry.token_count
        both = np.stack([entry.keys(), entry.values()])
        filled = both[0, 0, 0, :, 0]
        assert both.shape == (2, 2, 1, count, 64)
        assert (both == filled[:, None]).all(), f"{key} holds tokens of others"
        assert (filled != 0).all(), f"{key} counts tokens that were never written"
        before = self.held.get(key)
        if before is not None:
            common = min(len(before), count)
            assert filled[:common].tolist() == before[:common], f"tokens of {key} have changed"
        return [float(one) for one in filled]

    def close(self) -> None:
        """Let all go: nothing is charged any more, and the ledger verifies."""
        for key in self.manager.session_keys():
            self.manager.remove_cache_entry(key)
        assert self.manager.get_stats().used_memory == 0
        self.manager.close()
        report = verify(self.ledger)
        assert report.ok, f"seed {self.seed}: {report.findings}"


def _append(sessions: InterruptedSessions) -> None:
    entry = sessions.entry()
    if entry is not None:
        tokens = sessions.tokens(sessions.random.randint(1, 40), ())
        for layer in range(2):
            entry.append(layer, tokens, tokens)


def _extend(sessions: InterruptedSessions) -> None:
    entry = sessions.entry()
    if entry is not None:
        tokens = sessions.tokens(sessions.random.randint(1, 60))
        entry.extend(tokens, tokens)


def _truncate(sessions: InterruptedSessions) -> None:
    entry = sessions.entry()
    if entry is not None:
        entry.truncate(entry.token_count // 2)


def _view(sessions: InterruptedSessions) -> None:
    entry = sessions.entry()
    if entry is not None:
        assert entry.key(1)[:, :1].size >= 0


def _writing(sessions: InterruptedSessions) -> None:
    entry = sessions.entry()
    if entry is not None:
        count = sessions.random.randint(1, 40)
        for layer in range(2):
            with entry.writing(layer, count) as (keys, values):
                keys[...] = values[...] = sessions.serial


def _trim(sessions: InterruptedSessions) -> None:
    entry = sessions.entry()
    if entry is not None:
        entry.trim()


def _data(sessions: InterruptedSessions) -> None:
    entry = sessions.entry()
    if entry is not None:
        entry.data()


def _update(sessions: InterruptedSessions) -> None:
    tokens = sessions.tokens(sessions.random.randint(1, 60))
    sessions.manager.update_cache(sessions.some_key(), tokens, tokens)


def _wait(sessions: InterruptedSessions) -> None:
    """Wait for all bytes of the pool, a part of which a view keeps."""
    entry = sessions.entry()
    view = None if entry is None else entry.key(0)
    sessions.manager.make_room(CAPACITY, timeout=0.001)
    del view


def _pin(sessions: InterruptedSessions) -> None:
    key = sessions.some_key()
    try:
        sessions.manager.pin(key)
    finally:
        while sessions.manager.get_stats().pinned_entries:
            sessions.manager.unpin(key)


def _reuse(sessions: InterruptedSessions) -> None:
    """Open a session with tokens that others may hold, and close it."""
    draws = sessions.random
    tokens = [draws.randrange(2) for _ in range(draws.choice([5, 70, 200]))]
    key = draws.choice([None, None, sessions.new_key()])
    entry, left = sessions.manager.open_session(tokens, key, max_context_length=256)
    new = sessions.tokens(left)
    entry.extend(new, new)
    sessions.manager.close_session(entry, tokens)


CALLS: dict[str, Callable[[InterruptedSessions], object]] = {
    "create": lambda one: one.manager.create_cache_entry(one.new_key(), 256),
    "create small": lambda one: one.manager.create_cache_entry(one.new_key(), 64, ttl=30),
    "raw": lambda one: one.manager.allocate_entry(one.new_key(), 4096),
    "append": _append,
    "extend": _extend,
    "extend again": _extend,
    "truncate": _truncate,
    "view": _view,
    "fork": lambda one: one.manager.fork_cache_entry(one.some_key(), one.new_key()),
    "grow": lambda one: one.manager.get_or_create_cache(
        one.some_key(), one.random.choice([64, 300, 600])
    ),
    "remove": lambda one: one.manager.remove_cache_entry(one.some_key()),
    "evict": lambda one: one.manager.evict_lru_entries(one.random.choice([1 << 14, 1 << 18])),
    "expire": lambda one: one.manager.evict_expired(),
    "writing": _writing,
    "trim": _trim,
    "data": _data,
    "update": _update,
    "reuse": _reuse,
    "reuse again": _reuse,
    "get or create": lambda one: one.manager.get_or_create_cache(one.new_key(), 64),
    "wait": lambda one: one.manager.make_room(CAPACITY, timeout=0.001),
    "wait for a view": _wait,
    "pin": _pin,
    "remove later": lambda one: one.manager.remove_later(one.some_key()),
    "look": lambda one: (len(one.manager), one.some_key() in one.manager),
    "integrity": lambda one: one.manager.check_integrity(),
    "snapshot": lambda one: one.manager.emit_pool_snapshot(),
    "stats": lambda one: one.manager.get_stats(),
}


@contextlib.contextmanager
def patience(what: str) -> Iterator[None]:
    """Raise HungError in the main thread where a call does not end."""

    def hung(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise HungError(what)

    if sys.platform == "win32":
        yield
        return
    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
