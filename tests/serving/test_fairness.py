"""Requests are served in turn, and none is held up by another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvpool.serving import Engine, Generation, QueueFullError, Request

pytestmark = pytest.mark.transformers

MakeEngine = Callable[..., Engine]


def fill(engine: Engine, gate: Any, **options: Any) -> Generation:
    """Have a request hold the engine up in its first step."""
    gate.shut()
    wanted: dict[str, Any] = {"tokens": [9], "max_tokens": 1, "salt": "another"} | options
    generation = engine.submit(Request(**wanted))
    gate.wait()
    return generation


def test_a_long_prompt_is_read_beside_the_answers(
    lab: Any, make_engine: MakeEngine, gate: Any
) -> None:
    engine = make_engine(prefill_tokens=16)
    fill(engine, gate)
    long = engine.submit(Request(tokens=[5, 6, 7, 8] * 25, max_tokens=2))
    short = engine.submit(Request(tokens=[9, 8, 7], max_tokens=4))
    gate.open()
    assert short.result(60).token_ids == lab.alone([9, 8, 7], 4)
    assert long.result(60).token_ids == lab.alone([5, 6, 7, 8] * 25, 2)
    assert gate.steps[1:6] == [[13, 3], [16, 1], [16, 1], [16, 1], [16]]
    assert [sum(step) for step in gate.steps[6:]] == [16, 7, 1]


def test_two_prompts_are_read_side_by_side(make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine(prefill_tokens=10)
    fill(engine, gate)
    generations = [engine.submit(Request(tokens=[n] * 12, max_tokens=1)) for n in (4, 5)]
    gate.open()
    for generation in generations:
        generation.result(60)
    assert gate.steps[1:] == [[5, 5], [5, 5], [2, 2]]


def test_the_oldest_request_is_served_first(make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine(max_sessions=1)
    fill(engine, gate)
    generations = [engine.submit(Request(tokens=[n] * n, max_tokens=1)) for n in (2, 3, 4, 5)]
    gate.open()
    for generation in generations:
        generation.result(60)
    assert gate.steps[1:] == [[2], [3], [4], [5]]


def test_a_higher_priority_is_served_earlier(make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine(max_sessions=1, priority_seconds=3600)
    fill(engine, gate)
    generations = [
        engine.submit(Request(tokens=[n] * n, max_tokens=1, priority=priority))
        for n, priority in ((2, 0), (3, 1), (4, 0), (5, -1), (6, 1))
    ]
    gate.open()
    for generation in generations:
        generation.result(60)
    assert gate.steps[1:] == [[3], [6], [2], [4], [5]]


def test_a_priority_may_be_worth_nothing(make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine(max_sessions=1, priority_seconds=0)
    fill(engine, gate)
    generations = [
        engine.submit(Request(tokens=[n] * n, max_tokens=1, priority=priority))
        for n, priority in ((2, 0), (3, 9), (4, 0))
    ]
    gate.open()
    for generation in generations:
        generation.result(60)
    assert gate.steps[1:] == [[2], [3], [4]]


def test_small_requests_do_not_overtake_a_large_one(
    make_engine: MakeEngine, make_manager: Any, gate: Any
) -> None:
    engine = make_engine(make_manager(100 << 9))
    running = fill(engine, gate, max_tokens=29)  # 30 of 100 tokens
    large = engine.submit(Request(tokens=[8], max_tokens=79))
    small = [engine.submit(Request(tokens=[7] * n, max_tokens=1)) for n in (3, 4)]
    gate.open()
    for generation in (running, large, *small):
        generation.result(60)
    assert [len(step) for step in gate.steps[:30]] == [1] * 29 + [3]
    assert sorted(gate.steps[29]) == [1, 3, 4]


def test_more_run_at_once_if_the_pool_is_overcommitted(
    make_engine: MakeEngine, make_manager: Any, gate: Any
) -> None:
    engine = make_engine(make_manager(100 << 9), overcommit=2)
    fill(engine, gate, max_tokens=2)
    waiting = [engine.submit(Request(tokens=[n, 1], max_tokens=2)) for n in (3, 4)]
    promised = engine.stats().promised_bytes
    gate.open()
    for generation in waiting:
        generation.result(60)
    assert promised == 3 << 9
    assert len(gate.steps[1]) == 3


def test_a_full_queue_says_when_to_come_again(make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine(max_queue=2, max_sessions=1)
    fill(engine, gate)
    waiting = [engine.submit(Request(tokens=[n], max_tokens=1)) for n in (2, 3)]
    with pytest.raises(QueueFullError, match="2 requests wait already") as caught:
        engine.submit(Request(tokens=[4]))
    assert caught.value.retry_after > 0
    assert engine.stats().queued == 2
    gate.open()
    for generation in waiting:
        generation.result(60)
    assert engine.stats().accepted == 3


def test_a_session_has_one_request_at_a_time(lab: Any, make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine()
    fill(engine, gate)
    first = lab.tokens("a pool")
    said = lab.alone(first, 5)
    second = [*first, *said, 7, 8]
    generations = [
        engine.submit(Request(tokens=first, max_tokens=5, session="ada")),
        engine.submit(Request(tokens=second, max_tokens=2, session="ada", priority=9)),
        engine.submit(Request(tokens=[8, 9], max_tokens=2, session="bo")),
    ]
    gate.open()
    results = [generation.result(60) for generation in generations]
    assert results[0].token_ids == said
    assert results[1].token_ids == lab.alone(second, 2)
    assert results[1].usage.cached_tokens == len(first) + 4
    assert max(map(len, gate.steps)) == 2
