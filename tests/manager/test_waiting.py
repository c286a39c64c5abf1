"""Calls with a timeout: they wait while the pool is full, and for nothing else."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from types import FrameType

import pytest

from kvpool.errors import (
    AddressSpaceExhaustedError,
    ForkedProcessError,
    PoolClosedError,
    PoolExhaustedError,
)
from kvpool.eviction.lru import LruPolicy
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from tests.support.children import PATIENCE, needs_fork
from tests.support.managers import entry_of
from tests.support.marks import needs_pages
from tests.support.sessions import key_of, random_tokens

LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=64, dtype="float32")  # 512 bytes a token
CONTEXT = 16
NBYTES = LAYOUT.geometry(CONTEXT).nbytes

Call = Callable[[KVCacheManager, float], object]

CALLS: dict[str, Call] = {
    "get_or_create_cache": lambda m, t: m.get_or_create_cache(key_of("new"), CONTEXT, timeout=t),
    "get_or_create_cache, growth": lambda m, t: m.get_or_create_cache(
        key_of(0), CONTEXT + 1, timeout=t
    ),
    "create_cache_entry": lambda m, t: m.create_cache_entry(key_of("new"), CONTEXT, timeout=t),
    "fork_cache_entry": lambda m, t: m.fork_cache_entry(key_of(0), key_of("new"), timeout=t),
    "open_session": lambda m, t: m.open_session([1], max_context_length=CONTEXT, timeout=t),
    "allocate_entry": lambda m, t: m.allocate_entry(key_of("new"), NBYTES, timeout=t),
    "make_room": lambda m, t: m.make_room(NBYTES, timeout=t),
    "evict_lru_entries": lambda m, t: m.evict_lru_entries(NBYTES, timeout=t),
}


class CountingPolicy(LruPolicy):
    """Counts how often a call looked for room in vain."""

    def __init__(self) -> None:
        super().__init__()
        self.tries = 0

    def victims(self) -> Iterator[Hashable]:
        yield from super().victims()
        self.tries += 1


class Waiting:
    """A thread whose call waits for room in a manager.

    Parameters
    ----------
    manager : KVCacheManager
    policy : CountingPolicy
        Of the manager.
    call : callable
        Is made with infinite patience.
    """

    def __init__(self, manager: KVCacheManager, policy: CountingPolicy, call: Call) -> None:
        self.outcome: object = None
        self.error: Exception | None = None
        self._manager, self._call = manager, call
        self._thread = threading.Thread(target=self._run, daemon=True)
        before = policy.tries
        self._thread.start()
        limit = time.monotonic() + PATIENCE
        while policy.tries < before + 2 and self._thread.is_alive():
            assert time.monotonic() < limit, "the call does not try again"
            time.sleep(0.001)
        assert self._thread.is_alive(), f"the call did not wait: {self.error}, {self.outcome}"

    def _run(self) -> None:
        try:
            self.outcome = self._call(self._manager, math.inf)
        except Exception as error:
            self.error = error

    def end(self) -> object:
        """Wait for the end of the call; return what it returned, or raise what it raised."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the call still waits"
        if self.error is not None:
            raise self.error
        return self.outcome


