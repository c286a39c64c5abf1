"""A policy that raises, or ranks what is not there: the error passes, and the books hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator

import pytest

from kvpool.errors import BrokenPluginError
from kvpool.eviction.lru import LruPolicy
from kvpool.manager import KVCacheManager
from kvpool.receipts import KvEvictionReceipt, MemorySink
from tests.support.sessions import LAYOUT, Clock, key_of, random_tokens

CONTEXT = 64
CAPACITY = 96 << 10


class BrokenError(Exception):
    """What the policy raises."""


class Broken(LruPolicy):
    """Raises once, in one of its methods."""

    def __init__(self, where: str, at: int) -> None:
        super().__init__()
        self.where = where
        self.left = at
        self.is_on = False

    def tick(self, where: str) -> None:
        if self.is_on and where == self.where:
            self.left -= 1
            if self.left == 0:
                raise BrokenError

    def admit(self, key: Hashable, nbytes: int, /) -> None:
        self.tick("admit")
        super().admit(key, nbytes)

    def touch(self, key: Hashable, /) -> None:
        self.tick("touch")
        super().touch(key)

    def remove(self, key: Hashable, /) -> None:
        self.tick("remove")
        super().remove(key)
        self.tick("after remove")

    def resize(self, key: Hashable, nbytes: int, /) -> None:
        self.tick("resize")
        super().resize(key, nbytes)

    def victims(self) -> Iterator[Hashable]:
        for key in super().victims():
            self.tick("victims")
            yield key


METHODS = ["admit", "touch", "remove", "after remove", "resize", "victims"]

CALLS: dict[str, Callable[[KVCacheManager], object]] = {
    "create": lambda m: m.create_cache_entry(key_of("new"), CONTEXT),
    "create in a full pool": lambda m: m.allocate_entry(key_of("new"), 50_000),
    "fork": lambda m: m.fork_cache_entry(key_of(3), key_of("new")),
    "grow": lambda m: m.get_or_create_cache(key_of(3), 2 * CONTEXT),
    "find": lambda m: m.get_cache_entry(key_of(3)),
    "remove": lambda m: m.remove_cache_entry(key_of(3)),
    "make room": lambda m: m.make_room(60_000),
}


def check(manager: KVCacheManager, sink: MemorySink) -> None:
    """Check that nothing is left over of a call that raised."""
    manager.check_integrity()
    assert manager.pool.stats().live_blocks == len(manager)
    stats = manager.get_stats()
    recorded = [one for one in sink.receipts if isinstance(one, KvEvictionReceipt)]
    assert len(recorded) == stats.evictions
    manager.get_or_create_cache(key_of("later"), CONTEXT).extend(*random_tokens(LAYOUT, 3))
    manager.check_integrity()


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("where", METHODS)
@pytest.mark.parametrize("call", CALLS)
def test_an_error_of_the_policy_breaks_nothing(
    backend: str, call: str, where: str, at: int
) -> None:
    policy, sink = Broken(where, at), MemorySink()
    with KVCacheManager(CAPACITY, backend, LAYOUT, policy=policy, receipts=sink) as manager:
        for number in range(4):
            entry = manager.create_cache_entry(key_of(number), CONTEXT)
            entry.extend(*random_tokens(LAYOUT, 3))
        policy.is_on = True
        try:
            CALLS[call](manager)
        except BrokenError:
            assert policy.left == 0
        policy.is_on = False
        check(manager, sink)


@pytest.mark.parametrize("where", ["remove", "after remove", "victims"])
def test_nor_does_it_when_entries_expire(backend: str, where: str) -> None:
    policy, sink, clock = Broken(where, 2), MemorySink(), Clock()
    with KVCacheManager(
        CAPACITY, backend, LAYOUT, ttl=10, policy=policy, clock=clock, receipts=sink
    ) as manager:
        for number in range(4):
            manager.create_cache_entry(key_of(number), CONTEXT)
        clock.now += 10
        policy.is_on = True
        if where == "victims":
            assert len(manager.evict_expired()) == 4
        else:
            with pytest.raises(BrokenError):
                manager.evict_expired()
        policy.is_on = False
        assert len(manager) == 0
        check(manager, sink)


@pytest.mark.parametrize("where", ["remove", "after remove"])
def test_closing_gives_the_pool_up(backend: str, where: str) -> None:
    policy = Broken(where, 1)
    manager = KVCacheManager(CAPACITY, backend, LAYOUT, policy=policy, receipts=False)
    manager.create_cache_entry(key_of(1), CONTEXT)
    policy.is_on = True
    with pytest.raises(BrokenError):
        manager.close()
    assert "closed" in repr(manager.pool)
    manager.close()


class Repeating(LruPolicy):
    """Yields every key twice."""

    def victims(self) -> Iterator[Hashable]:
        return itertools.chain.from_iterable((key, key) for key in super().victims())


class Endless(LruPolicy):
    """Yields its keys again and again."""

    def victims(self) -> Iterator[Hashable]:
        return itertools.cycle(super().victims())


class Inventing(LruPolicy):
    """Yields a key that nobody has."""

    def victims(self) -> Iterator[Hashable]:
        return itertools.chain([key_of("nobody")], super().victims())


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Repeating(), "the eviction policy Repeating yields chat/0 twice; nothing was evicted"),
        (Inventing(), "the eviction policy Inventing yields chat/nobody, which has no entry"),
    ],
)
def test_a_policy_that_ranks_what_is_not_there_is_named(policy: LruPolicy, text: str) -> None:
    with KVCacheManager(CAPACITY, "numpy", LAYOUT, policy=policy, receipts=False) as manager:
        for number in range(4):
            manager.allocate_entry(key_of(number), CAPACITY // 4)
        before = manager.get_stats()
        for call in (
            lambda: manager.make_room(CAPACITY),
            lambda: manager.allocate_entry(key_of("new"), CAPACITY),
        ):
            with pytest.raises(BrokenPluginError, match=text):
                call()
        assert manager.get_stats() == before


@pytest.mark.parametrize("policy", [Repeating(), Endless()])
def test_a_policy_that_repeats_itself_is_told_from_broken_books(policy: LruPolicy) -> None:
    with KVCacheManager(CAPACITY, "numpy", LAYOUT, policy=policy, receipts=False) as manager:
        manager.check_integrity()
        manager.create_cache_entry(key_of(0), CONTEXT)
        text = f"the eviction policy {type(policy).__name__} yields chat/0 twice"
        with pytest.raises(BrokenPluginError, match=text):
            manager.check_integrity()


def test_a_policy_without_end_is_an_error_where_all_sessions_are_pinned() -> None:
    with KVCacheManager(CAPACITY, "numpy", LAYOUT, policy=Endless(), receipts=False) as manager:
        for number in range(4):
            manager.allocate_entry(key_of(number), CAPACITY // 4)
            manager.pin(key_of(number))
        with pytest.raises(BrokenPluginError, match="Endless yields chat/0 twice"):
            manager.make_room(CAPACITY)
        assert len(manager) == 4


@pytest.mark.parametrize("policy", [Repeating(), Endless(), Inventing()])
def test_it_is_named_as_well_where_tokens_are_held(policy: LruPolicy) -> None:
    with KVCacheManager(CAPACITY, "mmap", LAYOUT, policy=policy, receipts=False) as manager:
        ids = list(range(CONTEXT))
        entry, left = manager.open_session(ids, key_of(0), max_context_length=CONTEXT)
        entry.extend(*random_tokens(LAYOUT, left))
        manager.close_session(entry, ids)
        manager.create_cache_entry(key_of(1), CONTEXT)
        manager.pin(key_of(0))
        before = manager.get_stats()
        with pytest.raises(BrokenPluginError, match=f"the eviction policy {type(policy).__name__}"):
            manager.make_room(CAPACITY)
        assert manager.get_stats() == before
