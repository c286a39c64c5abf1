"""What one request has computed, another need not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvpool.manager import KVCacheManager
from kvpool.serving import Engine, Generation, Request
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

MakeEngine = Callable[..., Engine]
SYSTEM = [2 + n * 7 % 700 for n in range(90)]


@pytest.fixture(params=["numpy", "mmap"])
def pooled(request: pytest.FixtureRequest, make_manager: MakeManager) -> KVCacheManager:
    """A rigid pool, where tokens are copied, and an elastic one, where pages are shared."""
    return make_manager(1 << 24, request.param)


def check(lab: Any, generation: Generation, count: int) -> int:
    """Compare an answer with that of the model alone; return what was reused."""
    done = generation.result(60)
    assert done.token_ids == lab.alone(generation.prompt_token_ids, count)
    return done.usage.cached_tokens


def test_the_next_turn_begins_with_the_last(
    lab: Any, make_engine: MakeEngine, pooled: KVCacheManager
) -> None:
    engine = make_engine(pooled)
    ids = list(SYSTEM)
    for turn in range(3):
        generation = engine.submit(Request(tokens=ids, max_tokens=5, session="ada"))
        assert check(lab, generation, 5) == (len(ids) - 3 if turn else 0)
        ids += [*generation.result().token_ids, 5, 6]
    sources = pooled.get_stats().prefix.tokens_by_source
    assert sources["forked"] + sources["copied"] == 0


def test_the_second_of_two_like_prompts_waits_for_the_first(
    lab: Any, make_engine: MakeEngine, pooled: KVCacheManager, gate: Any
) -> None:
    engine = make_engine(pooled, prefill_tokens=40)
    gate.shut()
    generations = [
        engine.submit(Request(tokens=[*SYSTEM, *rest], max_tokens=3))
        for rest in ([5, 6], [7, 8, 9], [5, 6], [5, 6, 7])
    ]
    gate.open()
    assert [check(lab, one, 3) for one in generations] == [0, 90, 91, 92]
    assert gate.steps[:3] == [[40], [40], [12]]
    assert gate.steps[3] == [1, 3, 1, 1]
    sources = pooled.get_stats().prefix.tokens_by_source
    shared, other = ("forked", "copied") if pooled.pool.is_elastic else ("copied", "forked")
    assert sources[shared] == 90 + 91 + 92
    assert sources[other] == 0


def test_other_prompts_do_not_wait(lab: Any, make_engine: MakeEngine, gate: Any) -> None:
    engine = make_engine(prefill_tokens=40)
    gate.shut()
    generations = [
        engine.submit(Request(tokens=tokens, max_tokens=2, salt=salt))
        for tokens, salt in (
            (SYSTEM, "one tenant"),
            (SYSTEM, "another"),
            ([*SYSTEM[:20], 5, 6], "one tenant"),  # too little to wait for
        )
    ]
    gate.wait()
    gate.let()
    gate.wait()
    assert engine.stats().running == 3
    gate.open()
    assert [check(lab, one, 2) for one in generations] == [0, 0, 0]


@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_who_waits_for_another_goes_on_without_it(
    lab: Any, make_engine: MakeEngine, gate: Any, how: str
) -> None:
    engine = make_engine(prefill_tokens=40)
    gate.shut()
    first, second = (engine.submit(Request(tokens=SYSTEM, max_tokens=2)) for _ in range(2))
    gate.wait()
    gate.let()
    gate.wait()
    assert (engine.stats().running, engine.stats().queued) == (1, 1)
    if how == "cancel":
        first.cancel()
    else:
        gate.before = failing()
    gate.open()
    assert check(lab, second, 2) == (80 if how == "cancel" else 40)
    assert first.is_done


def failing() -> Callable[[Any, Any], None]:
    """Return what raises once."""
    left = [ValueError("odd")]

    def fail(_caches: Any, _tokens: Any) -> None:
        if left:
            raise left.pop()

    return fail
