"""Threads that make every call of a manager for as long as it is wanted, and what they leave."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    CacheInUseError,
    IntegrityError,
    KVPoolError,
    LayerMismatchError,
    PoolClosedError,
)
from kvpool.layout import KVLayout
from kvpool.ledger import LedgerSink, verify
from kvpool.manager import KVCacheManager

__all__ = ["CALLS", "SoakRound", "Usage"]

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=32, dtype="float32")
CAPACITY = 4 << 20  # bytes; not enough for all sessions with all their tokens
THREADS = 8
FAMILIES = 12  # sessions that are forks of each other; their tokens are filled with one number
MEMBERS = 4
TTL = 0.05  # seconds
PAUSE = 0.002  # seconds between two calls of a thread, so that a ledger stays small
PATIENCE = 120  # seconds for a thread to end


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process uses of its system.

    Attributes
    ----------
    resident : int
        Bytes of its memory, without the pages of arenas and files.
    descriptors, mappings, threads : int
    """

    resident: int
    descriptors: int
    mappings: int
    threads: int

    @classmethod
    def now(cls) -> Usage:
        """Return what this process uses, on Linux, once the garbage is collected."""
        gc.collect()
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return cls(
            int(status["RssAnon"].split()[0]) << 10,
            len(list(Path("/proc/self/fd").iterdir())),
            len(Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()),
            int(status["Threads"]),
        )


@dataclass
class SoakRound:
    """One manager with a ledger, used by 8 threads, of which the main one is interrupted.

    Parameters
    ----------
    backend : str
    folder : Path
        For the ledger and the arena.
    seed : int
    """

    backend: str
    folder: Path
    seed: int
    calls: dict[str, int] = field(default_factory=dict)
    interrupts: int = 0
    problems: list[str] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Make calls for some seconds, check the books, close in the middle of calls, verify.

        What is wrong is noted in `problems`.
        """
        ledger = self.folder / f"{self.seed}.jsonl"
        sink = LedgerSink(ledger, checkpoint_every=200, rotate_at=2 << 20, fsync="never")
        manager = KVCacheManager(CAPACITY, self.backend, LAYOUT, receipts=[sink])
        users = [User(manager, self.seed * THREADS + one, self) for one in range(THREADS)]
        others = [threading.Thread(target=user.run, daemon=True) for user in users[1:]]
        for thread in others:
            thread.start()
        with interrupts(users[0]) as interrupted:
            users[0].run(time.monotonic() + seconds)
            self.interrupts += interrupted()
        with self.noting("at the end"):
            manager.check_integrity()
        manager.close()  # in the middle of the calls of the other threads
        for thread in others:
            thread.join(PATIENCE)
            if thread.is_alive():
                self.problems.append("a thread does not end")
        report = verify(ledger)
        if not report.ok or not report.is_sealed:
            self.problems.append(f"the ledger of seed {self.seed}: {report.findings}")
        for path in self.folder.iterdir():
            path.unlink()

    @contextlib.contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Note an error, which is a violation, and go on."""
        try:
            yield
        except Exception as error:
            self.problems.append(f"{what}, seed {self.seed}: {type(error).__name__}: {error}")


class User:
    """Makes random calls of a manager.

    Parameters
    ----------
    manager : KVCacheManager
    seed : int
    soak : SoakRound
        Is told of the calls, and of what is wrong.
    """

    def __init__(self, manager: KVCacheManager, seed: int, soak: SoakRound) -> None:
        self.manager = manager
        self.random = random.Random(seed)
        self.own = seed % THREADS
        self.is_interruptible = False
        self.interruptions = 0
        self._soak = soak

    def run(self, until: float = float("inf")) -> None:
        """Make calls until the manager is closed, or until a time of `time.monotonic`."""
        while time.monotonic() < until:
            name = self.random.choice(list(CALLS))
            try:
                self.is_interruptible = True
                CALLS[name](self)
                self.is_interruptible = False
                self._soak.calls[name] = self._soak.calls.get(name, 0) + 1
                time.sleep(PAUSE)
            except PoolClosedError:
                return
            except KeyboardInterrupt:
                self.interruptions += 1
            except KVPoolError as error:  # a session that is gone or full, a pool that is full
                if isinstance(error, IntegrityError):
                    self._soak.problems.append(f"{name}: {error}")
            except Exception as error:
                self._soak.problems.append(f"{name}: {type(error).__name__}: {error}")
            finally:
                self.is_interruptible = False

    def key(self) -> CacheKey:
        family = self.random.randrange(FAMILIES)
        return CacheKey(f"{family}", self.random.randrange(MEMBERS))

    def relative(self, key: CacheKey) -> CacheKey:
        return CacheKey(key.namespace, self.random.randrange(MEMBERS))

    def own_key(self) -> CacheKey:
        """Return the key of a session that no other thread uses."""
        return CacheKey("own", self.own)

    def entry(self) -> tuple[float, KVCacheEntry]:
        """Return an entry, and the number that all its tokens are filled with."""
        key = self.key()
        entry = self.manager.get_or_create_cache(
            key, self.random.choice([128, 512]), ttl=self.random.choice([None, TTL]), timeout=0.02
        )
        return float(key.namespace) + 1, entry

    def tokens(self, number: float, most: int = 48) -> NDArray[Any]:
        return filled(number, self.random.randint(1, most))


