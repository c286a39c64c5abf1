"""`Breaker`: the contract of tiers, and what it makes of a tier that fails or hangs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from kvpool.errors import InvalidTierError, TierError
from kvpool.testing import TierSuite
from kvpool.tiers import Breaker, BreakerState, Item, Tier, TierStats, _helpers
from kvpool.tiers.memory import MemoryTier
from tests.support.sessions import Clock


class TestBreaker(TierSuite):
    is_durable = False
    evicts_oldest = True

    def create_tier(self) -> Tier:
        return Breaker(MemoryTier(), 30.0)

    def create_small(self) -> Tier:
        return Breaker(MemoryTier(4 << 20), 30.0)


class TestBreakerInTheThreadOfTheCaller(TierSuite):
    is_durable = False

    def create_tier(self) -> Tier:
        return Breaker(MemoryTier(), None)


class FaultyTier(MemoryTier):
    """Calls `fault` before each call of the store."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Callable[[], object] = lambda: None
        self.calls = 0

    def _before(self) -> None:
        self.calls += 1
        self.fault()

    @contextmanager
    def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
        self._before()
        with super().read(keys) as values:
            yield values

    def write(self, items: Sequence[Item], /) -> int:
        self._before()
        return super().write(items)

    def contains(self, keys: Sequence[bytes], /) -> int:
        self._before()
        return super().contains(keys)

    def remove(self, keys: Sequence[bytes], /) -> int:
        self._before()
        return super().remove(keys)

    def keys(self, prefix: bytes = b"", /) -> Iterator[bytes]:
        self._before()
        return super().keys(prefix)

    def stats(self) -> TierStats:
        self._before()
        return super().stats()


@pytest.fixture
def tier() -> FaultyTier:
    return FaultyTier()


@pytest.fixture
def breaker(tier: FaultyTier, clock: Clock) -> Iterator[Breaker]:
    with Breaker(tier, 30.0, failures=3, retry_after=1.0, clock=clock) as breaker:
        yield breaker


def fail(error: BaseException) -> Callable[[], object]:
    def fault() -> None:
        raise error

    return fault


def state_of(breaker: Breaker) -> BreakerState:
    return breaker.state


def values_at(tier: Tier, *keys: bytes) -> list[Any]:
    with tier.read(keys) as views:
        return [None if view is None else bytes(view) for view in views]


@pytest.mark.parametrize("error", [TierError("out of order"), ValueError("a bug"), OSError(5, "")])
def test_an_error_is_a_miss(breaker: Breaker, tier: FaultyTier, error: Exception) -> None:
    breaker.write([(b"a", [b"value"])])
    tier.fault = fail(error)
    assert values_at(breaker, b"a", b"b") == [None, None]
    assert breaker.write([(b"b", [b"value"])]) == 0
    tier.fault = lambda: None
    assert values_at(breaker, b"a", b"b") == [b"value", None]
    assert breaker.figures.errors == 2
    assert state_of(breaker) is BreakerState.CLOSED


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_a_tier_raises_in_a_thread_is_an_error_whatever_it_is(
    breaker: Breaker, tier: FaultyTier, error: BaseException
) -> None:
    tier.fault = fail(error)
    assert values_at(breaker, b"a") == [None]
    with pytest.raises(TierError, match=f"raised {type(error).__name__}"):
        breaker.stats()
    assert breaker.figures.errors == 2


def test_a_timeout_of_the_store_itself_is_an_error_like_others(tier: FaultyTier) -> None:
    tier.fault = fail(TimeoutError("the socket"))
    for budget in (None, 30.0):
        breaker = Breaker(tier, budget)
        with pytest.raises(TierError, match="count values: the socket"):
            breaker.stats()
        assert breaker.figures == (1, 0, 0)


