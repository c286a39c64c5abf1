from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from kvpool.cache_key import CacheKey
from kvpool.entry import PoolEntry
from kvpool.errors import (
    EntryExistsError,
    EntryNotFoundError,
    IntegrityError,
    InvalidTtlError,
)
from kvpool.eviction.lru import LruPolicy
from kvpool.manager._residents import Resident, Residents, check_ttl
from kvpool.pool import MemoryPool
from tests.support.sessions import Clock, key_of


class World:
    """Residents with raw entries in a pool, as a manager would make them."""

    def __init__(self, pool: MemoryPool) -> None:
        self.pool = pool
        self.clock = Clock()
        self.residents = Residents(LruPolicy())

    def add(self, number: int, ttl: float = math.inf) -> PoolEntry:
        key, log = key_of(number), self.residents.use_log
        entry = PoolEntry(
            self.pool,
            self.pool.allocate(64),
            str(key),
            self.clock,
            lambda entry: log.append((key, entry)),
        )
        self.residents.add(key, Resident(entry, ttl, number=1))
        return entry

    def order(self) -> list[CacheKey]:
        return [key for key, _ in self.residents.victims()]


@pytest.fixture
def world() -> Iterator[World]:
    with MemoryPool(1 << 12, "numpy") as pool:
        yield World(pool)


def test_who_was_added_is_there(world: World) -> None:
    entry = world.add(1)
    residents = world.residents
    assert len(residents) == 1
    assert list(residents) == [key_of(1)]
    assert residents.require(key_of(1)).entry is entry
    assert residents.get(key_of(2)) is None
    with pytest.raises(EntryNotFoundError, match=r"^no entry for chat/2$"):
        residents.require(key_of(2))
    with pytest.raises(EntryExistsError, match=r"^chat/1 has an entry .* 64 bytes"):
        residents.require_absent(key_of(1))
    assert residents.remove(key_of(1)).entry is entry
    residents.require_absent(key_of(1))
    residents.check_integrity()


def test_uses_are_told_in_their_order(world: World) -> None:
    one, two, three = (world.add(number) for number in (1, 2, 3))
    for entry in (two, one, two, three, one):  # the clock stands still
        entry.data()
    world.residents.settle()
    assert world.order() == [key_of(2), key_of(3), key_of(1)]
    world.residents.settle()
    assert world.order() == [key_of(2), key_of(3), key_of(1)]
    two.data()
    world.residents.settle()
    assert world.order() == [key_of(3), key_of(1), key_of(2)]


def test_an_entry_that_is_used_often_is_noted_once(world: World) -> None:
    entry = world.add(1)
    for _ in range(10):
        entry.data()
    assert list(world.residents.use_log) == [(key_of(1), entry)]
    world.residents.settle()
    assert not world.residents.use_log
    entry.data()
    assert len(world.residents.use_log) == 1


def test_uses_of_who_has_gone_mean_nothing(world: World) -> None:
    before, after = world.add(1), world.add(2)
    before.data()
    for number in (1, 2):
        world.residents.remove(key_of(number))
    world.residents.settle()
    for number in (1, 2, 3):
        world.add(number)
    before.data()
    after.data()
    assert list(world.residents.use_log) == [(key_of(2), after)]
    world.residents.settle()
    assert world.order() == [key_of(1), key_of(2), key_of(3)]


def test_pinned_sessions_are_no_victims(world: World) -> None:
    for number in (1, 2, 3):
        world.add(number)
    world.residents.require(key_of(1)).pins = 2
    world.residents.require(key_of(3)).pins = 1
    assert world.order() == [key_of(2)]
    assert world.residents.pinned_count() == 2


def test_expired_sessions_but_for_the_pinned(world: World) -> None:
    world.add(1, ttl=10)
    used = world.add(2, ttl=10)
    world.add(3)
    world.add(4, ttl=5)
    world.residents.require(key_of(4)).pins = 1
    world.clock.now += 5
    used.data()
    assert world.residents.expired(world.clock) == []
    world.clock.now += 5
    assert world.residents.expired(world.clock) == [key_of(1)]
    world.residents.require(key_of(4)).pins = 0
    assert world.residents.expired(world.clock) == [key_of(4), key_of(1)]
    world.residents.check_integrity()


@pytest.mark.parametrize("damage", ["forgotten", "unknown", "unwatched", "watched", "watched gone"])
def test_damage_is_found(world: World, damage: str) -> None:
    for number in (1, 2):
        world.add(number, ttl=5)
    residents = world.residents
    residents.check_integrity()
    if damage == "forgotten":
        residents.policy.remove(key_of(1))
    elif damage == "unknown":
        residents.policy.admit(key_of(3), 64)
    elif damage == "unwatched":
        residents._expiry.discard(key_of(1))
    elif damage == "watched":
        residents.require(key_of(2)).ttl = math.inf
    else:
        residents._expiry.add(key_of(3), 1.0)
    with pytest.raises(IntegrityError):
        residents.check_integrity()


@pytest.mark.parametrize("ttl", [0, -1, -0.5, math.nan, -math.inf, "10", [1]])
def test_a_bad_time_to_live_is_shown(ttl: Any) -> None:
    with pytest.raises(InvalidTtlError) as caught:
        check_ttl(ttl)
    assert str(caught.value).endswith(f"not {ttl!r}")


@pytest.mark.parametrize(("ttl", "seconds"), [(None, math.inf), (math.inf, math.inf), (1e-9, 1e-9)])
def test_no_time_to_live_is_forever(ttl: float | None, seconds: float) -> None:
    assert check_ttl(ttl) == seconds
