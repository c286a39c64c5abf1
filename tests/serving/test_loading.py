"""An engine goes on with other sessions while the tokens of one are loaded from tiers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import PoolClosedError, TierError
from kvpool.manager import KVCacheManager
from kvpool.serving import Engine, EngineClosedError, Generation, Request
from kvpool.tiers import Level, TierStore
from tests.support.children import in_child, needs_fork, refused
from tests.support.gated_tiers import GatedDisk, GatedMemory, GatedTier
from tests.support.managers import MakeManager
from tests.support.redis_faults import FAULTS, FaultyServer
from tests.support.sessions import Clock

pytestmark = pytest.mark.transformers

MakeEngine = Callable[..., Engine]
CHUNK = 16
STORED = [2 + n * 7 % 500 for n in range(70)]
"""A prompt of which the tiers have four chunks."""
OTHER = [9, 8, 7, 6, 5]  # less than a chunk, so there is nothing to load
PATIENCE = 60


@pytest.fixture(params=["memory"])
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GatedTier]:
    tier = GatedDisk(tmp_path / "tier") if request.param == "disk" else GatedMemory()
    yield tier
    tier.gate.set()


@pytest.fixture
def store(lab: Any, tier: GatedTier) -> Iterator[TierStore]:
    """A store with the chunks of `STORED`, whose tier is asked without a limit of time."""
    with TierStore([Level(tier, budget=None, may_decline=False)], chunk_tokens=CHUNK) as store:
        fill(lab, store)
        yield store


def fill(lab: Any, store: TierStore) -> None:
    """Have a store keep what the model computes of `STORED`."""
    with tiered(store) as manager, lab.make_engine(manager) as engine:
        engine.submit(Request(tokens=STORED, max_tokens=1)).result(PATIENCE)
    store.drain(PATIENCE)


def tiered(store: TierStore) -> KVCacheManager:
    return KVCacheManager(1 << 24, "numpy", receipts=False, chunk_tokens=CHUNK, tiers=store)


@pytest.fixture
def pooled(store: TierStore, tier: GatedTier) -> Iterator[KVCacheManager]:
    """A manager whose pool is empty, with the store; no load is under way when the test ends."""
    with tiered(store) as manager:
        yield manager
        tier.gate.set()
        with suppress(PoolClosedError):
            until(partial(no_session_is_open, manager))
            manager.check_integrity()


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def no_session_is_open(manager: KVCacheManager) -> bool:
    return not any(map(manager.is_open, manager.session_keys()))


def begun(engine: Engine, tier: GatedTier, **options: Any) -> Generation:
    """Return a generation whose session is being loaded, until the gate opens."""
    tier.shut()
    generation = engine.submit(Request(tokens=STORED, max_tokens=6, **options))
    tier.wait()
    return generation


def check(lab: Any, generation: Generation) -> int:
    """Compare an answer with that of the model alone; return the tokens that were cached."""
    done = generation.result(PATIENCE)
    assert done.token_ids == lab.alone(generation.prompt_token_ids, len(done.token_ids))
    assert done.finish_reason == "length"
    return done.usage.cached_tokens


@pytest.mark.parametrize("tier", ["memory", "disk"], indirect=True)
def test_prompts_and_answers_go_on_while_a_session_loads(
    lab: Any, pooled: KVCacheManager, tier: GatedTier
) -> None:
    with lab.make_engine(pooled, prefill_tokens=8) as engine:
        known = [3 + n * 5 % 500 for n in range(64)]
        engine.submit(Request(tokens=known, max_tokens=1)).result(PATIENCE)
        running = engine.submit(Request(tokens=OTHER, max_tokens=200))
        next(iter(running))
        loading = begun(engine, tier)
        others = [
            running,
            engine.submit(Request(tokens=[*OTHER, 4], max_tokens=9)),
            engine.submit(Request(tokens=[*known, *OTHER, 2, 3, 4, 5], max_tokens=9)),
        ]
        assert [check(lab, one) for one in others] == [0, 0, 64]
        stats = engine.stats()
        assert (stats.running, stats.loading, stats.queued) == (1, 1, 0)
        assert loading.usage.completion_tokens == 0
        tier.gate.set()
        assert check(lab, loading) == 64
        assert engine.stats().loading == 0


def test_what_is_loaded_is_not_computed(
    lab: Any, pooled: KVCacheManager, tier: GatedTier, gate: Any
) -> None:
    with lab.make_engine(pooled) as engine:
        loading = begun(engine, tier)
        gate.steps.clear()
        tier.gate.set()
        assert check(lab, loading) == 64
        assert gate.steps[0] == [6]


@pytest.mark.parametrize("end", ["cancelled", "deadline"])
def test_a_load_does_not_delay_an_end(
    lab: Any, pooled: KVCacheManager, tier: GatedTier, end: str, engine_clock: Clock
) -> None:
    with lab.make_engine(pooled) as engine:
        loading = begun(engine, tier, deadline=0.5 if end == "deadline" else None)
        if end == "cancelled":
            loading.cancel()
        else:
            engine_clock.now += 0.5
        done = loading.result(PATIENCE)
        assert (done.finish_reason, done.token_ids) == (end, ())
        assert not tier.gate.is_set()
        assert check(lab, engine.submit(Request(tokens=OTHER, max_tokens=5))) == 0
        tier.gate.set()
        until(partial(no_session_is_open, pooled))
        assert check(lab, engine.submit(Request(tokens=STORED, max_tokens=5))) == 64


def test_the_next_request_of_a_session_waits_for_a_load_that_was_given_up(
    lab: Any, pooled: KVCacheManager, tier: GatedTier
) -> None:
    with lab.make_engine(pooled) as engine:
        loading = begun(engine, tier, session="ada")
        loading.cancel()
        assert loading.result(PATIENCE).finish_reason == "cancelled"
        assert pooled.is_open(CacheKey("serving", "ada"))  # the load writes to it
        following = engine.submit(Request(tokens=STORED, max_tokens=6, session="ada"))
        assert check(lab, engine.submit(Request(tokens=OTHER, max_tokens=5))) == 0
        assert engine.stats().queued == 1
        tier.gate.set()
        assert check(lab, following) == 64


def test_a_prompt_that_another_one_loads_is_loaded_once(
    lab: Any, pooled: KVCacheManager, store: TierStore, tier: GatedTier
) -> None:
    before = store.stats().levels[0].hits
    with lab.make_engine(pooled) as engine:
        loading = begun(engine, tier)
        like = engine.submit(Request(tokens=[*STORED[:66], 5, 6], max_tokens=6))
        assert check(lab, engine.submit(Request(tokens=OTHER, max_tokens=5))) == 0
        assert (engine.stats().loading, engine.stats().queued) == (1, 1)
        tier.gate.set()
        assert check(lab, loading) == 64
        assert check(lab, like) >= 64
    assert store.stats().levels[0].hits - before == 4


def test_a_prompt_that_no_tier_has_is_computed_once(
    lab: Any, pooled: KVCacheManager, tier: GatedTier, gate: Any
) -> None:
    new = [3 + n * 11 % 500 for n in range(90)]
    with lab.make_engine(pooled) as engine:
        tier.shut()
        prompts = [[*new, *rest] for rest in ([5], [6, 7], [8])]
        generations = [engine.submit(Request(tokens=one, max_tokens=5)) for one in prompts]
        tier.wait()
        gate.steps.clear()
        tier.gate.set()
        assert [check(lab, one) for one in generations] == [0, 90, 90]
        assert gate.steps[0] == [91]


def test_a_tier_that_fails_in_the_middle_is_a_miss(
    lab: Any, pooled: KVCacheManager, tier: GatedTier
) -> None:
    with lab.make_engine(pooled) as engine:
        loading = begun(engine, tier)
        tier.error = TierError("out of order")
        tier.gate.set()
        assert check(lab, loading) == 0


def test_a_tier_that_hangs_costs_its_budget(lab: Any) -> None:
    tier = GatedMemory()
    levels = [Level(tier, budget=1.0, may_decline=False)]
    with TierStore(levels, chunk_tokens=CHUNK) as store:
        fill(lab, store)
        with tiered(store) as manager, lab.make_engine(manager) as engine:
            loading = begun(engine, tier)
            assert check(lab, loading) == 0
            assert not tier.gate.is_set()
        tier.gate.set()


def test_closing_drains_what_is_loaded(lab: Any, pooled: KVCacheManager, tier: GatedTier) -> None:
    engine = lab.make_engine(pooled)
    loading = begun(engine, tier)
    closing = threading.Thread(target=engine.close)
    closing.start()
    until(lambda: engine.is_closed)
    assert loading.usage.completion_tokens == 0
    tier.gate.set()
    assert check(lab, loading) == 64
    closing.join(PATIENCE)
    assert not closing.is_alive()


def test_closing_at_once_waits_for_no_load_and_loses_nothing(
    lab: Any, pooled: KVCacheManager, tier: GatedTier
) -> None:
    history = [*STORED[:40], 9]
    with lab.make_engine(pooled) as engine:
        first = engine.submit(Request(tokens=history, max_tokens=3, session="ada"))
        assert check(lab, first) == 32
        loading = begun(engine, tier, session="ada")
        engine.close(drain=False)
        assert loading.result(0).finish_reason == "cancelled"
        assert not tier.gate.is_set()
    tier.gate.set()
    until(partial(no_session_is_open, pooled))
    kept = pooled.get_session_tokens(CacheKey("serving", "ada"))
    assert kept is not None
    assert kept.tolist() == STORED[: len(kept)]
    assert len(kept) >= 40
    with lab.make_engine(pooled) as engine:
        again = engine.submit(Request(tokens=STORED, max_tokens=6, session="ada"))
        assert check(lab, again) == 64


def test_a_manager_that_is_closed_ends_the_engine(
    lab: Any, pooled: KVCacheManager, tier: GatedTier
) -> None:
    engine = lab.make_engine(pooled)
    loading = begun(engine, tier)
    pooled.close()
    tier.gate.set()
    with pytest.raises((EngineClosedError, PoolClosedError)):
        loading.result(PATIENCE)
    with pytest.raises(EngineClosedError):
        engine.submit(Request(tokens=OTHER))
    engine.close()


def test_a_session_that_is_removed_while_it_loads_fails_alone(
    lab: Any, pooled: KVCacheManager, tier: GatedTier
) -> None:
    with lab.make_engine(pooled) as engine:
        loading = begun(engine, tier, session="ada")
        pooled.remove_cache_entry(CacheKey("serving", "ada"))
        tier.gate.set()
        with pytest.raises(Exception, match="removed"):
            loading.result(PATIENCE)
        following = engine.submit(Request(tokens=STORED, max_tokens=6, session="ada"))
        assert check(lab, following) == 64


def test_the_last_in_rank_gives_its_load_up_and_resumes(
    lab: Any, store: TierStore, tier: GatedTier, make_manager: MakeManager
) -> None:
    page = 4096 // 64  # tokens of one head in a page
    # Three pages for each of the eight stripes of an entry: all of them are for the first one.
    pool = make_manager(3 * 8 * 4096, "mmap", chunk_tokens=CHUNK, tiers=store)
    with lab.make_engine(pool, overcommit=10) as engine:
        first = engine.submit(Request(tokens=OTHER, max_tokens=3 * page - len(OTHER) - 1))
        next(iter(first))
        second = engine.submit(Request(tokens=[*OTHER, 3], max_tokens=page + 9))
        loading = begun(engine, tier)
        assert check(lab, first) == 0
        assert engine.stats().preemptions >= 2
        tier.gate.set()
        for one in (second, loading):
            check(lab, one)
        until(partial(no_session_is_open, pool))


@needs_fork
def test_a_child_leaves_the_loads_of_its_parent_alone(
    lab: Any, pooled: KVCacheManager, tier: GatedTier
) -> None:
    with lab.make_engine(pooled) as engine:
        loading = begun(engine, tier)

        def look() -> None:
            refused("submit", lambda: engine.submit(Request(tokens=OTHER)))
            loading.cancel()

        in_child(look)
        tier.gate.set()
        assert check(lab, loading) == 64


@pytest.mark.integration
@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_fails_while_sessions_load(lab: Any, tmp_path: Path, fault: str) -> None:
    prompts = [[2 + number, *STORED] for number in range(6)]
    requests = [Request(tokens=one, max_tokens=4) for one in prompts]
    with FaultyServer(tmp_path, fault) as server:
        url = f"{server.url}?budget=1&decline=no"
        with TierStore([url], chunk_tokens=CHUNK) as store:

            def answer_all(in_the_middle: Callable[[], None] | None = None) -> int:
                """Answer all prompts at once, with an empty pool; return the tokens cached."""
                with tiered(store) as manager, lab.make_engine(manager) as engine:
                    generations = list(map(engine.submit, requests))
                    if in_the_middle is not None:
                        in_the_middle()
                    return sum(check(lab, one) for one in generations)

            assert answer_all() == 0
            store.drain(60)
            assert answer_all() == 6 * 64
            answer_all(server.begin)
            answer_all()
            server.end()
