"""The books of a manager by themselves: `Sessions`, without a lock."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.entry import KVCacheEntry, PoolEntry
from kvpool.errors import (
    EntryExistsError,
    EntryNotFoundError,
    IntegrityError,
    InvalidTtlError,
    PoolClosedError,
)
from kvpool.eviction.lru import LruPolicy
from kvpool.manager._keeper import SessionKeeper, UseLog
from kvpool.manager._session import check_ttl
from kvpool.manager._sessions import Sessions
from kvpool.pool import MemoryBlock, MemoryPool
from kvpool.prefix import Ranking
from tests.support.sessions import LAYOUT, Clock, key_of

MakeRoom = Callable[[int], list[CacheKey]]
Fork = Callable[[KVCacheEntry, CacheKey, CacheKey], KVCacheEntry]


class Nobody:
    """Stands where a manager was: it ends at once."""

    def make_room(self, _nbytes: int) -> list[CacheKey]:
        return []

    def fork(self, entry: KVCacheEntry, _key: CacheKey, _new_key: CacheKey) -> KVCacheEntry:
        return entry


class World:
    """Sessions with raw entries in a pool, without a manager."""

    def __init__(self, pool: MemoryPool) -> None:
        self.pool = pool
        self.clock = Clock()
        self.policy = LruPolicy()
        self.uses: UseLog = deque()
        self.removals: deque[CacheKey] = deque()
        self.sessions = Sessions(
            pool,
            Ranking(self.policy, 64),
            LAYOUT,
            math.inf,
            self.clock,
            None,
            self.uses,
            self.removals,
            self.keeper,
        )

    def keeper(self, key: CacheKey, number: int) -> SessionKeeper:
        nobody = Nobody()
        make_room: weakref.WeakMethod[MakeRoom] = weakref.WeakMethod(nobody.make_room)
        fork: weakref.WeakMethod[Fork] = weakref.WeakMethod(nobody.fork)
        return SessionKeeper(make_room, fork, self.uses, self.clock, key, number)

    def add(self, number: int, ttl: float | None = None) -> PoolEntry:
        return self.sessions.create_raw(key_of(number), 64, ttl)

    def block_of(self, number: int) -> MemoryBlock:
        return self.sessions.require(key_of(number)).entry.block

    def order(self) -> list[Hashable]:
        self.sessions.begin()
        return list(self.policy.victims())


@pytest.fixture
def world() -> Iterator[World]:
    with MemoryPool(1 << 12, "numpy") as pool:
        yield World(pool)


def test_a_session_that_was_made_is_there(world: World) -> None:
    entry = world.add(1)
    sessions = world.sessions
    assert len(sessions) == 1
    assert sessions.keys() == [key_of(1)]
    assert sessions.require(key_of(1)).entry is entry
    assert key_of(1) in sessions
    assert key_of(2) not in sessions
    with pytest.raises(EntryNotFoundError, match=r"^no entry for chat/2$"):
        sessions.require(key_of(2))
    with pytest.raises(EntryExistsError, match=r"^chat/1 has an entry .* 64 bytes"):
        world.add(1)
    assert sessions.remove(key_of(1)) is entry
    assert sessions.remove(key_of(1)) is None
    world.add(1)
    sessions.check_integrity()


def test_the_policy_is_told_of_uses_in_their_order(world: World) -> None:
    one, two, three = (world.add(number) for number in (1, 2, 3))
    for entry in (two, one, two, three, one):  # the clock stands still
        entry.data()
    assert world.order() == [key_of(2), key_of(3), key_of(1)]
    assert world.order() == [key_of(2), key_of(3), key_of(1)]
    two.data()
    assert world.order() == [key_of(3), key_of(1), key_of(2)]


def test_an_entry_that_is_used_often_is_noted_once(world: World) -> None:
    entry = world.add(1)
    for _ in range(10):
        entry.data()
    assert list(world.uses) == [(key_of(1), 1)]
    world.sessions.begin()
    assert not world.uses
    entry.data()
    assert len(world.uses) == 1


def test_a_use_before_a_removal_does_not_count_for_the_next_entry_of_the_key(world: World) -> None:
    before, after = world.add(1), world.add(2)
    before.data()
    for number in (1, 2):
        world.sessions.remove(key_of(number))
    assert world.order() == []
    for number in (1, 2, 3):
        world.add(number)
    world.uses.extend([(key_of(1), 1), (key_of(2), 2)])
    assert world.order() == [key_of(1), key_of(2), key_of(3)]
    world.uses.append((key_of(2), 4))
    assert world.order() == [key_of(1), key_of(3), key_of(2)]
    assert after.session_id == "chat/2"


def test_removals_come_after_uses(world: World) -> None:
    one, two = world.add(1), world.add(2)
    one.data()
    two.data()
    world.removals.extend([key_of(2), key_of(2), key_of(9)])
    assert world.order() == [key_of(1)]
    assert not world.removals
    world.sessions.check_integrity()


def test_a_pinned_session_is_not_evicted(world: World) -> None:
    for number in (1, 2, 3):
        world.add(number)
    for number in (1, 1, 2):
        world.sessions.pin(key_of(number))
    assert world.sessions.stats().pinned_entries == 2
    world.sessions.unpin(key_of(1))
    free = world.pool.stats().free
    assert world.sessions.room.make_room(free + 1) == [key_of(3)]  # next to what is free


def test_sessions_expire_unless_they_are_pinned(world: World) -> None:
    world.add(1, ttl=10)
    used = world.add(2, ttl=10)
    world.add(3)
    world.add(4, ttl=5)
    world.sessions.pin(key_of(4))
    world.clock.now += 5
    used.data()
    assert world.sessions.begin() == []
    world.clock.now += 4
    assert world.sessions.begin() == []
    world.sessions.unpin(key_of(4))
    world.clock.now += 1
    assert world.sessions.begin() == [key_of(4), key_of(1)]
    assert world.sessions.keys() == [key_of(2), key_of(3)]
    world.sessions.check_integrity()


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda world: world.policy.remove(key_of(1)), "the policy ranks 1 items"),
        (lambda world: world.policy.admit(key_of(3), 64), "the policy ranks 3 items"),
        (lambda world: setattr(world.sessions.require(key_of(2)), "ttl", math.inf), "ttl inf"),
        (lambda world: setattr(world.sessions.require(key_of(3)), "ttl", 5.0), "ttl 5.0"),
        (
            lambda world: world.pool.deallocate(world.sessions.require(key_of(1)).entry.block),
            "live",
        ),
    ],
)
def test_damage_is_found(world: World, damage: Callable[[World], object], text: str) -> None:
    world.add(1, ttl=5)
    world.add(2, ttl=5)
    if "5.0" in text:
        world.add(3)
    world.sessions.check_integrity()
    damage(world)
    with pytest.raises(IntegrityError, match=text):
        world.sessions.check_integrity()


def test_an_entry_whose_manager_is_gone_says_so(world: World) -> None:
    entry = world.sessions.create(key_of(1), 8, None, None)
    with pytest.raises(PoolClosedError, match="the manager that kept the entry of chat/1"):
        entry.fork("2")
    with pytest.raises(PoolClosedError, match="the manager that kept the entry of chat/1"):
        world.keeper(key_of(1), 1).make_room(entry, 64)


@pytest.mark.parametrize("ttl", [0, -1, -0.5, math.nan, -math.inf, "10", [1]])
def test_a_bad_time_to_live_is_shown(ttl: Any) -> None:
    with pytest.raises(InvalidTtlError) as caught:
        check_ttl(ttl)
    assert str(caught.value).endswith(f"not {ttl!r}")


@pytest.mark.parametrize(("ttl", "seconds"), [(None, math.inf), (math.inf, math.inf), (1e-9, 1e-9)])
def test_no_time_to_live_is_forever(ttl: float | None, seconds: float) -> None:
    assert check_ttl(ttl) == seconds
