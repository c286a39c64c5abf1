from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvpool.cache_key import CacheKey
from kvpool.manager._expiry import ExpiryQueue
from tests.support.sessions import key_of

numbers = st.integers(0, 7)


def due(queue: ExpiryQueue, now: float, deadlines: dict[CacheKey, float]) -> list[CacheKey]:
    return queue.due(now, deadlines.__getitem__)


def test_nobody_is_due_before_the_deadline_and_everybody_at_it() -> None:
    queue, deadlines = ExpiryQueue(), {key_of(1): 10.0, key_of(2): 5.0, key_of(3): 20.0}
    for key, deadline in deadlines.items():
        queue.add(key, deadline)
    assert due(queue, 4.999, deadlines) == []
    assert due(queue, 5.0, deadlines) == [key_of(2)]
    assert due(queue, 10.0, deadlines) == [key_of(2), key_of(1)]
    assert len(queue.watched) == 3


def test_who_is_due_stays_watched_until_it_is_discarded() -> None:
    queue, deadlines = ExpiryQueue(), {key_of(1): 1.0}
    queue.add(key_of(1), 1.0)
    for now in (1.0, 2.0, 99.0):
        assert due(queue, now, deadlines) == [key_of(1)]
    queue.discard(key_of(1))
    assert due(queue, 99.0, deadlines) == []
    assert key_of(1) not in queue.watched


def test_a_use_moves_the_deadline_on() -> None:
    queue, deadlines = ExpiryQueue(), {key_of(1): 1.0}
    queue.add(key_of(1), 1.0)
    deadlines[key_of(1)] = 7.0
    assert due(queue, 6.9, deadlines) == []
    assert due(queue, 7.0, deadlines) == [key_of(1)]


def test_the_deadlines_as_they_are_now_make_the_order() -> None:
    queue, deadlines = ExpiryQueue(), {key_of(1): 1.0, key_of(2): 2.0}
    for key, deadline in deadlines.items():
        queue.add(key, deadline)
    deadlines[key_of(1)] = 3.0
    assert due(queue, 5.0, deadlines) == [key_of(2), key_of(1)]
    assert due(queue, 5.0, deadlines) == [key_of(2), key_of(1)]


def test_a_new_session_of_a_key_has_nothing_of_the_old_one() -> None:
    queue = ExpiryQueue()
    queue.add(key_of(1), 1.0)
    queue.discard(key_of(1))
    queue.add(key_of(1), 100.0)
    assert due(queue, 50.0, {key_of(1): 100.0}) == []
    assert due(queue, 100.0, {key_of(1): 100.0}) == [key_of(1)]


def test_discarding_who_is_not_watched_does_nothing() -> None:
    queue = ExpiryQueue()
    queue.discard(key_of(1))
    assert len(queue.watched) == 0


def test_sessions_that_are_gone_leave_no_records() -> None:
    queue = ExpiryQueue()
    queue.add(key_of("stays"), 1e9)
    for number in range(10_000):
        queue.add(key_of(number), 1e9 + number)
        queue.discard(key_of(number))
    assert queue.record_count < 100
    assert due(queue, 1e9, {key_of("stays"): 1e9}) == [key_of("stays")]


class ExpiryMachine(RuleBasedStateMachine):
    """The queue against a dictionary of deadlines."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = ExpiryQueue()
        self.deadlines: dict[CacheKey, float] = {}
        self.added: dict[CacheKey, int] = {}  # to break ties as the queue does
        self.now = 0.0

    @rule(number=numbers, ttl=st.integers(1, 5))
    def add(self, number: int, ttl: int) -> None:
        key = key_of(number)
        if key not in self.deadlines:
            self.deadlines[key] = self.now + ttl
            self.added[key] = max(self.added.values(), default=0) + 1
            self.queue.add(key, self.deadlines[key])

    @rule(number=numbers)
    def discard(self, number: int) -> None:
        self.queue.discard(key_of(number))
        self.deadlines.pop(key_of(number), None)

    @rule(number=numbers, ttl=st.integers(1, 5))
    def use(self, number: int, ttl: int) -> None:
        if key_of(number) in self.deadlines:
            self.deadlines[key_of(number)] = max(self.deadlines[key_of(number)], self.now + ttl)

    @rule(seconds=st.integers(0, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def just_the_right_ones_are_due(self) -> None:
        passed = [key for key, deadline in self.deadlines.items() if deadline <= self.now]
        expected = sorted(passed, key=lambda key: (self.deadlines[key], self.added[key]))
        assert due(self.queue, self.now, self.deadlines) == expected
        assert len(self.queue.watched) == len(self.deadlines)
        assert all(key in self.queue.watched for key in self.deadlines)


TestExpiryStateful = ExpiryMachine.TestCase
TestExpiryStateful.settings = settings(max_examples=60, stateful_step_count=30)
