"""What is evicted from the pool is in the tiers before its memory is used again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import PoolExhaustedError, TierError
from kvpool.eviction.lru import LruPolicy
from kvpool.manager import KVCacheManager
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import Breaker, Level, TierStore
from kvpool.tiers.memory import MemoryTier
from tests.manager.test_tiers import LAYOUT, serve
from tests.support.injection import Kind, every_place, injected
from tests.support.sessions import Clock

CHUNK = 16
SESSION = LAYOUT.geometry(256).nbytes  # what a session of up to 255 tokens takes in a rigid pool
IDENTITY = Identity("", "", LAYOUT)


class Tier(MemoryTier):
    """Takes nothing while `is_down`; writes wait for `is_free`."""

    def __init__(self) -> None:
        super().__init__(1 << 26)
        self.is_down = False
        self.is_free = threading.Event()
        self.is_free.set()

    def write(self, items: Any, /) -> int:
        self.is_free.wait(60)
        if self.is_down:
            raise TierError("out of order")
        return super().write(items)


def steady(tier: Tier, budget: float | None = 1.0, queue_bytes: int = 1 << 26) -> Level:
    """Return a level that asks a tier again however often it has failed."""
    return Level(Breaker(tier, budget, failures=1000), budget=budget, queue_bytes=queue_bytes)


@pytest.fixture
def tier() -> Tier:
    return Tier()


@pytest.fixture
def store(tier: Tier) -> Iterator[TierStore]:
    with TierStore([steady(tier)], chunk_tokens=CHUNK) as store:
        yield store


def opened(store: TierStore, sessions: float = 2, **options: Any) -> KVCacheManager:
    """Return a rigid manager with room for some sessions."""
    size = int(sessions * SESSION)
    return KVCacheManager(
        size, "numpy", LAYOUT, receipts=False, chunk_tokens=CHUNK, tiers=store, **options
    )


def elastic(store: TierStore, tokens: int) -> KVCacheManager:
    """Return an elastic manager with pages for some tokens."""
    size = LAYOUT.bytes_per_token * tokens
    return KVCacheManager(
        size, "mmap", LAYOUT, receipts=False, chunk_tokens=CHUNK, tiers=store, elastic=True
    )


def prompt(number: int, count: int = 200) -> range:
    return range(number * 1000, number * 1000 + count)


def stored(store: TierStore, tokens: Sequence[int]) -> int:
    """Return how many first tokens the tiers have, written to their end."""
    store.drain(60)
    return store.available(IDENTITY, token_bytes(list(tokens)))


def close_while_down(manager: KVCacheManager, tier: Tier, store: TierStore, number: int) -> None:
    tier.is_down = True
    serve(manager, prompt(number))
    assert stored(store, prompt(number)) == 0
    tier.is_down = False


def test_a_session_that_no_tier_took_when_it_was_closed_is_stored_when_it_is_evicted(
    tier: Tier, store: TierStore
) -> None:
    with opened(store) as manager:
        close_while_down(manager, tier, store, 1)
        serve(manager, prompt(2))
        serve(manager, prompt(3))
        assert manager.get_stats().evictions == 1
        assert stored(store, prompt(1)) == 192
        assert serve(manager, prompt(1)) == 192  # with the right bytes


def test_what_a_full_queue_dropped_is_stored_when_it_is_evicted(tier: Tier) -> None:
    level = steady(tier, queue_bytes=2 * CHUNK * LAYOUT.bytes_per_token)
    with TierStore([level], chunk_tokens=CHUNK) as store, opened(store, 1) as manager:
        tier.is_free.clear()
        serve(manager, prompt(1, 70))  # two of four chunks fit the queue
        tier.is_free.set()
        assert stored(store, prompt(1)) == 2 * CHUNK
        serve(manager, prompt(2))
        assert manager.get_stats().evictions == 1
        assert stored(store, prompt(1)) == 4 * CHUNK


def test_a_full_queue_keeps_no_eviction(tier: Tier) -> None:
    level = steady(tier, None, queue_bytes=CHUNK * LAYOUT.bytes_per_token)
    with TierStore([level], chunk_tokens=CHUNK) as store, opened(store, 1) as manager:
        tier.is_free.clear()  # no write ends before the manager is done
        for number in range(5):
            assert serve(manager, prompt(number)) == 0
        assert manager.get_stats().evictions == 4
        assert store.stats().levels[0].dropped > 4 * 11
        tier.is_free.set()


def test_tokens_of_a_session_that_was_never_closed_are_stored_when_it_expires(
    tier: Tier, store: TierStore
) -> None:
    clock = Clock()
    with opened(store, 3, clock=clock) as manager:
        close_while_down(manager, tier, store, 1)
        manager.open_session([*prompt(1), 5], ttl=10)  # and whoever opened it is gone
        clock.now += 11
        manager.evict_expired()
        assert stored(store, prompt(1)) == 192


@pytest.mark.parametrize("call", ["make_room", "prefix_tokens", "raw"])
def test_every_way_of_eviction_stores(call: str, tier: Tier, store: TierStore) -> None:
    options = {"prefix_tokens": 200} if call == "prefix_tokens" else {}
    with opened(store, **options) as manager:
        close_while_down(manager, tier, store, 1)
        if call == "make_room":
            assert manager.make_room(2 * SESSION)
        elif call == "raw":
            manager.allocate_entry(CacheKey("raw", 1), 2 * SESSION)
        else:
            serve(manager, prompt(2))
        assert stored(store, prompt(1)) == 192
        manager.check_integrity()


def test_tails_that_are_cut_in_an_elastic_pool_are_stored(tier: Tier, store: TierStore) -> None:
    with elastic(store, 1024) as manager:
        tier.is_down = True
        serve(manager, prompt(1, 800))
        assert stored(store, prompt(1)) == 0
        tier.is_down = False
        serve(manager, prompt(2, 600))
        first = manager.get_session_tokens(manager.keys()[0])
        assert first is not None
        left = len(first) // CHUNK * CHUNK  # of the first session, the tail is gone
        assert 0 < left < 800
        store.drain(60)
        behind = list(tier.keys(b"c/"))
        assert len(behind) >= (800 - left) // CHUNK
        serve(manager, prompt(3, 1000))  # and now the rest of it
        assert stored(store, prompt(1, 800)) == 800
        manager.remove_cache_entry(manager.keys()[-1])
        assert serve(manager, prompt(1, 800)) > 0


def test_forks_of_a_session_are_stored_with_the_right_bytes(tier: Tier, store: TierStore) -> None:
    with elastic(store, 2048) as manager:
        tier.is_down = True
        serve(manager, prompt(1, 300), CacheKey("chat", 1))
        serve(manager, [*prompt(1, 200), *prompt(5, 100)], CacheKey("chat", 2))
        tier.is_down = False
        store.drain(60)
        serve(manager, prompt(9, 2000))
        assert stored(store, prompt(1, 300)) == 288
        assert stored(store, [*prompt(1, 200), *prompt(5, 100)]) == 288
    with elastic(store, 2048) as manager:
        assert serve(manager, prompt(1, 300)) == 288
        assert serve(manager, [*prompt(1, 200), *prompt(5, 100)]) > 0


def test_what_is_removed_by_hand_is_not_stored(tier: Tier, store: TierStore) -> None:
    with opened(store) as manager:
        close_while_down(manager, tier, store, 1)
        manager.clear()
        assert stored(store, prompt(1)) == 0


def test_closing_the_manager_stores_what_no_tier_took(tier: Tier, store: TierStore) -> None:
    with opened(store) as manager:
        close_while_down(manager, tier, store, 1)
    assert stored(store, prompt(1)) == 192


def test_what_the_tiers_have_is_not_copied_again(store: TierStore) -> None:
    with opened(store, 1) as manager:
        for number in range(4):
            serve(manager, prompt(number))
            store.drain(60)
        assert manager.get_stats().evictions == 3
    figures = store.stats().levels[0]
    assert figures.stored == 4 * 12  # each chunk once


def test_what_the_tiers_had_long_ago_and_still_have_is_not_sent_again(
    tier: Tier, store: TierStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []

    def write(items: Any) -> int:
        sent.append(len(items))
        return MemoryTier.write(tier, items)

    monkeypatch.setattr(tier, "write", write)
    monkeypatch.setattr("kvpool.tiers._level._KNOWN_FOR", 0.0)
    with opened(store, 1) as manager:
        serve(manager, prompt(1))
        store.drain(60)
        tier.remove(list(tier.keys(b"c/"))[:1])
        serve(manager, prompt(2))
        assert stored(store, prompt(1)) == 192
        assert sum(sent) <= 2 * 12 + 12
    sent.clear()
    with opened(store, 1) as manager:
        assert serve(manager, prompt(2)) == 192
        manager.make_room(SESSION)
        store.drain(60)
        assert not sent


def test_a_request_that_cannot_be_met_stores_nothing(tier: Tier, store: TierStore) -> None:
    with opened(store) as manager:
        close_while_down(manager, tier, store, 1)
        with pytest.raises(PoolExhaustedError):
            manager.make_room(3 * SESSION)
        assert stored(store, prompt(1)) == 0


@pytest.mark.parametrize("error", [TierError, RuntimeError, MemoryError])
def test_a_store_that_raises_keeps_no_eviction(
    error: type[Exception], store: TierStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise error("out of order")

    with opened(store, 1) as manager:
        serve(manager, prompt(1))
        monkeypatch.setattr(store, "put", fail)
        for number in range(2, 5):
            serve(manager, prompt(number))
        assert manager.get_stats().evictions == 3


def test_a_store_that_was_closed_first_keeps_no_eviction(
    store: TierStore, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(store, 1) as manager:
        serve(manager, prompt(1))
        store.close()
        manager.make_room(SESSION)
        assert manager.get_stats().evictions == 1
    assert not caplog.records


def test_a_policy_that_changes_its_mind_ends_no_session_unsaved(
    tier: Tier, store: TierStore
) -> None:
    class Fickle(LruPolicy):
        """Gives another order each time."""

        calls = 0

        def victims(self) -> Any:
            self.calls += 1
            ranked = list(super().victims())
            return iter(ranked[::-1] if self.calls % 2 else ranked)

    with opened(store, 3, policy=Fickle()) as manager:
        tier.is_down = True
        for number in range(3):
            serve(manager, prompt(number))
        store.drain(60)
        tier.is_down = False
        manager.make_room(2 * SESSION)
        held = [manager.get_session_tokens(key) for key in manager]
        assert len(held) == 1
        there = {int(tokens[0]) for tokens in held if tokens is not None}
        for number in {0, 1, 2} - {first // 1000 for first in there}:
            assert stored(store, prompt(number)) == 192


@pytest.mark.no_cover
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a lease's end
@pytest.mark.parametrize("kind", ["interrupt", "memory"])
@pytest.mark.parametrize("is_elastic", [False, True])
def test_an_eviction_that_is_interrupted_leaves_a_right_pool(kind: Kind, is_elastic: bool) -> None:
    for injection in every_place(kind):
        tier = Tier()
        level = steady(tier, None)
        with TierStore([level], chunk_tokens=CHUNK) as store:
            made = elastic(store, 384) if is_elastic else opened(store, 1)
            with made as manager:
                tier.is_down = True
                serve(manager, prompt(1, 64))
                store.drain(60)
                tier.is_down = False
                injected(partial(manager.make_room, manager.pool.capacity), injection)
                manager.check_integrity()
                serve(manager, prompt(1, 64))
                serve(manager, prompt(2, 64))
            store.drain(60)
            assert store.stats().levels[0].queued_nbytes == 0