@pytest.fixture
def woken_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls that wait try again only when they are woken."""
    monkeypatch.setattr("kvpool.manager._waiting.POLL", 3600.0)


@pytest.fixture
def policy() -> CountingPolicy:
    return CountingPolicy()


@pytest.fixture
def manager(backend: str, policy: CountingPolicy) -> Iterator[KVCacheManager]:
    """A manager that three pinned sessions fill."""
    with KVCacheManager(
        3 * NBYTES, backend, LAYOUT, policy=policy, receipts=False, elastic=False
    ) as manager:
        for number in range(3):
            manager.create_cache_entry(key_of(number), CONTEXT)
            manager.pin(key_of(number))
        yield manager
        with suppress(PoolClosedError):
            manager.check_integrity()


RELEASES: dict[str, Callable[[KVCacheManager], object]] = {
    "remove_cache_entry": lambda manager: manager.remove_cache_entry(key_of(1)),
    "remove_later": lambda manager: manager.remove_later(key_of(1)),
    "unpin": lambda manager: manager.unpin(key_of(1)),
}


@pytest.mark.usefixtures("woken_only")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("release", RELEASES)
def test_a_call_waits_until_an_entry_may_go(
    manager: KVCacheManager, policy: CountingPolicy, name: str, release: str
) -> None:
    if name.endswith("growth"):  # the new block is larger than the one that goes
        manager.unpin(key_of(2))
    waiting = Waiting(manager, policy, CALLS[name])
    assert len(manager) == 3  # it holds no lock
    RELEASES[release](manager)
    waiting.end()
    assert key_of(1) not in manager


@pytest.mark.usefixtures("woken_only")
def test_a_call_waits_until_a_session_is_closed(backend: str, policy: CountingPolicy) -> None:
    with KVCacheManager(NBYTES, backend, LAYOUT, policy=policy, elastic=False) as manager:
        opened = manager.open_session([1, 2], max_context_length=CONTEXT)
        waiting = Waiting(manager, policy, CALLS["open_session"])
        manager.close_session(opened.entry, [1, 2])
        waiting.end()


def test_a_call_waits_until_a_view_ends(manager: KVCacheManager, policy: CountingPolicy) -> None:
    view = entry_of(manager, key_of(1)).data()
    manager.unpin(key_of(1))
    waiting = Waiting(manager, policy, CALLS["get_or_create_cache"])
    del view
    assert waiting.end() is manager.get_cache_entry(key_of("new"))
    stats = manager.get_stats()
    assert (stats.misses, stats.evictions) == (1, 1)


def test_a_call_waits_until_the_view_of_an_entry_ends_that_was_removed(
    manager: KVCacheManager, policy: CountingPolicy
) -> None:
    view = entry_of(manager, key_of(1)).data()
    manager.remove_cache_entry(key_of(1))
    waiting = Waiting(manager, policy, CALLS["get_or_create_cache"])
    del view
    assert waiting.end() is manager.get_cache_entry(key_of("new"))


@needs_pages
def test_a_call_waits_until_an_entry_is_truncated(policy: CountingPolicy) -> None:
    page = 4096
    with KVCacheManager(4 * page, "mmap", LAYOUT, policy=policy, elastic=True) as manager:
        entry = manager.create_cache_entry(key_of(0), 64)
        manager.pin(key_of(0))
        entry.extend(*random_tokens(LAYOUT, 32))
        assert manager.get_stats().used_memory == 4 * page
        waiting = Waiting(manager, policy, lambda one, t: one.make_room(2 * page, timeout=t))
        entry.truncate(16)
        assert waiting.end() == []


@needs_pages
def test_a_call_waits_for_addresses(policy: CountingPolicy) -> None:
    """A reservation may be larger than the budget, but not than the address space."""
    budget, nbytes = 1 << 14, LAYOUT.geometry(128, 4096).nbytes
    assert nbytes > budget
    with KVCacheManager(
        budget, "mmap", LAYOUT, policy=policy, elastic=True, address_space=nbytes
    ) as manager:
        manager.create_cache_entry(key_of(0), 128)
        manager.pin(key_of(0))
        waiting = Waiting(
            manager, policy, lambda one, t: one.get_or_create_cache(key_of(1), 128, timeout=t)
        )
        manager.unpin(key_of(0))
        assert waiting.end() is manager.get_cache_entry(key_of(1))
        with pytest.raises(AddressSpaceExhaustedError):
            manager.get_or_create_cache(key_of(2), 129, timeout=math.inf)


@pytest.mark.parametrize("name", CALLS)
def test_at_the_deadline_it_raises_what_the_last_try_raised(
    manager: KVCacheManager, policy: CountingPolicy, name: str
) -> None:
    before = manager.get_stats(), policy.tries
    with pytest.raises(PoolExhaustedError, match="pins keep") as caught:
        CALLS[name](manager, 0.05)
    held = caught.value.pinned + caught.value.leased  # a session that grows is leased meanwhile
    assert (held, caught.value.capacity) == (3 * NBYTES, 3 * NBYTES)
    assert manager.get_stats() == before[0]
    assert 2 <= policy.tries - before[1] <= 13  # it is not busy while it waits


@pytest.mark.parametrize("timeout", [None, 0, 0.0])
def test_without_a_timeout_there_is_one_try(
    manager: KVCacheManager, policy: CountingPolicy, timeout: float | None
) -> None:
    with pytest.raises(PoolExhaustedError):
        manager.get_or_create_cache(key_of("new"), CONTEXT, timeout=timeout)
    assert policy.tries == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.get_or_create_cache(key_of("new"), 4 * CONTEXT, timeout=math.inf),
        lambda m: m.allocate_entry(key_of("new"), 3 * NBYTES + 1, timeout=math.inf),
        lambda m: m.make_room(3 * NBYTES + 1, timeout=math.inf),
    ],
)
def test_what_is_larger_than_the_pool_does_not_wait(
    manager: KVCacheManager, call: Callable[[KVCacheManager], object]
) -> None:
    with pytest.raises(PoolExhaustedError) as caught:
        call(manager)
    assert caught.value.requested > caught.value.capacity


def test_a_session_that_is_there_does_not_wait(manager: KVCacheManager) -> None:
    found = manager.get_or_create_cache(key_of(0), CONTEXT, timeout=math.inf)
    assert found is manager.get_cache_entry(key_of(0))


@pytest.mark.usefixtures("woken_only")
def test_closing_the_manager_ends_it(manager: KVCacheManager, policy: CountingPolicy) -> None:
    waiting = [Waiting(manager, policy, CALLS["make_room"]) for _ in range(3)]
    manager.close()
    for one in waiting:
        with pytest.raises(PoolClosedError):
            one.end()


def wait_for_alarm(manager: KVCacheManager, seconds: float) -> None:
    """Wait for room that never comes, until the alarm.

    A busy machine may let it come before the call waits, but never before this function begins.
    """
    assert sys.platform != "win32"
    signal.setitimer(signal.ITIMER_REAL, seconds)
    manager.get_or_create_cache(key_of("new"), CONTEXT, timeout=math.inf)


@pytest.mark.no_cover
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer")
def test_an_interrupt_ends_it(manager: KVCacheManager) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(20):
            with pytest.raises(KeyboardInterrupt):
                wait_for_alarm(manager, 0.01)
            manager.check_integrity()
            assert len(manager) == 3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.no_cover
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timer")
def test_a_signal_handler_that_takes_long_does_not_keep_it(manager: KVCacheManager) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.05))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(PoolExhaustedError):
            manager.get_or_create_cache(key_of("new"), CONTEXT, timeout=0.1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@needs_fork
@pytest.mark.no_cover
def test_it_ends_in_a_child_that_was_forked_while_it_waited(manager: KVCacheManager) -> None:
    """A signal handler forks; the child comes back into the call."""
    assert sys.platform != "win32"
    parent = os.getpid()
    children: list[int] = []

    class StopWaitingError(Exception):
        pass

    def fork(number: int, frame: FrameType | None) -> None:
        del number, frame
        child = os.fork()
        if child:
            children.append(child)
            raise StopWaitingError
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)

    before = signal.signal(signal.SIGALRM, fork)
    outcome = 1
    try:
        with suppress(StopWaitingError):
            wait_for_alarm(manager, 0.03)
    except ForkedProcessError:
        outcome = 0
    finally:
        if os.getpid() != parent:
            os._exit(outcome)
        signal.signal(signal.SIGALRM, before)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def test_threads_share_what_is_too_small_for_all_of_them(backend: str) -> None:
    """Each thread holds a view for a while; none of them ever sees a full pool."""
    with KVCacheManager(2 * NBYTES, backend, LAYOUT, receipts=False, elastic=False) as manager:
        errors: list[Exception] = []

        def use(thread: int) -> None:
            try:
                for number in range(10):
                    key = key_of(f"{thread}/{number}")
                    entry = manager.get_or_create_cache(key, CONTEXT, timeout=math.inf)
                    with suppress(LookupError):  # another thread had it evicted
                        view = entry.data()
                        view[:] = thread
                        time.sleep(0)
                        assert (view == thread).all()
                        del view
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=use, args=[one], daemon=True) for one in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert not errors
        manager.check_integrity()
        assert manager.get_stats().allocations == 60
