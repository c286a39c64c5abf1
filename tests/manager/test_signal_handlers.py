"""What a signal handler may do to a manager, in the middle of any call of the manager."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Hashable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from kvpool.errors import KVPoolError, PoolClosedError
from kvpool.eviction.lru import LruPolicy
from kvpool.manager import KVCacheManager
from kvpool.receipts import MemorySink, Receipt
from kvpool.stats import MemoryStats, PoolStats
from tests.support.injection import Injection
from tests.support.interrupted import CALLS, InterruptedSessions, patience
from tests.support.sessions import key_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGUSR1")


class SignallingPolicy(LruPolicy):
    """Sends this process a signal while the manager, or its pool too, holds its lock."""

    def touch(self, key: Hashable, /) -> None:
        signal.raise_signal(signal.SIGUSR1)
        super().touch(key)

    def victims(self) -> Iterator[Hashable]:
        signal.raise_signal(signal.SIGUSR1)
        yield from super().victims()


def test_a_handler_may_call_remove_later(backend: str) -> None:
    policy = SignallingPolicy()
    handled: list[int] = []
    with KVCacheManager(1024, backend, policy=policy, receipts=False, elastic=False) as manager:

        def handler(number: int, _frame: FrameType | None) -> None:
            manager.remove_later(key_of(1))
            handled.append(number)

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            for number in (1, 2):
                manager.allocate_entry(key_of(number), 64)
            manager.get_cache_entry(key_of(2))
            assert len(handled) == 1
            assert manager.session_keys() == [key_of(2)]
            manager.allocate_entry(key_of(1), 64)
            manager.make_room(1024)
            assert len(handled) == 2
            manager.check_integrity()
            assert len(manager) == 0
        finally:
            signal.signal(signal.SIGUSR1, before)


class Questions:
    """What a handler asks of a manager and its pool; the answers have to make sense.

    Attributes
    ----------
    exact, inexact : int
        How often all figures were of one moment, and how often perhaps not.
    """

    def __init__(self, manager: KVCacheManager) -> None:
        self.manager = manager
        self.exact = self.inexact = 0

    def ask(self) -> None:
        for stats in (self.manager.get_stats(), self.manager.stats()):
            self._check(stats)
            assert stats.used_memory == stats.bytes_allocated - stats.bytes_freed
            assert 0 <= stats.used_memory <= stats.total_capacity
        memory = self.manager.pool.stats()
        self._check(memory)
        assert memory.used == memory.bytes_allocated - memory.bytes_freed
        assert memory.used + memory.free == memory.capacity
        assert 0 <= memory.largest_free <= memory.free

    def ask_while_open(self) -> None:
        with contextlib.suppress(PoolClosedError):
            self.ask()

    def _check(self, stats: PoolStats | MemoryStats) -> None:
        if stats.is_exact:
            self.exact += 1
        else:
            self.inexact += 1


@pytest.mark.parametrize("name", CALLS)
def test_a_handler_may_ask_for_figures_at_any_place_of_a_call(
    backend: str, name: str, tmp_path: Path
) -> None:
    elastic = backend != "numpy" and sys.platform == "linux"
    sessions = InterruptedSessions(backend, elastic, 1, tmp_path / "ledger.jsonl")
    questions = Questions(sessions.manager)
    place, step, missed = 0, 1, 0

    def ask() -> None:
        sessions.clock.now += 100  # all sessions expire, if a call looks
        questions.ask()

    while missed < 5:  # some calls end early, because there is no such session
        for other in ("create", "extend", "fork", "raw"):
            with contextlib.suppress(KVPoolError):
                CALLS[other](sessions)
            sessions.serial += 1
        place += step
        step += place // 30  # each of the first places, and some of the others
        injection = Injection(place, "interrupt", ask)
        with patience(name), contextlib.suppress(KVPoolError), injection:
            CALLS[name](sessions)
        sessions.held = {key: [] for key in sessions.manager.session_keys()}
        sessions.serial += 1
        missed = missed + 1 if injection.where is None else 0
        sessions.manager.check_integrity()
    sessions.close()
    if name != "remove later":
        assert questions.inexact
        assert questions.exact


@pytest.mark.no_cover
def test_a_handler_may_ask_for_figures_whenever_a_signal_comes(backend: str) -> None:
    with KVCacheManager(1 << 20, backend, receipts=MemorySink(10)) as manager:
        questions = Questions(manager)

        def handler(number: int, _frame: FrameType | None) -> None:
            del number
            questions.ask()
            signal.setitimer(signal.ITIMER_REAL, 0.0007)

        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            number = 0
            while questions.inexact < 50 or questions.exact < 50:
                number += 1
                entry = manager.allocate_entry(key_of(number), 1 << 14)
                view = entry.data()
                manager.get_cache_entry(key_of(number))
                manager.pool.is_leased(entry.block)
                del view
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        manager.check_integrity()


def test_figures_of_a_closed_manager_are_refused_in_the_middle_of_closing_it(
    backend: str, tmp_path: Path
) -> None:
    for place in range(1, 400, 3):
        sessions = InterruptedSessions(
            backend, elastic=False, seed=1, ledger=tmp_path / f"{place}.jsonl"
        )
        CALLS["create"](sessions)

        questions = Questions(sessions.manager)
        injection = Injection(place, "interrupt", questions.ask_while_open)
        with patience("close"), injection:
            sessions.manager.close()
        if injection.where is None:
            break


def test_figures_that_a_sink_asks_for_are_exact(backend: str) -> None:
    """A sink runs in the middle of a call, but without a lock: it waits for other threads."""
    asked: list[bool] = []

    class SlowPolicy(LruPolicy):
        def touch(self, key: Hashable, /) -> None:
            time.sleep(0.001)
            super().touch(key)

    class AskingSink(MemorySink):
        def emit(self, receipt: Receipt, /) -> None:
            super().emit(receipt)
            time.sleep(0.002)  # the other thread takes the lock
            asked.append(manager.get_stats().is_exact)

    with KVCacheManager(1 << 16, backend, receipts=AskingSink(10), policy=SlowPolicy()) as manager:
        manager.allocate_entry(key_of("used"), 64)
        stop = threading.Event()

        def use() -> None:
            while not stop.is_set():
                manager.get_cache_entry(key_of("used"))

        thread = threading.Thread(target=use)
        thread.start()
        try:
            for number in range(20):
                manager.allocate_entry(key_of(number), 64)
                manager.remove_cache_entry(key_of(number))
        finally:
            stop.set()
            thread.join()
        assert len(asked) == 20
        assert all(asked)
