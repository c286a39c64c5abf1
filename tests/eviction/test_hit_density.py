"""What is the policy's own: its order where nothing is known."""

from __future__ import annotations

import random
from collections.abc import Hashable

import pytest

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
