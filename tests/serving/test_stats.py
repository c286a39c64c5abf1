"""The figures of an engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool.serving import Engine, EngineObserver, Histogram, Request, Usage
from kvpool.serving._stats import BOUNDS, Meter
from kvpool.tiers import TierStore
from tests.support.managers import MakeManager
from tests.support.sessions import Clock

MakeEngine = Callable[..., Engine]


@given(st.lists(st.floats(0, 100), max_size=20))
def test_a_histogram_counts_each_time_in_its_class(times: list[float]) -> None:
    meter = Meter(EngineObserver())
    for seconds in times:
        meter.token(seconds, is_first=False)
    made = meter.stats().between_tokens
    assert made.count == len(times)
    assert made.total == pytest.approx(sum(times))
    assert made.mean == pytest.approx(sum(times) / len(times) if times else 0)
    below = 0
    for bound, count in zip(made.bounds, made.counts, strict=False):
        below += count
        assert below == sum(seconds <= bound for seconds in times)
    assert made.counts[-1] == sum(seconds > BOUNDS[-1] for seconds in times)
    assert meter.stats().first_token == Histogram()


def test_the_pace_follows_the_ends() -> None:
    meter = Meter(EngineObserver())
    assert meter.pace == 1
    for _ in range(50):
        meter.accepted(7.0)
    for number in range(50):
        meter.finished("length", Usage(1), 10.0 + 3 * number)
    assert meter.pace == pytest.approx(3, abs=0.01)


def test_the_pace_is_not_that_of_an_engine_without_work() -> None:
    """Else the first clients after a quiet night would be told to come again in an hour."""
    meter = Meter(EngineObserver())
    meter.finished("length", Usage(1), 0.0)  # Ctrl-C came before it was counted as accepted
    for now in (10.0, 10.5, 36_000.0, 72_000.0):
        meter.accepted(now)
        meter.accepted(now)
        meter.finished("length", Usage(1), now + 2)
        meter.finished("stop", Usage(1), now + 4)
    assert meter.pace == pytest.approx(2, abs=0.5)


@pytest.mark.transformers
def test_what_an_engine_did(
    lab: Any, make_engine: MakeEngine, gate: Any, engine_clock: Clock
) -> None:
    def take_a_second(*_step: object) -> None:
        engine_clock.now += 1

    gate.before = take_a_second
    engine = make_engine(max_sessions=1)
    gate.shut()
    generations = [engine.submit(Request(tokens=[2, 3, 4], max_tokens=n)) for n in (2, 3)]
    gate.wait()
    stats = engine.stats()
    assert (stats.queued, stats.running, stats.accepted) == (1, 1, 2)
    assert stats.promised_bytes == 5 * lab.TOKEN
    assert "1 running, 1 waiting" in repr(engine)
    assert "3 tokens of prompt, 0 generated, going on" in repr(generations[0])
    gate.open()
    for generation in generations:
        generation.result(60)
    assert "2 generated, finished" in repr(generations[0])
    stats = engine.stats()
    assert (stats.queued, stats.running, stats.preempted, stats.promised_bytes) == (0, 0, 0, 0)
    assert (stats.prompt_tokens, stats.cached_tokens, stats.completion_tokens) == (6, 2, 5)
    assert stats.steps == len(gate.steps) == 5
    assert dict(stats.finished) == {
        "stop": 0, "length": 2, "cancelled": 0, "deadline": 0, "error": 0,
    }  # fmt: skip
    assert (stats.first_token.count, stats.between_tokens.count) == (2, 3)
    assert (stats.first_token.total, stats.between_tokens.total) == (1 + 3, 1 + 2)
    engine.close()
    assert repr(engine) == "<Engine: closed>"


@pytest.mark.transformers
def test_the_time_to_the_first_token_begins_with_the_request(
    make_engine: MakeEngine, gate: Any
) -> None:
    heard: list[float] = []

    class First(EngineObserver):
        def on_first_token(self, seconds: float) -> None:
            heard.append(seconds)

    engine = make_engine(max_sessions=1, observer=First())
    gate.shut()
    generations = [engine.submit(Request(tokens=[2], max_tokens=1)) for _ in range(2)]
    time.sleep(0.1)
    gate.open()
    for generation in generations:
        generation.result(60)
    assert min(heard) > 0.1
    assert engine.stats().first_token.total == pytest.approx(sum(heard))


@pytest.mark.transformers
def test_tiers_learn_how_fast_prompts_are_computed(
    make_engine: MakeEngine, make_manager: MakeManager
) -> None:
    with TierStore(["memory:"]) as store:
        engine = make_engine(make_manager(tiers=store))
        engine.submit(Request(tokens=list(range(2, 17)), max_tokens=3)).result(60)
        assert store.stats().compute_rate is None  # 15 tokens are too few to tell
        engine.submit(Request(tokens=list(range(20, 60)), max_tokens=3)).result(60)
        rate = store.stats().compute_rate
        assert rate is not None
        assert rate > 0