def filled(number: float, count: int) -> NDArray[Any]:
    return np.full((LAYOUT.layers, LAYOUT.kv_heads, count, LAYOUT.head_dim), number, "float32")


def _append(user: User) -> None:
    number, entry = user.entry()
    tokens = user.tokens(number)
    try:
        for layer in range(LAYOUT.layers):
            entry.append(layer, tokens[layer], tokens[layer])
    except LayerMismatchError:  # of a call that was interrupted, or by another thread
        entry.truncate(entry.token_count // 2)


def _extend(user: User) -> None:
    number, entry = user.entry()
    tokens = user.tokens(number)
    for _ in range(user.random.randrange(1, 5)):
        entry.extend(tokens, tokens)


def _update(user: User) -> None:
    key = user.key()
    tokens = user.tokens(float(key.namespace) + 1)
    user.manager.update_cache(key, tokens, tokens)


def _read(user: User) -> None:
    """Hold a view for a while, and check that it shows nothing of others."""
    number, entry = user.entry()
    view = entry.keys() if user.random.random() < 0.5 else entry.values()
    time.sleep(user.random.choice([0, 0, 0.01]))
    if not (view == number).all():
        raise AssertionError(f"a view of {number} shows {np.unique(view)}")


def _writing(user: User) -> None:
    number, entry = user.entry()
    for layer in range(LAYOUT.layers):
        with entry.writing(layer, 3) as (keys, values):
            keys[...] = values[...] = number


def _truncate(user: User) -> None:
    _, entry = user.entry()
    entry.truncate(entry.token_count // 2)
    entry.trim()


def _grow(user: User) -> None:
    user.manager.get_or_create_cache(user.key(), user.random.choice([600, 900]))


def _fork(user: User) -> None:
    key = user.key()
    user.manager.fork_cache_entry(key, user.relative(key), timeout=user.random.choice([None, 0.01]))


def _fork_of_entry(user: User) -> None:
    _, entry = user.entry()
    entry.fork(f"of thread {user.own}")
    user.manager.remove_cache_entry(CacheKey(user.key().namespace, f"of thread {user.own}"))


def _pin(user: User) -> None:
    key = user.own_key()
    user.manager.get_or_create_cache(key, 64)
    user.manager.pin(key)
    with contextlib.suppress(LookupError):
        while True:  # those of calls that were interrupted as well
            user.manager.unpin(key)


def _raw(user: User) -> None:
    key = CacheKey("raw", user.own)
    user.manager.remove_cache_entry(key)
    entry = user.manager.allocate_entry(key, user.random.choice([100, 1 << 16]), ttl=TTL)
    entry.data()[:] = 1


def _session(user: User) -> None:
    """Begin with the tokens that another session left, and leave some."""
    number = user.random.randrange(FAMILIES)
    ids = [number] * user.random.randint(1, 60)
    key = user.random.choice([None, CacheKey("open", user.own)])
    options: dict[str, Any] = {"model_id": str(number), "ttl": 20 * TTL}
    try:
        opened = user.manager.open_session(ids, key, timeout=0.02, **options)
    except CacheInUseError:  # a call was interrupted before it could close the session
        user.manager.remove_cache_entry(CacheKey("open", user.own))
        return
    entry, left = opened
    if not (entry.keys() == number + 1).all():
        raise AssertionError(f"the tokens of {number} are not its own")
    tokens = filled(number + 1, left)
    entry.extend(tokens, tokens)
    user.manager.close_session(entry, ids)


CALLS: dict[str, Callable[[User], object]] = {
    "append": _append,
    "extend": _extend,
    "extend again": _extend,
    "update": _update,
    "read": _read,
    "read again": _read,
    "writing": _writing,
    "truncate": _truncate,
    "grow": _grow,
    "fork": _fork,
    "fork of an entry": _fork_of_entry,
    "pin": _pin,
    "raw": _raw,
    "session": _session,
    "look": lambda user: user.manager.get_cache_entry(user.key()),
    "contains": lambda user: user.key() in user.manager,
    "keys": lambda user: (len(user.manager), user.manager.session_keys()),
    "remove": lambda user: user.manager.remove_cache_entry(user.key()),
    "remove later": lambda user: user.manager.remove_later(user.key()),
    "evict": lambda user: user.manager.evict_lru_entries(user.random.choice([1 << 16, 1 << 20])),
    "make room": lambda user: user.manager.make_room(CAPACITY // 2, timeout=0.01),
    "expire": lambda user: user.manager.evict_expired(),
    "snapshot": lambda user: user.manager.emit_pool_snapshot(),
    "stats": lambda user: (user.manager.get_stats(), user.manager.pool.stats()),
    "usage": lambda user: (user.manager.pool.usage(), user.manager.pool.ranges()),
    "integrity": lambda user: user.manager.check_integrity(),
}


@contextlib.contextmanager
def interrupts(user: User) -> Iterator[Callable[[], int]]:
    """Interrupt the calls that a user makes in the main thread, every few milliseconds.

    Yields
    ------
    callable
        Returns how many calls were interrupted.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        signal.setitimer(signal.ITIMER_REAL, user.random.uniform(0.001, 0.02))
        if user.is_interruptible:
            raise KeyboardInterrupt

    hook, sys.unraisablehook = sys.unraisablehook, id  # the end of a view may be interrupted
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        yield lambda: user.interruptions
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook
