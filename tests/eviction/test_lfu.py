from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvpool.cache_key import CacheKey
from kvpool.eviction.lfu import LfuPolicy
from kvpool.testing import PolicyConformance
from tests.support.sessions import key_of


class TestLfuPolicy(PolicyConformance):
    policy = "lfu"


ACTIONS = st.tuples(
    st.sampled_from(["use", "resize", "remove", "split"]), st.integers(0, 5), st.integers(6, 9)
)


@given(st.lists(ACTIONS))
def test_the_least_often_used_goes_first(actions: list[tuple[str, int, int]]) -> None:
    policy = LfuPolicy()
    uses: dict[CacheKey, list[int]] = {}  # how often, and when at last
    for now, (action, number, head) in enumerate(actions):
        key = key_of(number)
        if key not in uses:
            policy.admit(key, 64)
            uses[key] = [1, now]
        elif action == "use":
            policy.touch(key)
            uses[key] = [uses[key][0] + 1, now]
        elif action == "resize":
            policy.resize(key, 128)
        elif action == "remove":
            policy.remove(key)
            del uses[key]
        elif key_of(head) not in uses:
            policy.split(key, key_of(head), 32, 32)
            policy.touch(key_of(head))
            uses[key_of(head)] = [uses[key][0] + 1, now]
        assert list(policy.victims()) == sorted(uses, key=uses.__getitem__)
