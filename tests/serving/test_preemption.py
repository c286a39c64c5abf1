"""A generation that loses its place to the budget resumes, and says the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import PoolExhaustedError
from kvpool.layout import KVLayout
from kvpool.serving import Engine, EngineObserver, FinishReason, Request, Sampling, Usage
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

MakeEngine = Callable[..., Engine]
LAYOUT = KVLayout(2, 2, 16, "float32")  # of the tiny model
PAGE = 4096 // 64  # tokens of one head in a page


class Heard(EngineObserver):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_queued(self) -> None:
        self.events.append("queued")

    def on_first_token(self, seconds: float) -> None:
        self.events.append("first" if seconds > 0 else "odd")

    def on_token(self, seconds: float) -> None:
        self.events.append("token" if seconds > 0 else "odd")

    def on_preempted(self) -> None:
        self.events.append("preempted")

    def on_finished(self, reason: FinishReason, usage: Usage) -> None:
        self.events.append(f"{reason} {usage.completion_tokens}")


def small(make_manager: MakeManager, pages: int) -> Any:
    """Return a manager whose pool has some pages for each of the eight stripes of an entry."""
    return make_manager(pages * 8 * 4096, "mmap")


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(seed=5, temperature=1.0)])
def test_the_last_in_rank_gives_its_room_up_and_resumes(
    lab: Any, make_engine: MakeEngine, make_manager: MakeManager, gate: Any, sampling: Sampling
) -> None:
    heard = Heard()
    engine = make_engine(small(make_manager, 3), overcommit=10, observer=heard)
    prompts = [[n + 2, *range(3 + n, 43 + n)] for n in range(3)]
    gate.shut()
    generations = [
        engine.submit(Request(tokens=prompt, max_tokens=60, sampling=sampling))
        for prompt in prompts
    ]
    gate.wait()
    gate.open()
    options = {} if sampling.seed is None else {"do_sample": True, "temperature": 1.0, "seed": 5}
    for prompt, generation in zip(prompts, generations, strict=True):
        assert generation.result(60).token_ids == lab.alone(prompt, 60, **options)
        assert generation.usage == (41, 0, 60)
    stats = engine.stats()
    assert stats.preemptions == heard.events.count("preempted") >= 2
    assert stats.preempted == 0
    assert heard.events.count("length 60") == 3
    assert all(gate.steps)
    assert len(gate.steps) < 3 * 60  # they ran beside each other as far as there was room


def test_tokens_that_are_still_there_are_not_computed_again(
    lab: Any, make_engine: MakeEngine, make_manager: MakeManager, gate: Any
) -> None:
    """Room that others hold is waited for; what was computed stays as long as it may."""
    manager = small(make_manager, 4)
    engine = make_engine(manager)
    prompt = list(range(2, 62))
    gate.shut()
    generation = engine.submit(Request(tokens=prompt, max_tokens=8))
    gate.let(2)
    gate.wait(3)
    # Others take all that is left.
    entry = manager.create_cache_entry(CacheKey("other", 1), 4 * PAGE, layout=LAYOUT)
    held = lab.torch.zeros(2, 2, 3 * PAGE, 16).numpy()
    entry.extend(held, held)
    view = entry.key(0)
    gate.open()
    while engine.stats().preempted == 0:
        time.sleep(0.01)
    assert generation.usage.completion_tokens >= 3
    del view
    assert generation.result(60).token_ids == lab.alone(prompt, 8)
    assert max(gate.steps[1:]) == [1]


def test_a_request_that_is_alone_waits_for_room_only_for_some_time(
    make_engine: MakeEngine, make_manager: MakeManager
) -> None:
    manager = make_manager(100 << 9)
    entry = manager.create_cache_entry(CacheKey("other", 1), 50, layout=LAYOUT)
    view = entry.lease()
    engine = make_engine(manager, room_timeout=0.1)
    with pytest.raises(PoolExhaustedError, match="leases"):
        engine.submit(Request(tokens=[2], max_tokens=70)).result(60)
    later = make_engine(manager)
    waiting = later.submit(Request(tokens=[2], max_tokens=70, deadline=0.05))
    assert waiting.result(60).finish_reason == "deadline"
    generation = later.submit(Request(tokens=[2], max_tokens=70))
    time.sleep(0.1)
    assert not generation.is_done
    del view
    assert generation.result(60).finish_reason == "length"


def test_a_session_that_grows_gives_its_tokens_up_if_it_must(
    lab: Any, make_engine: MakeEngine, make_manager: MakeManager
) -> None:
    """In a rigid pool a larger block does not fit beside the old one."""
    engine = make_engine(make_manager(100 << 9))
    for session in ("ada", None):
        ids = [2, 3]
        for turn in range(3):
            request = Request(tokens=ids, max_tokens=20, session=session, salt=str(session))
            done = engine.submit(request).result(60)
            assert done.token_ids == lab.alone(ids, 20)
            ids += [*done.token_ids, 5 + turn]


def test_a_session_that_shares_pages_and_is_alone_fits(
    lab: Any, make_engine: MakeEngine, make_manager: MakeManager
) -> None:
    """A fork needs the pages that it shares, those of its own, and copies: more than all alone."""
    engine = make_engine(small(make_manager, 2), room_timeout=10)
    prompt = list(range(2, 62))
    engine.submit(Request(tokens=prompt, max_tokens=2, session="ada")).result(60)
    done = engine.submit(Request(tokens=[*prompt[:50], 9, 8], max_tokens=30)).result(60)
    assert done.token_ids == lab.alone([*prompt[:50], 9, 8], 30)