@pytest.mark.parametrize("answer", [-1, -2, 2, None, "1", 0.5])
def test_a_count_that_cannot_be_is_an_error_of_the_tier(
    monkeypatch: pytest.MonkeyPatch, breaker: Breaker, tier: FaultyTier, answer: Any
) -> None:
    for name in ("write", "contains", "remove"):
        monkeypatch.setattr(tier, name, lambda _items: answer)
    assert breaker.write([(b"a", [b"value"])]) == 0
    assert breaker.contains([b"a"]) == 0
    with pytest.raises(TierError, match="cannot remove values: the tier counted"):
        breaker.remove([b"a"])
    assert breaker.figures.errors == 3


def test_what_is_logged_may_ask_the_breaker(
    breaker: Breaker, tier: FaultyTier, clock: Clock
) -> None:
    """A handler of the log runs without the lock of the breaker."""
    waited: list[bool] = []

    class Handler(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            thread = threading.Thread(target=lambda: breaker.figures)
            thread.start()
            thread.join(60)
            waited.append(thread.is_alive())

    log, handler = logging.getLogger("kvpool.tiers"), Handler()
    log.addHandler(handler)
    try:
        tier.fault = fail(TierError("out of order"))
        for _ in range(3):
            breaker.contains([b"a"])
        tier.fault = lambda: None
        clock.now += 1
        breaker.contains([b"a"])
    finally:
        log.removeHandler(handler)
    assert waited
    assert not any(waited)


def test_threads_that_rest_end(monkeypatch: pytest.MonkeyPatch, tier: FaultyTier) -> None:
    """Also those of a breaker that was not closed; a later call gets a new one."""
    monkeypatch.setattr(_helpers, "_REST", 0.05)
    before = set(threading.enumerate())
    breaker = Breaker(tier, 30.0)
    breaker.write([(b"a", [b"value"])])
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()
    assert breaker.contains([b"a"]) == 1


def test_a_caller_that_is_held_up_loses_no_call(
    monkeypatch: pytest.MonkeyPatch, tier: FaultyTier
) -> None:
    """The machine may stop it for longer than a thread waits for a call."""
    monkeypatch.setattr(_helpers, "_REST", 0.01)
    start = threading.Thread.start

    def start_and_be_held_up(thread: threading.Thread) -> None:
        start(thread)
        thread.join(0.2)

    monkeypatch.setattr(threading.Thread, "start", start_and_be_held_up)
    breaker = Breaker(tier, 30.0)
    assert breaker.write([(b"a", [b"value"])]) == 1
    assert breaker.contains([b"a"]) == 1


def test_a_thread_that_does_not_start_leaves_no_call_under_way(
    monkeypatch: pytest.MonkeyPatch, tier: FaultyTier, clock: Clock
) -> None:
    breaker = Breaker(tier, 30.0, failures=1000, clock=clock)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(40):
            assert breaker.contains([b"a"]) == 0
    assert breaker.figures == (40, 0, 0)
    assert breaker.write([(b"a", [b"value"])]) == 1


def test_what_cannot_be_a_miss_is_an_error(breaker: Breaker, tier: FaultyTier) -> None:
    tier.fault = fail(TierError("out of order"))
    with pytest.raises(TierError, match="count values: out of order"):
        breaker.stats()
    with pytest.raises(TierError, match="list keys: out of order"):
        list(breaker.keys())
    with pytest.raises(TierError, match="remove values: out of order"):
        breaker.remove([b"a"])
    assert breaker.contains([b"a"]) == 0
    with pytest.raises(TierError, match="cannot remove values: the tier"):
        breaker.remove([b"a"])  # not asked any more


def test_failures_in_a_row_open_it(breaker: Breaker, tier: FaultyTier) -> None:
    tier.fault = fail(TierError("out of order"))
    breaker.contains([b"a"])
    breaker.contains([b"a"])
    tier.fault = lambda: None
    breaker.contains([b"a"])  # not in a row
    tier.fault = fail(TierError("out of order"))
    breaker.contains([b"a"])
    breaker.contains([b"a"])
    assert state_of(breaker) is BreakerState.CLOSED
    breaker.contains([b"a"])
    assert state_of(breaker) is BreakerState.OPEN
    asked = tier.calls
    assert values_at(breaker, b"a") == [None]
    assert breaker.write([(b"a", [b"value"])]) == 0
    with pytest.raises(TierError, match="does not answer"):
        breaker.stats()
    assert tier.calls == asked
    assert breaker.figures == (5, 0, 3)


def test_one_call_looks_whether_it_answers_again(
    breaker: Breaker, tier: FaultyTier, clock: Clock
) -> None:
    tier.fault = fail(TierError("out of order"))
    for _ in range(3):
        breaker.contains([b"a"])
    waits = []
    for _ in range(8):
        before, asked = clock.now, tier.calls
        while tier.calls == asked:
            clock.now += 0.5
            breaker.contains([b"a"])
            assert state_of(breaker) is BreakerState.OPEN
        waits.append(clock.now - before)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    tier.fault = lambda: None
    clock.now += 60
    assert breaker.write([(b"a", [b"value"])]) == 1
    assert state_of(breaker) is BreakerState.CLOSED
    tier.fault = fail(TierError("again"))
    for _ in range(3):
        breaker.contains([b"a"])
    clock.now += 1  # the wait begins anew
    tier.fault = lambda: None
    assert breaker.contains([b"a"]) == 1


def test_while_one_call_looks_no_other_is_made(
    breaker: Breaker, tier: FaultyTier, clock: Clock
) -> None:
    tier.fault = fail(TierError("out of order"))
    for _ in range(3):
        breaker.contains([b"a"])
    clock.now += 1
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go_on.wait(60)

    tier.fault = wait
    probe = threading.Thread(target=breaker.contains, args=([b"a"],))
    probe.start()
    assert begun.wait(60)
    assert state_of(breaker) is BreakerState.HALF_OPEN
    asked = tier.calls
    assert values_at(breaker, b"a") == [None]
    assert tier.calls == asked
    go_on.set()
    probe.join(60)
    assert state_of(breaker) is BreakerState.CLOSED


def test_an_interrupt_of_the_probe_lets_the_next_call_probe(tier: FaultyTier, clock: Clock) -> None:
    breaker = Breaker(tier, None, failures=1, clock=clock)
    tier.fault = fail(TierError("out of order"))
    breaker.contains([b"a"])
    clock.now += 1
    tier.fault = fail(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        breaker.contains([b"a"])
    tier.fault = lambda: None
    assert breaker.write([(b"a", [b"value"])]) == 1
    assert state_of(breaker) is BreakerState.CLOSED


def test_a_call_that_hangs_is_a_miss(tier: FaultyTier) -> None:
    breaker = Breaker(tier, 0.05, failures=2)
    breaker.write([(b"a", [b"value"])])
    go_on = threading.Event()
    tier.fault = lambda: go_on.wait(60)
    assert values_at(breaker, b"a") == [None]
    assert breaker.contains([b"a"]) == 0
    assert state_of(breaker) is BreakerState.OPEN
    assert breaker.figures.timeouts == 2
    go_on.set()


def test_values_that_come_too_late_are_released() -> None:
    """Otherwise the store would keep what it shows, for ever."""
    left, go_on = threading.Event(), threading.Event()

    class Watched(FaultyTier):
        @contextmanager
        def read(self, keys: Sequence[bytes], /) -> Iterator[Sequence[memoryview | None]]:
            assert go_on.wait(60)
            try:
                with super().read(keys) as values:
                    yield values
            finally:
                left.set()

    breaker = Breaker(Watched(), 0.05)
    assert values_at(breaker, b"a") == [None]
    assert not left.is_set()
    go_on.set()
    assert left.wait(60)


def test_calls_that_hang_are_limited(tier: FaultyTier, clock: Clock) -> None:
    breaker = Breaker(tier, 0.01, failures=1000, clock=clock)
    begun, go_on = threading.Semaphore(0), threading.Event()

    def hang() -> None:
        begun.release()
        assert go_on.wait(60)

    tier.fault = hang
    before = set(threading.enumerate())
    for _ in range(50):
        assert breaker.contains([b"a"]) == 0
    hanging = set(threading.enumerate()) - before
    assert len(hanging) == 32
    assert breaker.figures.timeouts == 50
    for _ in hanging:  # the caller has given up some before they began
        assert begun.acquire(timeout=60)
    assert tier.calls == 32
    go_on.set()


def test_closing_does_not_wait_for_a_call_that_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on = threading.Event()

    class Stuck(FaultyTier):
        def close(self) -> None:
            assert go_on.wait(60)
            super().close()

    breaker = Breaker(Stuck(), 0.01)
    breaker.close()
    assert "does not close" in caplog.text
    go_on.set()
    with pytest.raises(TierError, match="closed"):
        breaker.contains([b"a"])


def test_mistakes_of_the_caller_say_nothing_about_the_tier(breaker: Breaker) -> None:
    for _ in range(10):
        with pytest.raises(InvalidTierError):
            breaker.contains([b""])
    assert state_of(breaker) is BreakerState.CLOSED
    assert breaker.figures.errors == 0


def test_each_change_of_state_is_one_line(
    breaker: Breaker, tier: FaultyTier, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kvpool.tiers")
    tier.fault = fail(TierError("out of order"))
    for _ in range(10):
        breaker.contains([b"a"])
    clock.now += 1
    breaker.contains([b"a"])
    clock.now += 2
    tier.fault = lambda: None
    for _ in range(10):
        breaker.contains([b"a"])
    said = "tier memory:: does not answer (out of order); it is not asked for {} s, and its chunks "
    assert [record.getMessage() for record in caplog.records] == [
        f"{said}count as missing".format(1),
        "tier memory:: one call is made to see whether it answers",
        f"{said}count as missing".format(2),
        "tier memory:: one call is made to see whether it answers",
        "tier memory:: answers again",
    ]


@pytest.mark.parametrize("budget", [0, -1, float("inf"), float("nan")])
def test_a_budget_that_is_not_a_time_is_refused(budget: float) -> None:
    with pytest.raises(InvalidTierError, match="budget"):
        Breaker(MemoryTier(), budget)


def test_a_write_that_takes_long_excuses_no_late_call() -> None:
    tier = FaultyTier()
    with Breaker(tier, 0.05) as breaker:
        tier.fault = lambda: time.sleep(0.2)
        for _ in range(2):
            breaker.contains([b"a"])
            assert breaker.count(lambda one: one.write([(b"a", [b"value"])]), 1, 30.0) == 1
        breaker.contains([b"a"])
        assert state_of(breaker) is BreakerState.OPEN


def test_a_probe_that_takes_long_closes_it_until_the_next_late_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "kvpool.tiers")
    tier, clock = FaultyTier(), Clock()
    with Breaker(tier, 0.05, clock=clock) as breaker:
        tier.fault = lambda: time.sleep(0.2)
        for _ in range(3):
            breaker.contains([b"a"])
        for wait in (1, 2, 4):
            assert state_of(breaker) is BreakerState.OPEN
            assert f"not asked for {wait} s" in caplog.records[-1].getMessage()
            clock.now += wait
            assert breaker.count(lambda one: one.write([(b"a", [b"value"])]), 1, 30.0) == 1
            assert state_of(breaker) is BreakerState.CLOSED
            breaker.contains([b"a"])
        tier.fault = lambda: None
        clock.now += 8
        for _ in range(100):
            if breaker.contains([b"a"]) == 1:
                break
            clock.now += 60  # on a busy machine an answer may be late as well
        assert state_of(breaker) is BreakerState.CLOSED
        tier.fault = lambda: time.sleep(0.2)
        for _ in range(3):
            assert state_of(breaker) is BreakerState.CLOSED
            breaker.contains([b"a"])
        assert "not asked for 1 s" in caplog.records[-1].getMessage()
