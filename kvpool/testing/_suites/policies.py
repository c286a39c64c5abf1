"""The contract of `kvpool.eviction.base.EvictionPolicy` as tests."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from itertools import islice
from types import FrameType
from typing import Any, ClassVar

import pytest

from kvpool.cache_key import CacheKey
from kvpool.errors import PoolExhaustedError
from kvpool.eviction.base import EvictionPolicy, EvictionReason
from kvpool.eviction.registry import create_policy
from kvpool.manager import KVCacheManager

__all__ = ["PolicyConformance"]

NBYTES = 256
FEW, MANY = 100, 10_000


def keys(count: int, namespace: str = "chat") -> list[CacheKey]:
    """Return distinct keys."""
    return [CacheKey(namespace, number) for number in range(count)]


def ranked(policy: EvictionPolicy) -> set[Hashable]:
    """Return what a policy ranks, each item once."""
    order = list(policy.victims())
    assert len(order) == len(set(order)), "an item is yielded twice"
    return set(order)


class Run:
    """A run of parts of `NBYTES` bytes each, in place of a segment of a prefix tree.

    Parameters
    ----------
    names : sequence of int
        One name for each part.
    cost : float, optional
        The work to make it again; by default as much as its bytes.
    """

    def __init__(self, names: Sequence[int], cost: float | None = None) -> None:
        self.names = names
        self.cost = cost

    def __repr__(self) -> str:
        return f"Run({self.names})"

    @property
    def nbytes(self) -> int:
        """The bytes of all parts."""
        return len(self.names) * NBYTES

    def split(self, policy: EvictionPolicy, parts: int) -> Run:
        """Take the first parts off, as an item that a policy is told of, and return it."""
        head = Run(self.names[:parts])
        self.names = self.names[parts:]
        policy.split(self, head, self.nbytes, head.nbytes)
        return head

    def trim(self, policy: EvictionPolicy) -> None:
        """Let the last part go, and tell a policy."""
        policy.resize(self, self.nbytes - NBYTES)
        self.names = self.names[:-1]


class CountingKey(CacheKey):
    """A key that counts how often it is hashed or compared."""

    looks: ClassVar[int] = 0

    def __hash__(self) -> int:
        CountingKey.looks += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        CountingKey.looks += 1
        return super().__eq__(other)

    def __lt__(self, other: Any) -> bool:
        CountingKey.looks += 1
        return super().__lt__(other)


def steps(action: Callable[[], object]) -> int:
    """Return the number of Python lines that `action` runs, plus its hashes and comparisons."""
    lines = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    CountingKey.looks, before = 0, sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return lines + CountingKey.looks


class PolicyConformance:
    """Tests that every eviction policy must pass. Subclass it in a test module, and set `policy`.

    Attributes
    ----------
    policy : str
        Name of the policy.

    Notes
    -----
    Override `create_policy` for a policy that has no name, or takes arguments.
    """

    policy: ClassVar[str]

    def create_policy(self) -> EvictionPolicy:
        """Create a new policy."""
        return create_policy(self.policy)

    @pytest.fixture
    def ranking(self) -> EvictionPolicy:
        """Return a policy with ten sessions of different sizes."""
        policy = self.create_policy()
        for number, key in enumerate(keys(10)):
            policy.admit(key, NBYTES * (1 + number % 3))
        return policy

    # -- ranked sessions ---------------------------------------------------------------------

    def test_it_is_a_policy_with_a_reason(self) -> None:
        """A policy has a reason, which is recorded with its evictions."""
        policy = self.create_policy()
        assert isinstance(policy, EvictionPolicy)
        assert isinstance(policy.reason, EvictionReason)

    def test_nothing_is_ranked_at_first(self) -> None:
        """A new policy yields no victims."""
        assert list(self.create_policy().victims()) == []

    def test_every_session_is_ranked_once(self, ranking: EvictionPolicy) -> None:
        """Every admitted session is a possible victim."""
        assert ranked(ranking) == set(keys(10))

    def test_a_removed_session_is_forgotten(self, ranking: EvictionPolicy) -> None:
        """First, last or between: a removed session is not ranked; all others are."""
        order = list(ranking.victims())
        for gone in (order[0], order[-1], order[4]):
            ranking.remove(gone)
            order.remove(gone)
            assert ranked(ranking) == set(order)

    def test_a_key_can_come_back(self, ranking: EvictionPolicy) -> None:
        """A removed key may be admitted again, with another size."""
        for key in keys(10):
            ranking.remove(key)
            ranking.admit(key, 3 * NBYTES)
            assert ranked(ranking) == set(keys(10))

    def test_a_policy_that_was_reset_ranks_nothing(self, ranking: EvictionPolicy) -> None:
        """And it begins anew with the same keys."""
        items = list(ranking.victims())
        ranking.reset()
        assert list(ranking.victims()) == []
        for item in items:
            ranking.admit(item, 64)
        assert set(ranking.victims()) == set(items)

    def test_uses_and_sizes_neither_add_nor_lose_a_session(self, ranking: EvictionPolicy) -> None:
        """A use or a new size may change only the order."""
        for key in (*keys(10), *keys(3), *keys(3)):
            ranking.touch(key)
            assert ranked(ranking) == set(keys(10))
            ranking.resize(key, 9 * NBYTES)
            assert ranked(ranking) == set(keys(10))

    def test_namespaces_are_kept_apart(self) -> None:
        """Equal ids of two namespaces are two sessions, and so are 1 and ``"1"``."""
        policy = self.create_policy()
        all_keys = [*keys(3, "a"), *keys(3, "b"), CacheKey("a", "1")]
        for key in all_keys:
            policy.admit(key, NBYTES)
        policy.remove(CacheKey("a", 1))
        policy.touch(CacheKey("a", "1"))
        assert set(policy.victims()) == {*all_keys} - {CacheKey("a", 1)}

    def test_policies_share_nothing(self, ranking: EvictionPolicy) -> None:
        """Two policies of one kind do not affect each other."""
        other = self.create_policy()
        other.admit(CacheKey("other", 1), NBYTES)
        ranking.remove(CacheKey("chat", 1))
        assert list(other.victims()) == [CacheKey("other", 1)]
        assert len(list(ranking.victims())) == 9

    # -- iterating ---------------------------------------------------------------------------

    def test_iterating_changes_nothing(self, ranking: EvictionPolicy) -> None:
        """A second iteration yields the same order, also after an unfinished one."""
        order = list(ranking.victims())
        assert list(islice(ranking.victims(), 3)) == order[:3]
        assert list(ranking.victims()) == order

    def test_iterators_are_independent(self, ranking: EvictionPolicy) -> None:
        """Two iterations at the same time yield the same."""
        both = list(zip(ranking.victims(), ranking.victims(), strict=True))
        assert [one for one, _ in both] == [other for _, other in both]

    def test_an_iteration_may_be_given_up(self, ranking: EvictionPolicy) -> None:
        """The caller may stop early, and then remove the victims."""
        iterator = ranking.victims()
        gone = [next(iterator), next(iterator)]
        for key in gone:
            ranking.remove(key)
        ranking.admit(CacheKey("chat", 10), NBYTES)
        assert ranked(ranking) == set(keys(11)) - set(gone)

    # -- segments ----------------------------------------------------------------------------

    def test_runs_and_sessions_are_ranked_by_one_policy(self, ranking: EvictionPolicy) -> None:
        """Any hashable is an item; what it is not told is not needed."""
        items = [Run(range(4)), Run(range(4, 7), cost=1e6), Run([9], cost=0), "text"]
        for item in items:
            ranking.admit(item, 4 * NBYTES)
            ranking.touch(item)
        assert ranked(ranking) == {*keys(10), *items}

    @pytest.mark.parametrize("parts", [1, 3])
    def test_both_parts_of_a_split_are_ranked(self, ranking: EvictionPolicy, parts: int) -> None:
        """The head of a split is an item of its own from then on, and so is the rest."""
        run = Run(range(4))
        ranking.admit(run, run.nbytes)
        head = run.split(ranking, parts)
        assert ranked(ranking) == {*keys(10), run, head}
        ranking.touch(head)
        again = head.split(ranking, 1) if parts > 1 else run.split(ranking, 1)
        ranking.touch(again)
        assert ranked(ranking) == {*keys(10), run, head, again}
        for gone in (run, again, head):
            ranking.remove(gone)
            assert gone not in ranked(ranking)
        assert ranked(ranking) == set(keys(10))

    def test_a_run_can_be_trimmed_away(self, ranking: EvictionPolicy) -> None:
        """Parts leave one by one, the last first; then the rest leaves, and all come back."""
        for _ in range(3):
            run = Run(range(5))
            ranking.admit(run, run.nbytes)
            for _ in range(4):
                run.trim(ranking)
                assert ranked(ranking) == {*keys(10), run}
            ranking.remove(run)
            assert ranked(ranking) == set(keys(10))

    def test_what_is_busy_is_skipped(self, ranking: EvictionPolicy) -> None:
        """If the first items cannot be evicted, the caller takes later ones, time and again."""
        busy = list(islice(ranking.victims(), 3))
        for number in range(10, 60):
            victim = next(item for item in ranking.victims() if item not in busy)
            ranking.remove(victim)
            ranking.admit(CacheKey("chat", number), NBYTES)
            assert len(ranked(ranking)) == 10
            assert ranked(ranking) >= set(busy)

    # -- long runs ---------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(5))
    def test_a_long_run(self, seed: int) -> None:
        """After random calls, exactly the present sessions are ranked, each once."""
        draws, policy = random.Random(seed), self.create_policy()
        there: set[CacheKey] = set()
        for _ in range(500):
            key = CacheKey("chat", draws.randrange(40))
            if key not in there:
                policy.admit(key, draws.randrange(1, 1000))
                there.add(key)
            elif draws.random() < 0.3:
                policy.remove(key)
                there.remove(key)
            elif draws.random() < 0.5:
                policy.touch(key)
            else:
                policy.resize(key, draws.randrange(1, 1000))
            assert ranked(policy) == there

    @pytest.mark.parametrize("seed", range(5))
    def test_a_long_run_of_segments(self, seed: int) -> None:
        """Runs are split, trimmed, evicted and come back: exactly those present are ranked."""
        draws, policy = random.Random(seed), self.create_policy()
        there: dict[Run, None] = {}
        for _ in range(500):
            action, run = draws.random(), draws.choice([*there, None])
            if run is None or action < 0.2:
                start = 8 * draws.randrange(20)
                run = Run(range(start, start + draws.randint(1, 8)))
                policy.admit(run, run.nbytes)
                there[run] = None
            elif action < 0.5:
                policy.touch(run)
            elif action < 0.7 and len(run.names) > 1:
                head = run.split(policy, draws.randrange(1, len(run.names)))
                policy.touch(head)
                there[head] = None
            else:
                self._evict_parts(policy, there, draws.randint(1, 3))
            assert ranked(policy) == there.keys()

    @staticmethod
    def _evict_parts(policy: EvictionPolicy, there: dict[Run, None], parts: int) -> None:
        for _ in range(parts):
            run = next(policy.victims(), None)
            if not isinstance(run, Run):
                return
            if len(run.names) > 1:
                run.trim(policy)
            else:
                policy.remove(run)
                del there[run]

    def test_equal_calls_give_equal_orders(self) -> None:
        """A policy that draws lots draws the same ones each time."""
        orders = []
        for _ in range(2):
            draws, policy = random.Random(7), self.create_policy()
            for number in range(300):
                policy.admit(CacheKey("chat", number), draws.randrange(1, 1000))
                policy.touch(CacheKey("chat", draws.randrange(number // 2, number + 1)))
                if number % 2:
                    policy.remove(CacheKey("chat", number // 2))
            orders.append(list(policy.victims()))
        assert orders[0] == orders[1]

    def test_a_victim_among_many_costs_hardly_more(self) -> None:
        """An eviction and a use take O(log n) steps or fewer; steps are counted, not time."""
        cost = {}
        for count in (FEW, MANY):
            policy = self.create_policy()
            items = [CountingKey("chat", number) for number in range(count)]
            for key in items:
                policy.admit(key, NBYTES)
            for key in items[::3]:
                policy.touch(key)
            cost[count] = steps(partial(self._evict_and_use, policy))
        # From FEW to MANY, log n doubles; an iteration over all sessions takes 100 times as long.
        assert cost[MANY] <= 4 * cost[FEW], f"{cost} steps"

    @staticmethod
    def _evict_and_use(policy: EvictionPolicy) -> None:
        for number in range(10):
            victim = next(policy.victims())
            policy.remove(victim)
            policy.admit(CountingKey("new", number), NBYTES)
            policy.touch(CountingKey("new", number))

    # -- in a manager ------------------------------------------------------------------------

    @pytest.fixture
    def manager(self) -> Iterator[KVCacheManager]:
        """Return a manager with memory for eight entries."""
        with KVCacheManager(8 * NBYTES, "numpy", policy=self.create_policy()) as manager:
            yield manager

    def test_a_manager_lives_by_it(self, manager: KVCacheManager) -> None:
        """A manager with this policy passes `check_integrity` while entries come and go."""
        draws = random.Random(1)
        for number in range(200):
            manager.allocate_entry(CacheKey("chat", number), draws.randrange(1, 3 * NBYTES))
            manager.get_cache_entry(draws.choice(manager.session_keys()))
            manager.check_integrity()
        stats = manager.get_stats()
        assert stats.evictions == 200 - stats.active_entries > 0

    def test_what_it_evicts_has_its_reason(self, manager: KVCacheManager) -> None:
        """The statistics count evictions under the reason of the policy."""
        for key in keys(9):
            manager.allocate_entry(key, NBYTES)
        reason = self.create_policy().reason
        assert manager.get_stats().evictions_by_reason[reason] == 1

    def test_pinned_and_leased_sessions_stay(self, manager: KVCacheManager) -> None:
        """Pinned and leased sessions are not evicted, however the policy ranks them."""
        for key in keys(8):
            manager.allocate_entry(key, NBYTES)
        view = manager.allocate_entry(CacheKey("kept", "leased"), NBYTES).data()
        manager.allocate_entry(CacheKey("kept", "pinned"), NBYTES)
        manager.pin(CacheKey("kept", "pinned"))
        for number in range(20):
            manager.allocate_entry(CacheKey("more", number), 2 * NBYTES)
        with pytest.raises(PoolExhaustedError):
            manager.evict_lru_entries(8 * NBYTES)
        assert [key.id for key in manager.session_keys() if key.namespace == "kept"] == [
            "leased",
            "pinned",
        ]
        manager.check_integrity()
        assert view.size == NBYTES
