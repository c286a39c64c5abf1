"""What is the policy's own: its order where nothing is known."""

from __future__ import annotations

import random
from collections.abc import Hashable

import pytest

from kvpool.eviction._reuse import BINS, ReuseAges
from kvpool.eviction.hit_density import HitDensityPolicy
from kvpool.eviction.lru import LruPolicy


@pytest.mark.parametrize("count", [3, 4, 6])
def test_few_large_items_are_in_the_order_of_lru(count: int) -> None:
    """An age that jumps over many bins at once takes an item to the bin of that age."""
    policies = HitDensityPolicy(), LruPolicy()
    for number in range(count):
        for policy in policies:
            policy.admit(number, 1 << 16)
    for number in (1, 0, *range(count)):  # fewer uses than the policy learns from
        for policy in policies:
            policy.touch(number)
        orders: list[list[Hashable]] = [list(policy.victims()) for policy in policies]
        assert orders[0][0] == orders[1][0]


def test_what_grows_old_at_once_is_evicted_first() -> None:
    policy = HitDensityPolicy()
    policy.admit("old", 1 << 10)
    sizes = random.Random(1)
    for number in range(20):
        policy.admit(number, 1 << sizes.randrange(10, 20))
        assert next(policy.victims()) == "old"


def test_an_age_at_which_most_cease_to_be_watched_is_not_worth_more() -> None:
    """One of ten is used in each bin, but most of the last bin ceases to be watched."""
    ages = ReuseAges(1)
    for at in range(BINS):
        ages.note_use(0, at, 100_000)
        ages.note_older(0, at, 900_000)
    ages.learn(0, 1, 1.0)
    as_watched = ages.index[0][20]
    ages.note_use(0, 20, 100_000)
    ages.note_lost(0, 20, 1_800_000)
    ages.learn(0, 1, 1.0)
    assert ages.index[0][20] == pytest.approx(as_watched, rel=0.01)
