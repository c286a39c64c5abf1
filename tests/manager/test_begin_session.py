"""Sessions that are loaded from tiers in the background, while their caller does something else."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import (
    CacheInUseError,
    EntryRemovedError,
    InvalidTtlError,
    PoolClosedError,
    TierError,
)
from kvpool.manager import KVCacheManager, OpenedSession, OpeningSession
from kvpool.tiers import Breaker, Level, Tier, TierStore, open_tier
from tests.manager.test_tiers import LAYOUT, opened, serve
from tests.support.children import in_child, needs_fork, refused
from tests.support.computing import check, computed
from tests.support.gated_tiers import GatedMemory
from tests.support.injection import every_place, injected
from tests.support.redis_server import RedisServer

KEY = CacheKey("chat", 1)
PATIENCE = 60


@pytest.fixture
def tier() -> Iterator[GatedMemory]:
    tier = GatedMemory()
    yield tier
    tier.gate.set()


@pytest.fixture
def store(tier: GatedMemory) -> Iterator[TierStore]:
    """A store with the chunks of `range(64)`, whose tier is asked without a limit of time."""
    with TierStore([Level(tier, budget=None)], chunk_tokens=16) as store:
        with opened(store) as first:
            serve(first, range(64))
        store.drain(PATIENCE)
        yield store


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def finish(manager: KVCacheManager, found: OpenedSession, tokens: Sequence[int]) -> None:
    """Compute what a session lacks, check it, and close it."""
    entry, left = found
    assert entry.token_count == len(tokens) - left
    check(entry, tokens)
    new = computed(tokens, len(tokens) - left, LAYOUT)
    entry.extend(new, -new)
    manager.close_session(entry, tokens)
    manager.check_integrity()


def is_ready(opening: OpeningSession) -> bool:
    return opening.is_ready


def no_session_is_open(manager: KVCacheManager) -> bool:
    return not any(map(manager.is_open, manager.session_keys()))


def test_a_session_is_loaded_while_others_go_on(store: TierStore, tier: GatedMemory) -> None:
    with opened(store) as manager:
        tier.shut()
        opening = manager.begin_session(range(70), KEY)
        tier.wait()
        assert not is_ready(opening)
        assert opening.held == 0
        assert manager.is_open(KEY)
        entry, left = manager.open_session([9] * 8)  # there is nothing to load for it
        assert left == 8
        new = computed([9] * 8, 0, LAYOUT)
        entry.extend(new, -new)
        manager.close_session(entry, [9] * 8)
        tier.gate.set()
        found = opening.result(PATIENCE)
        assert (found.loaded, found.tokens_left, found.source) == (64, 6, None)
        assert is_ready(opening)
        assert opening.result() is found
        finish(manager, found, range(70))


def test_what_has_nothing_to_load_is_ready_at_once(store: TierStore, tier: GatedMemory) -> None:
    with opened(store) as manager, opened(None) as without:
        tier.shut()
        for one, tokens in ((manager, range(15)), (without, range(70))):
            opening = one.begin_session(tokens)
            assert opening.is_ready
            finish(one, opening.result(0), tokens)
        tier.gate.set()
        serve(manager, range(70))
        tier.shut()
        opening = manager.begin_session(range(71))
        assert opening.is_ready  # the pool holds all but the last
        assert opening.held == 70
        assert opening.result().source == "continued"
        tier.gate.set()


def test_a_session_that_is_being_opened_is_neither_evicted_nor_opened_twice(
    store: TierStore, tier: GatedMemory
) -> None:
    cost = LAYOUT.bytes_per_token * 128
    with opened(store, 4 * cost) as manager:
        tier.shut()
        opening = manager.begin_session(range(70), KEY, max_context_length=128)
        tier.wait()
        with pytest.raises(CacheInUseError):
            manager.begin_session(range(70), KEY)
        with pytest.raises(CacheInUseError):
            manager.open_session(range(70), KEY)
        for number in range(2, 9):  # more than the pool has room for
            entry, _ = manager.open_session([number], max_context_length=128)
            manager.close_session(entry, [number])
        assert manager.is_open(KEY)
        tier.gate.set()
        found = opening.result(PATIENCE)
        assert found.loaded == 64
        finish(manager, found, range(70))


def test_the_same_tokens_are_loaded_once(store: TierStore, tier: GatedMemory) -> None:
    with opened(store) as manager:
        before = store.stats().levels[0].hits
        tier.shut()
        openings = [manager.begin_session([*range(64), -n]) for n in range(4)]
        tier.wait()
        tier.gate.set()
        found = [opening.result(PATIENCE) for opening in openings]
        assert sorted(one.loaded for one in found) == [0, 0, 0, 64]
        assert store.stats().levels[0].hits - before == 4
        for n, one in enumerate(found):
            assert one.tokens_left == 1
            finish(manager, one, [*range(64), -n])
        assert manager.get_stats().prefix.lookups == 4


def test_time_may_be_up_and_the_load_goes_on(store: TierStore, tier: GatedMemory) -> None:
    with opened(store) as manager:
        tier.shut()
        opening = manager.begin_session(range(70))
        with pytest.raises(TimeoutError, match="loaded"):
            opening.result(0)
        odd: Any
        for odd in (-1, "soon", True):
            with pytest.raises(InvalidTtlError, match="timeout"):
                opening.result(odd)
        tier.gate.set()
        finish(manager, opening.result(PATIENCE), range(70))


@pytest.mark.parametrize("way", ["cancel", "drop"])
@pytest.mark.parametrize("when", ["while it loads", "when it is ready"])
@pytest.mark.parametrize("key", [KEY, None])
def test_a_session_that_is_not_taken_goes(
    store: TierStore, tier: GatedMemory, way: str, when: str, key: CacheKey | None
) -> None:
    with opened(store) as manager:
        tier.shut()
        opening: OpeningSession | None = manager.begin_session(range(70), key)
        assert opening is not None
        tier.wait()
        if when == "when it is ready":
            tier.gate.set()
            until(lambda: bool(opening and opening.is_ready))
        if way == "cancel":
            opening.cancel()
            assert opening.is_ready
            for _ in range(2):
                with pytest.raises(EntryRemovedError, match="cancelled"):
                    opening.result()
        opening = None
        gc.collect()
        tier.gate.set()
        until(lambda: no_session_is_open(manager))
        manager.check_integrity()
        assert serve(manager, range(70), key) == (0 if when == "when it is ready" else 64)


def test_what_was_taken_cannot_be_cancelled(store: TierStore) -> None:
    with opened(store) as manager:
        opening = manager.begin_session(range(70), KEY)
        found = opening.result(PATIENCE)
        opening.cancel()
        del opening
        gc.collect()
        assert manager.is_open(KEY)
        finish(manager, found, range(70))


def test_a_turn_that_is_cancelled_keeps_what_the_pool_held(
    store: TierStore, tier: GatedMemory
) -> None:
    with opened(store) as manager:
        entry, _ = manager.open_session(range(20), KEY)
        new = computed(range(20), entry.token_count, LAYOUT)
        entry.extend(new, -new)
        manager.close_session(entry, range(20))
        tier.shut()
        opening = manager.begin_session(range(70), KEY)
        tier.wait()
        opening.cancel()
        tier.gate.set()
        until(lambda: no_session_is_open(manager))
        kept = manager.get_session_tokens(KEY)
        assert kept is not None
        assert len(kept) >= 20
        assert kept.tolist() == list(range(len(kept)))
        serve(manager, range(70), KEY)


def test_those_who_wait_are_told_of_a_cancellation(store: TierStore, tier: GatedMemory) -> None:
    with opened(store) as manager:
        tier.shut()
        opening = manager.begin_session(range(70))
        tier.wait()
        told = threading.Event()
        opening.when_ready(told.set)
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                opening.result()
            except BaseException as error:
                errors.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not told.is_set()
        opening.cancel()
        waiting.join(PATIENCE)
        assert told.is_set()
        assert [type(error) for error in errors] == [EntryRemovedError]
        tier.gate.set()
        until(lambda: no_session_is_open(manager))


def test_functions_are_called_once_it_is_ready(
    store: TierStore, tier: GatedMemory, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(store) as manager:
        told: list[int] = []
        tier.shut()
        opening = manager.begin_session(range(70))
        opening.when_ready(partial(told.append, 1))
        opening.when_ready(lambda: 1 // 0)
        opening.when_ready(partial(told.append, 2))
        assert not told
        tier.gate.set()
        finish(manager, opening.result(PATIENCE), range(70))
        until(lambda: len(told) == 2)
        opening.when_ready(partial(told.append, 3))
        assert told == [1, 2, 3]
        assert "ZeroDivisionError" in caplog.text


def test_a_tier_that_fails_in_the_middle_is_a_miss(store: TierStore, tier: GatedMemory) -> None:
    with opened(store) as manager:
        tier.shut()
        opening = manager.begin_session(range(70))
        tier.wait()
        tier.error = TierError("out of order")
        tier.gate.set()
        found = opening.result(PATIENCE)
        assert (found.loaded, found.tokens_left) == (0, 70)
        finish(manager, found, range(70))


def test_a_tier_that_hangs_costs_its_budget(tier: GatedMemory) -> None:
    with TierStore([Level(Breaker(tier, 0.05))], chunk_tokens=16) as store:
        with opened(store) as first:
            serve(first, range(64))
        store.drain(PATIENCE)
        with opened(store) as manager:
            tier.shut()
            found = manager.begin_session(range(70)).result(PATIENCE)
            assert found.tokens_left == 70
            finish(manager, found, range(70))
        tier.gate.set()


@pytest.mark.parametrize("act", ["clear", "close", "remove"])
def test_a_session_that_is_removed_while_it_loads(
    store: TierStore, tier: GatedMemory, act: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(store) as manager:
        tier.shut()
        opening = manager.begin_session(range(70), KEY)
        tier.wait()
        if act == "remove":
            manager.remove_cache_entry(KEY)
        else:
            getattr(manager, act)()
        tier.gate.set()
        entry, left = opening.result(PATIENCE)
        assert left == 70
        with pytest.raises((EntryRemovedError, PoolClosedError)):
            entry.extend(*[computed(range(70), 0, LAYOUT)] * 2)
        if act != "close":
            manager.check_integrity()
            assert serve(manager, range(70), KEY) == 64
        assert not caplog.records


def test_a_manager_with_tiers_of_its_own_closes_while_sessions_load(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"disk:{tmp_path / 'tier'}?capacity=64MiB"
    tokens = range(4096)
    with opened(url, 1 << 22) as first:
        serve(first, tokens)
    caplog.set_level(logging.WARNING)
    for count in range(1, 4):
        manager = opened(url, 1 << 24)
        openings = [manager.begin_session(tokens) for _ in range(count)]
        manager.close()
        for opening in openings:
            with pytest.raises((EntryRemovedError, PoolClosedError)):
                opening.result(PATIENCE).entry.keys()
    assert not caplog.records


def test_an_expired_session_is_opened_again(store: TierStore, tier: GatedMemory) -> None:
    now = 0.0
    with KVCacheManager(
        1 << 20, "numpy", LAYOUT, ttl=10, clock=lambda: now, chunk_tokens=16, tiers=store
    ) as manager:
        tier.shut()
        opening = manager.begin_session(range(70), KEY)
        tier.wait()
        now = 20.0
        assert KEY not in manager
        tier.gate.set()
        assert opening.result(PATIENCE).tokens_left == 70
        assert serve(manager, range(70), KEY) == 64


def test_an_event_loop_goes_on_while_sessions_load(store: TierStore, tier: GatedMemory) -> None:
    async def serve_both(manager: KVCacheManager) -> list[int]:
        tier.shut()
        begun = [manager.begin_session([*range(64), -n]) for n in range(2)]
        waiting = [asyncio.create_task(one.aresult()) for one in begun]
        while not tier.arrived.acquire(blocking=False):
            await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        tier.gate.set()
        found = await asyncio.gather(*waiting)
        for n, one in enumerate(found):
            finish(manager, one, [*range(64), -n])
        return [one.loaded for one in found]

    with opened(store) as manager:
        assert sorted(asyncio.run(serve_both(manager))) == [0, 64]


def test_a_task_that_is_cancelled_lets_its_session_go(store: TierStore, tier: GatedMemory) -> None:
    async def give_up(manager: KVCacheManager) -> None:
        tier.shut()

        async def open_session() -> None:
            begin = manager.begin_session
            await (await manager.when_room(begin, range(70), KEY, timeout=60)).aresult()

        task = asyncio.create_task(open_session())
        while not tier.arrived.acquire(blocking=False):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with opened(store) as manager:
        asyncio.run(give_up(manager))
        gc.collect()
        assert manager.is_open(KEY)  # the load owns it as long as it writes
        tier.gate.set()
        until(lambda: not manager.is_open(KEY))
        assert serve(manager, range(70), KEY) == 64


@needs_fork
def test_a_child_cannot_take_what_its_parent_opens(store: TierStore, tier: GatedMemory) -> None:
    with opened(store) as manager:
        tier.shut()
        opening = manager.begin_session(range(70))
        tier.wait()

        def take() -> None:
            for name, call in (
                ("result", partial(opening.result, 5)),
                ("aresult", lambda: asyncio.run(opening.aresult())),
            ):
                refused(name, call)
            opening.cancel()

        in_child(take)
        tier.gate.set()
        finish(manager, opening.result(PATIENCE), range(70))


def is_settled(manager: KVCacheManager, ended: list[object]) -> bool:
    return no_session_is_open(manager) is not bool(ended)


def begin_and_take(ended: list[object], manager: KVCacheManager) -> None:
    ended.append(manager.begin_session(range(48)).result(PATIENCE))


@pytest.mark.no_cover
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a lease's end
def test_an_interrupt_anywhere_leaves_no_session_open(store: TierStore) -> None:
    for injection in every_place("interrupt"):
        with KVCacheManager(
            1 << 20, "numpy", LAYOUT, policy="lru", receipts=False, chunk_tokens=16, tiers=store
        ) as manager:
            ended: list[object] = []
            injected(partial(begin_and_take, ended, manager), injection)
            gc.collect()
            until(partial(is_settled, manager, ended))
            manager.check_integrity()
            serve(manager, range(48))


@pytest.mark.integration
def test_a_server_that_is_killed_while_sessions_load(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, ExitStack() as stack:
        store = stack.enter_context(TierStore([f"{server.url}?budget=60"], chunk_tokens=16))
        with opened(store, 1 << 24) as first:
            for salt in range(8):
                serve(first, [salt, *range(512)])
        store.drain(PATIENCE)
        manager = stack.enter_context(opened(store, 1 << 24))
        openings = [manager.begin_session([salt, *range(520)]) for salt in range(8)]
        openings[0].result(PATIENCE)
        server.kill()
        loaded = [opening.result(PATIENCE) for opening in openings]
        assert all(one.loaded in range(0, 513, 16) for one in loaded)
        assert loaded[0].loaded == 512
        for salt, found in enumerate(loaded):
            finish(manager, found, [salt, *range(520)])


def test_any_tier_loads_in_the_background(tmp_path: Path) -> None:
    def tier() -> Tier:
        return open_tier(f"disk:{tmp_path / 'tier'}?capacity=16MiB")

    with TierStore([tier()], chunk_tokens=16) as store, opened(store) as first:
        serve(first, range(200))
    with TierStore([tier()], chunk_tokens=16) as store, opened(store) as second:
        found = second.begin_session(range(210)).result(PATIENCE)
        assert found.loaded == 192
        finish(second, found, range(210))
