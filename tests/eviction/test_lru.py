from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvpool.cache_key import CacheKey
from kvpool.eviction.base import EvictionReason
from kvpool.eviction.lru import LruPolicy
from kvpool.eviction.registry import create_policy
from kvpool.testing import PolicyConformance
from tests.support.sessions import key_of


class TestLruPolicy(PolicyConformance):
    policy = "lru"


def test_it_is_the_default() -> None:
    assert isinstance(create_policy(), LruPolicy)
    assert LruPolicy.reason is EvictionReason.LRU


@given(st.lists(st.tuples(st.sampled_from(["use", "resize", "remove"]), st.integers(0, 5))))
def test_the_least_recently_used_goes_first(actions: list[tuple[str, int]]) -> None:
    policy = LruPolicy()
    order: list[CacheKey] = []  # the least recently used first
    for action, number in actions:
        key = key_of(number)
        if key not in order:
            policy.admit(key, 64)
            order.append(key)
        elif action == "use":
            policy.touch(key)
            order.append(order.pop(order.index(key)))
        elif action == "resize":
            policy.resize(key, 128)
        else:
            policy.remove(key)
            order.remove(key)
        assert list(policy.victims()) == order
