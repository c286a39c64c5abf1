"""`open_session` and `close_session`: what was computed once is there again."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry
from kvpool.errors import (
    CacheInUseError,
    ContextOverflowError,
    EntryExistsError,
    EntryRemovedError,
    InvalidArgumentError,
    InvalidTokensError,
    PoolExhaustedError,
)
from kvpool.eviction import EvictionReason
from kvpool.eviction.lru import LruPolicy
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.stats import PrefixStats
from tests.support.computing import check, computed
from tests.support.injection import Injection
from tests.support.sessions import Clock, key_of

LAYOUT = KVLayout(layers=2, kv_heads=2, head_dim=64, dtype="float16")
OTHER_LAYOUT = KVLayout(layers=1, kv_heads=1, head_dim=64, dtype="float32")


@pytest.fixture
def manager(backend: str, clock: Clock) -> Iterator[KVCacheManager]:
    with KVCacheManager(
        1 << 22, backend, LAYOUT, clock=clock, receipts=False, chunk_tokens=16
    ) as manager:
        yield manager
        manager.check_integrity()


def serve(
    manager: KVCacheManager, tokens: Sequence[int], key: CacheKey | None = None, **options: Any
) -> tuple[int, KVCacheEntry]:
    """Open a session, check what it holds, compute the rest, close it; return what was reused."""
    entry, left = manager.open_session(tokens, key, **options)
    reused = len(tokens) - left
    assert entry.token_count == reused
    new = computed(tokens, reused, entry.layout)
    assert entry.extend(new, -new) == len(tokens)
    check(entry, tokens)
    manager.close_session(entry, tokens)
    manager.check_integrity()
    return reused, entry


def prefix(manager: KVCacheManager) -> PrefixStats:
    return manager.get_stats().prefix


def test_the_next_turn_goes_on_where_the_last_one_ended(manager: KVCacheManager) -> None:
    assert serve(manager, range(40), key_of(1))[0] == 0
    assert serve(manager, range(60), key_of(1))[0] == 40
    assert serve(manager, range(60), key_of(1))[0] == 59  # the last one is left to compute
    assert manager.session_keys() == [key_of(1)]
    assert prefix(manager) == PrefixStats(
        lookups=3,
        tokens_asked=160,
        tokens_reused=99,
        tokens_by_source={"continued": 99, "forked": 0, "copied": 0, "loaded": 0},
        tokens_held=60,
    )
    assert prefix(manager).reuse_ratio == 99 / 160


def test_a_session_that_begins_like_another_is_forked(manager: KVCacheManager) -> None:
    serve(manager, range(100), key_of(1))
    used = manager.get_stats().used_memory
    assert serve(manager, [*range(70), *range(500, 530)], key_of(2))[0] == 70
    by_source = prefix(manager).tokens_by_source
    if manager.get_stats().forks:
        assert by_source["forked"] == 70
        assert manager.get_stats().used_memory < 2 * used
    else:
        assert by_source["copied"] == 70
    assert prefix(manager).tokens_held == 130
    assert serve(manager, range(101), key_of(1))[0] == 100  # is as it was


def test_sessions_without_a_name_go_on_in_place(manager: KVCacheManager) -> None:
    serve(manager, range(40))
    assert serve(manager, range(50))[0] == 40
    assert len(manager) == 1
    assert serve(manager, range(60), key_of(1))[0] == 50
    assert manager.session_keys() == [key_of(1)]
    assert serve(manager, [*range(60), 9])[0] == 60
    assert len(manager) == 2  # a session with a name keeps it


def test_an_edited_history_is_cut_at_the_first_other_token(manager: KVCacheManager) -> None:
    serve(manager, range(80), key_of(1))
    edited = [*range(33), 7, 7, 7]
    assert serve(manager, edited, key_of(1))[0] == 33
    assert serve(manager, range(20), key_of(1))[0] == 19
    assert serve(manager, [5, 6], key_of(1))[0] == 0
    assert manager.get_cache_entry(key_of(1)) is not None


def test_what_another_session_holds_may_be_longer(manager: KVCacheManager) -> None:
    manager.pin(serve_key(manager, [1, 2, 3, 4, 50], key_of(1)))
    serve(manager, range(1, 30), key_of(2))
    assert serve(manager, range(1, 40), key_of(1))[0] == 29
    manager.unpin(key_of(1))  # the session has its pin still
    assert serve(manager, [1, 2, 3, 4, 50, 51])[0] == 5  # and what it held before is there


def serve_key(manager: KVCacheManager, tokens: Sequence[int], key: CacheKey) -> CacheKey:
    serve(manager, tokens, key)
    return key


def test_one_user_at_a_time(manager: KVCacheManager) -> None:
    entry, _ = manager.open_session([1, 2], key_of(1))
    with pytest.raises(CacheInUseError, match="chat/1"):
        manager.open_session([1, 2], key_of(1))
    manager.close_session(entry, [])
    assert key_of(1) not in manager  # nothing was held
    assert serve(manager, [1, 2], key_of(1))[0] == 0


def test_an_entry_of_another_call_is_not_overwritten(manager: KVCacheManager) -> None:
    entry = manager.create_cache_entry(key_of(1), 64)
    with pytest.raises(EntryExistsError, match="chat/1"):
        manager.open_session([1, 2], key_of(1))
    with pytest.raises(InvalidArgumentError, match="not open"):
        manager.close_session(entry, [1])
    assert manager.get_cache_entry(key_of(1)) is entry


def test_a_closed_entry_cannot_be_used(manager: KVCacheManager) -> None:
    _, entry = serve(manager, range(20), key_of(1))
    one = computed([1], 0, LAYOUT)
    for act in (
        entry.keys,
        partial(entry.truncate, 0),
        partial(entry.extend, one, one),
        partial(manager.close_session, entry, range(20)),
    ):
        with pytest.raises(EntryRemovedError, match="chat/1"):
            act()
    assert serve(manager, range(20), key_of(1))[0] == 19


@pytest.mark.parametrize("is_open", [True, False])
def test_tokens_that_were_dropped_from_an_entry_are_not_reused(
    manager: KVCacheManager, is_open: bool
) -> None:
    """Whoever has the entry may truncate it, and write other tokens in their place."""
    serve(manager, range(40), key_of(1))
    if is_open:
        entry, _ = manager.open_session(range(41), key_of(1))
    else:
        found = manager.get_cache_entry(key_of(1))
        assert isinstance(found, KVCacheEntry)
        entry = found
    entry.truncate(10)
    other = computed([9] * 50, 0, LAYOUT)
    entry.extend(other, other)
    assert serve(manager, range(40), key_of(2))[0] == 10
    if is_open:
        manager.close_session(entry, [*range(10), *[9] * 50])
        with pytest.raises(EntryRemovedError):
            entry.truncate(0)
    entry = _entry(manager, key_of(2))
    entry.truncate(0)
    assert serve(manager, [*range(40), 1], key_of(3))[0] == 10


def _entry(manager: KVCacheManager, key: CacheKey) -> KVCacheEntry:
    found = manager.get_cache_entry(key)
    assert isinstance(found, KVCacheEntry)
    return found


def test_only_equal_identities_share(manager: KVCacheManager) -> None:
    tokens = range(30)
    serve(manager, tokens, model_id="a", salt="x")
    assert serve(manager, tokens, model_id="b", salt="x")[0] == 0
    assert serve(manager, tokens, model_id="a", salt="y")[0] == 0
    assert serve(manager, tokens, model_id="a", salt="x", layout=OTHER_LAYOUT)[0] == 0
    assert serve(manager, tokens, model_id="a", salt="x")[0] == 29
    assert serve(manager, tokens, key_of(1), model_id="a", salt="x")[0] == 29
    assert serve(manager, tokens, key_of(1), model_id="b", salt="x")[0] == 29  # not its own
    assert serve(manager, tokens, key_of(1), model_id="c", salt="x")[0] == 0


def test_close_checks_the_tokens(manager: KVCacheManager) -> None:
    serve(manager, range(30), key_of(1))
    entry, left = manager.open_session(range(31), key_of(1))
    with pytest.raises(InvalidTokensError, match="position 12"):
        manager.close_session(entry, [*range(12), 99, *range(13, 30)])
    with pytest.raises(InvalidTokensError, match="position 5"):
        manager.close_session(entry, range(5))
    new = computed(range(31), 30, LAYOUT)
    assert left == 1
    entry.append(0, new[0], new[0])  # a step that does not end
    manager.close_session(entry, range(40))
    assert prefix(manager).tokens_held == 30
    assert serve(manager, range(33), key_of(1))[0] == 30


def test_room_for_the_tokens(backend: str) -> None:
    with KVCacheManager(1 << 24, backend, LAYOUT, receipts=False) as manager:
        _, entry = serve(manager, range(300), key_of(1))
        assert entry.max_context_length >= 300
        with pytest.raises(ContextOverflowError, match="300 tokens"):
            manager.open_session(range(300), key_of(1), max_context_length=299)
        reused, entry = serve(manager, range(310), key_of(1), max_context_length=1000)
        assert (reused, entry.max_context_length >= 1000) == (300, True)
        reused, entry = serve(manager, range(400), key_of(2), max_context_length=2000)
        assert (reused, entry.max_context_length >= 2000) == (310, True)
        manager.check_integrity()


def test_an_open_session_is_not_evicted(backend: str) -> None:
    with KVCacheManager(1 << 20, backend, LAYOUT, receipts=False) as manager:
        entry, _ = manager.open_session(range(100), max_context_length=400)
        tokens = computed(range(400), 0, LAYOUT)
        entry.extend(tokens, tokens)
        with pytest.raises(PoolExhaustedError):
            manager.make_room(1 << 20)
        manager.close_session(entry, range(400))
        manager.make_room(1 << 20)
        assert len(manager) == 0
        manager.check_integrity()


def test_tails_make_room_and_prefixes_stay() -> None:
    with KVCacheManager(1 << 20, "mmap", LAYOUT, receipts=False, chunk_tokens=32) as manager:
        if not manager.pool.is_elastic:
            pytest.skip("this system has no elastic arenas")
        serve(manager, range(1024), key_of(1))  # 1 KiB a token: all of the pool
        assert manager.get_stats().used_memory == 1 << 20
        serve(manager, range(2000, 2100), key_of(2))
        assert len(manager) == 2
        held = prefix(manager).tokens_held
        assert 900 < held <= 1024
        assert serve(manager, range(1024), key_of(1))[0] == held - 100
        with pytest.raises(PoolExhaustedError):
            manager.make_room((1 << 20) + 4096)
        assert prefix(manager).tokens_held > 1000  # nothing was evicted in vain


def test_sessions_without_tokens_are_in_the_same_order(backend: str) -> None:
    size = LAYOUT.geometry(256).nbytes
    with KVCacheManager(3 * size, backend, LAYOUT, receipts=False) as manager:
        full = computed(range(256), 0, LAYOUT)
        manager.create_cache_entry(key_of("old"), 256).extend(full, full)
        serve(manager, range(256), key_of(1), max_context_length=256)
        manager.create_cache_entry(key_of("new"), 256).extend(full, full)
        serve(manager, range(256), key_of(1), max_context_length=256)
        manager.create_cache_entry(key_of("newer"), 256).extend(full, full)
        assert key_of("old") not in manager
        manager.create_cache_entry(key_of("newest"), 256).extend(full, full)
        assert key_of("new") not in manager
        assert key_of(1) in manager
        manager.check_integrity()


def test_a_budget_of_tokens(backend: str) -> None:
    with KVCacheManager(
        1 << 24, backend, LAYOUT, receipts=False, chunk_tokens=8, prefix_tokens=64
    ) as manager:
        for first in range(0, 400, 40):
            serve(manager, range(first, first + 40))
            assert prefix(manager).tokens_held <= 64
        assert serve(manager, range(360, 401))[0] == 40
        serve(manager, range(1000, 1100))  # more than the budget: the first ones stay
        assert prefix(manager).tokens_held == 64
        assert serve(manager, range(1000, 1100))[0] == 64


def test_a_time_to_live(manager: KVCacheManager, clock: Clock) -> None:
    serve(manager, range(30), key_of(1), ttl=10)
    clock.now += 6
    serve(manager, range(30), key_of(1))
    clock.now += 6
    assert serve(manager, range(30), key_of(1), ttl=2)[0] == 29
    clock.now += 3
    assert serve(manager, range(30), key_of(1))[0] == 0
    entry, _ = manager.open_session([5], key_of(2), ttl=1)
    clock.now += 2
    assert key_of(2) not in manager  # nobody closed it
    with pytest.raises(EntryRemovedError, match="chat/2"):
        manager.close_session(entry, [5])


def test_a_shortage_leaves_all_as_it_was(manager: KVCacheManager) -> None:
    """A copy or a larger entry does not fit: the session and its key are as they were."""
    serve(manager, range(100), key_of(1))
    serve(manager, range(90), key_of(2))
    manager.pin(key_of(1))
    manager.pin(key_of(2))
    before = manager.get_stats(), manager.session_keys()
    for key in (key_of(1), key_of(3), None):
        with pytest.raises(PoolExhaustedError):
            manager.open_session(range(150), key, max_context_length=1 << 36)
        assert (manager.get_stats(), manager.session_keys()) == before
        manager.check_integrity()


@pytest.mark.no_cover
@pytest.mark.parametrize("seed", [0, 1, 5])  # a chunk has 16, 1 and 50 tokens
def test_random_sessions_read_what_was_computed(backend: str, seed: int) -> None:
    """Every token that is reused has the keys of its own history: 150 steps with eviction."""
    draws, clock = random.Random(seed), Clock()
    with KVCacheManager(
        1 << 20,
        backend,
        LAYOUT,
        clock=clock,
        receipts=False,
        chunk_tokens=draws.choice([1, 16, 50]),
    ) as manager:
        spoken: list[list[int]] = [[]]
        opened: list[tuple[KVCacheEntry, list[int]]] = []
        for _ in range(150):
            clock.now += 1
            tokens = list(draws.choice(spoken))
            del tokens[draws.randrange(len(tokens) + 1) if draws.random() < 0.3 else len(tokens) :]
            tokens += [draws.randrange(3) for _ in range(draws.randrange(1, 40))]
            tokens = tokens[:250]
            key = draws.choice([None, key_of(draws.randrange(6))])
            ttl = draws.choice([None, None, 5])
            try:
                entry, left = manager.open_session(
                    tokens, key, max_context_length=256, ttl=ttl, salt=draws.choice("ab")
                )
                new = computed(tokens, len(tokens) - left, LAYOUT)
                opened.append((entry, tokens))
                entry.extend(new, -new)
            except (CacheInUseError, PoolExhaustedError):
                pass
            spoken = [*spoken[-20:], tokens]
            while opened and (len(opened) > 3 or draws.random() < 0.7):
                entry, tokens = opened.pop(draws.randrange(len(opened)))
                try:
                    if entry.token_count == len(tokens):
                        check(entry, tokens)
                    manager.close_session(entry, tokens)
                except EntryRemovedError:
                    pass
            if draws.random() < 0.1:
                manager.remove_cache_entry(draws.choice(manager.session_keys() or [key_of(0)]))
            manager.check_integrity()
        assert prefix(manager).tokens_reused > 1000


def test_a_prefix_is_given_up_if_both_do_not_fit(clock: Clock) -> None:
    capacity = 300 * LAYOUT.bytes_per_token
    with KVCacheManager(capacity, "numpy", LAYOUT, clock=clock, receipts=False) as manager:
        first, second = list(range(100)), [*range(50), *range(500, 530)]
        assert serve(manager, first, key_of(1), max_context_length=200)[0] == 0
        assert serve(manager, second, key_of(2), max_context_length=200)[0] == 0
        assert manager.session_keys() == [key_of(2)]
        manager.check_integrity()


@pytest.mark.parametrize("key", [key_of(1), None])
def test_tokens_are_given_up_if_they_do_not_fit_beside_a_larger_block(
    key: CacheKey | None, clock: Clock
) -> None:
    capacity = 300 * LAYOUT.bytes_per_token
    with KVCacheManager(capacity, "numpy", LAYOUT, clock=clock, receipts=False) as manager:
        assert serve(manager, range(100), key, max_context_length=180)[0] == 0
        assert serve(manager, range(120), key, max_context_length=180)[0] == 100
        assert serve(manager, range(190), key, max_context_length=200)[0] == 0
        assert len(manager) == 1
        manager.pin(manager.session_keys()[0])
        with pytest.raises(PoolExhaustedError):
            manager.open_session(range(220), key, max_context_length=250)
        assert len(manager) == 1
        manager.check_integrity()


# -- what is known of a session ----------------------------------------------------------


def test_the_tokens_of_a_session_can_be_asked_for(manager: KVCacheManager) -> None:
    key, tokens = key_of(1), list(range(40))
    assert manager.get_session_tokens(key) is None
    assert not manager.is_open(key)
    entry, _ = manager.open_session(tokens, key)
    assert manager.is_open(key)
    assert list(known(manager, key)) == []
    new = computed(tokens, 0, LAYOUT)
    entry.extend(new, -new)
    manager.close_session(entry, tokens[:30])
    assert not manager.is_open(key)
    assert list(known(manager, key)) == tokens[:30]
    opened = manager.open_session(tokens[:20], key)
    assert list(known(manager, key)) == tokens[:19]
    opened.entry.truncate(5)
    assert list(known(manager, key)) == tokens[:5]


def test_the_tokens_of_another_entry_are_not_known(manager: KVCacheManager) -> None:
    manager.create_cache_entry(key_of(1), 16)
    assert manager.get_session_tokens(key_of(1)) is None
    assert not manager.is_open(key_of(1))


def known(manager: KVCacheManager, key: CacheKey) -> NDArray[np.int64]:
    tokens = manager.get_session_tokens(key)
    assert tokens is not None
    return tokens


class Raising(LruPolicy):
    """Raises in the n-th of all calls that change it, once."""

    calls_left = 0

    def _count(self) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise ZeroDivisionError

    def admit(self, item: Hashable, nbytes: int, /) -> None:
        self._count()
        super().admit(item, nbytes)

    def touch(self, item: Hashable, /) -> None:
        self._count()
        super().touch(item)

    def remove(self, item: Hashable, /) -> None:
        self._count()
        super().remove(item)

    def resize(self, item: Hashable, nbytes: int, /) -> None:
        self._count()
        super().resize(item, nbytes)

    def split(self, item: Hashable, head: Hashable, nbytes: int, head_nbytes: int, /) -> None:
        self._count()
        super().split(item, head, nbytes, head_nbytes)


def opened_keys(manager: KVCacheManager) -> list[CacheKey]:
    return [key for key in manager.session_keys() if manager.is_open(key)]


@pytest.mark.parametrize("place", range(1, 16))
def test_a_policy_that_raises_breaks_no_session(backend: str, place: int) -> None:
    policy, raised = Raising(), 0
    with KVCacheManager(
        1 << 20, backend, LAYOUT, receipts=False, policy=policy, chunk_tokens=16, prefix_tokens=300
    ) as manager:
        for seed in range(12):
            draws = random.Random(seed)
            tokens = [draws.randrange(2) for _ in range(draws.choice([5, 70, 200]))]
            if policy.calls_left <= 0:
                policy.calls_left = place
            try:
                entry, left = manager.open_session(tokens, key_of(seed % 3))
            except ZeroDivisionError:
                raised += 1
                assert opened_keys(manager) == []
                entry, left = manager.open_session(tokens, key_of(seed % 3))
            new = computed(tokens, len(tokens) - left, LAYOUT)
            entry.extend(new, -new)
            check(entry, tokens)
            try:
                manager.close_session(entry, tokens)
            except ZeroDivisionError:
                raised += 1
                with contextlib.suppress(EntryRemovedError):  # all but the last step was done
                    manager.close_session(entry, tokens)
            assert opened_keys(manager) == []
            manager.check_integrity()
        policy.calls_left = 0
    assert raised


EDGES = ("turn", "open_session", "TieredReuse.open")  # functions around what opens a session


@pytest.mark.parametrize("tokens", [[1, 2, 3], [*range(40), 7], [*range(20), 5]], ids=len)
def test_an_interrupted_call_leaves_no_session_open(backend: str, tokens: list[int]) -> None:
    """Neither with the key nor without: another call opens it again."""
    is_last, place = False, 0
    while not is_last:
        place += 3
        with KVCacheManager(1 << 22, backend, LAYOUT, receipts=False) as manager:
            serve(manager, range(40), key_of(1))
            injection = Injection(place, "interrupt")
            with contextlib.suppress(KeyboardInterrupt), injection:
                manager.open_session(tokens, key_of(1))
            is_last = injection.where is None
            if injection.where is None or injection.where.endswith(EDGES):
                continue  # it was not interrupted, or before its beginning or after its end
            manager.check_integrity()
            assert opened_keys(manager) == []
            serve(manager, tokens, key_of(1))


CONTEXT = 112  # tokens of a session in the tests of two policies
ROOM = LAYOUT.geometry(CONTEXT).nbytes


def victims_reason(manager: KVCacheManager) -> EvictionReason:
    """Evict something; return the reason, which tells the policy `lru` from the others."""
    for number in range(100, 110):
        manager.create_cache_entry(key_of(number), CONTEXT)
    reasons = manager.get_stats().evictions_by_reason
    (reason,) = [reason for reason, count in reasons.items() if count]
    return reason


def test_lru_ranks_until_a_session_is_opened_with_tokens(backend: str) -> None:
    with KVCacheManager(3 * ROOM, backend, LAYOUT, receipts=False, elastic=False) as manager:
        for number in range(3):
            manager.create_cache_entry(key_of(number), CONTEXT)
        manager.get_cache_entry(key_of(0))
        manager.create_cache_entry(key_of(3), CONTEXT)
        assert key_of(1) not in manager
        assert manager.get_stats().evictions_by_reason[EvictionReason.LRU] == 1


def test_the_default_policy_of_prefixes_takes_the_order_of_sessions_over(backend: str) -> None:
    with KVCacheManager(4 * ROOM, backend, LAYOUT, receipts=False, elastic=False) as manager:
        for number in range(3):
            manager.create_cache_entry(key_of(number), CONTEXT)
        manager.get_cache_entry(key_of(0))
        serve(manager, range(100), max_context_length=CONTEXT)
        manager.check_integrity()
        manager.create_cache_entry(key_of(3), CONTEXT)
        assert key_of(1) not in manager
        assert manager.get_stats().evictions_by_reason[EvictionReason.POLICY] == 1


@pytest.mark.parametrize("policy", ["lru", LruPolicy()])
def test_a_policy_that_was_named_stays(policy: str | LruPolicy) -> None:
    with KVCacheManager(4 * ROOM, "numpy", LAYOUT, receipts=False, policy=policy) as manager:
        serve(manager, range(100))
        assert victims_reason(manager) is EvictionReason.LRU


def test_lru_stays_if_the_policy_of_prefixes_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVPOOL_DISABLED_POLICIES", "hit-density")
    with KVCacheManager(4 * ROOM, "numpy", LAYOUT, receipts=False) as manager:
        serve(manager, range(100))
        assert victims_reason(manager) is EvictionReason.LRU
