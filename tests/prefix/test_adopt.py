"""Another policy takes the order of sessions over, whatever interrupts that."""

from __future__ import annotations

from functools import partial

import pytest

from kvpool.cache_key import CacheKey
from kvpool.eviction import EvictionPolicy
from kvpool.eviction.fifo import FifoPolicy
from kvpool.eviction.lru import LruPolicy
from kvpool.layout import KVLayout
from kvpool.prefix import Identity, Ranking
from tests.support.injection import Kind, every_place, injected
from tests.support.sessions import key_of

KEYS = [key_of(number) for number in (2, 0, 1)]  # the least recently used first
IDENTITY = Identity("", "", KVLayout(1, 1, 1))


def ranking() -> Ranking:
    made = Ranking(LruPolicy(), 1)
    for number in (0, 1, 2):
        made.admit(key_of(number), 10)
    for key in KEYS:
        made.touch(key)
    return made


def size_of(_key: CacheKey) -> int:
    return 10


def test_the_order_is_that_of_the_policy_before() -> None:
    one, policy = ranking(), FifoPolicy()
    one.adopt(policy, size_of)
    assert list(one.victims()) == KEYS
    assert (one.policy, one.tree.policy, one.reason) == (policy, policy, policy.reason)
    one.hold(KEYS[0], IDENTITY, b"12345678")  # its segment is ranked in its place
    assert [key for key in one.victims() if key != KEYS[0]] == KEYS[1:]
    one.check_integrity(set(KEYS))


@pytest.mark.parametrize("kind", ["interrupt", "memory"])
def test_an_error_between_two_policies_leaves_one_of_them(kind: Kind) -> None:
    seen: set[type[EvictionPolicy]] = set()
    for injection in every_place(kind):
        one = ranking()
        injected(partial(one.adopt, FifoPolicy(), size_of), injection)
        one.restore([(key, 10, None) for key in KEYS])
        seen.add(type(one.policy))
        assert one.tree.policy is one.policy
        assert one.reason is one.policy.reason
        assert list(one.victims()) == KEYS
        one.check_integrity(set(KEYS))
    assert seen == {LruPolicy, FifoPolicy}
