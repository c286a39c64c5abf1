"""How many blocks of a trace each policy finds again: exactly, or no fewer than LRU."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvpool.eviction.registry import registry
from kvpool.replay import TraceReader, TraceRequest
from kvpool.sizing import PrefixTrace
from scripts.policy_table import hits_of, main
from tests.support import needs
from tests.support.naive_prefix_cache import Block, lfu, lru, naive_hits

Trace = list[list[int]]
ORDERS: dict[str, Callable[[Block], tuple[int, ...]]] = {"lfu": lfu, "lru": lru}


def hits(name: str, capacity: int, requests: Trace) -> int:
    rows = (TraceRequest(0.0, len(blocks), 1, tuple(blocks)) for blocks in requests)
    return hits_of(name, capacity, PrefixTrace.from_requests(rows, block_tokens=1))


def in_a_tree(paths: list[list[int]]) -> Trace:
    """Return requests whose blocks are named by all that comes before them, as hashes do."""
    names: dict[tuple[int, ...], int] = {}
    return [
        [names.setdefault(tuple(path[: end + 1]), len(names)) for end in range(len(path))]
        for path in paths
    ]


PATHS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=40)


@pytest.mark.no_cover
@pytest.mark.parametrize("policy", ORDERS)
@settings(max_examples=100)
@given(paths=PATHS, capacity=st.integers(1, 25))
def test_segments_are_evicted_as_blocks_would_be(
    policy: str, paths: list[list[int]], capacity: int
) -> None:
    requests = in_a_tree(paths)
    assert hits(policy, capacity, requests) == naive_hits(requests, capacity, ORDERS[policy])


@pytest.mark.parametrize("policy", registry.kind.builtins)
def test_every_policy_finds_all_in_a_cache_for_all(policy: str) -> None:
    draws = random.Random(3)
    requests = in_a_tree([[draws.randrange(3) for _ in range(5)] for _ in range(300)])
    asked, distinct = sum(map(len, requests)), len({*itertools.chain.from_iterable(requests)})
    assert hits(policy, distinct, requests) == asked - distinct


# -- what hit-density learns -------------------------------------------------------------


class Workloads:
    """Requests for texts of ten blocks, or of new ones."""

    def __init__(self, texts: int) -> None:
        self._names = itertools.count()
        self._draws = random.Random(11)
        self.texts = [self.new() for _ in range(texts)]

    def new(self) -> list[int]:
        return list(itertools.islice(self._names, 10))

    def popular(self) -> list[int]:
        """Return one of the texts, the first ones more often."""
        return self.texts[min(int(self._draws.paretovariate(0.6)), len(self.texts)) - 1]

    def loop(self, count: int) -> Trace:
        return [self.texts[number % len(self.texts)] for number in range(count)]

    def one_offs(self, count: int) -> Trace:
        return [self.popular() if number % 2 else self.new() for number in range(count)]

    def scans(self, count: int) -> Trace:
        return [self.new() if number % 600 > 400 else self.popular() for number in range(count)]

    def uniform(self, count: int) -> Trace:
        return [self._draws.choice(self.texts) for _ in range(count)]

    def drifting(self, count: int) -> Trace:
        requests = []
        for number in range(count):
            if number % 5 == 0:
                self.texts[self._draws.randrange(len(self.texts))] = self.new()
            requests.append(self.popular())
        return requests

    def sessions(self, count: int) -> Trace:
        """Return turns of conversations; a session waits for about fifty others."""
        waiting, requests = list[list[int]](), Trace()
        while len(requests) < count:
            if self._draws.random() < 0.4 or len(waiting) < 50:
                history = self.popular()
            else:
                history = waiting.pop(self._draws.randrange(len(waiting)))
            request = [*history, *self.new()[: self._draws.randint(1, 5)]]
            requests.append(request)
            if self._draws.random() < 0.7:
                waiting.append(request)
        return requests


@pytest.mark.no_cover
def test_a_part_of_a_loop_stays() -> None:
    requests = Workloads(300).loop(3_000)
    asked = sum(map(len, requests))
    assert hits("lru", 1_200, requests) == 0
    assert hits("hit-density", 1_200, requests) > 0.25 * asked  # of .36 at best


@pytest.mark.no_cover
@pytest.mark.parametrize(("kind", "count"), [("one_offs", 2_000), ("scans", 4_000)])
def test_what_is_used_once_does_not_push_out_what_is_popular(kind: str, count: int) -> None:
    make: Callable[[int], Trace] = getattr(Workloads(100), kind)
    requests = make(count)
    assert hits("hit-density", 400, requests) > 1.03 * hits("lru", 400, requests)


@pytest.mark.no_cover
@pytest.mark.parametrize("capacity", [150, 600])
@pytest.mark.parametrize("kind", ["one_offs", "scans", "uniform", "drifting", "sessions"])
def test_it_is_never_clearly_worse_than_lru(kind: str, capacity: int) -> None:
    make: Callable[[int], Trace] = getattr(Workloads(200), kind)
    # Where all texts are as popular, a small pool has the fewest hits to learn from.
    requests = make(3_000 if (kind, capacity) == ("uniform", 150) else 2_000)
    assert hits("hit-density", capacity, requests) >= 0.98 * hits("lru", capacity, requests)


# -- a trace of a real service -----------------------------------------------------------

CONVERSATIONS = "mooncake_conversation.jsonl"
GOLDENS = {
    "lru": {1_000: 12_847, 10_000: 61_046, 30_000: 93_978, 50_000: 102_290, 100_000: 104_924},
    "lfu": {1_000: 13_871, 10_000: 38_004, 30_000: 79_613, 50_000: 99_205, 100_000: 104_755},
}


def conversations() -> PrefixTrace:
    with TraceReader(needs.traces() / CONVERSATIONS) as reader:
        return PrefixTrace.read(reader)


@pytest.mark.integration
@pytest.mark.parametrize("policy", GOLDENS)
def test_goldens(policy: str) -> None:
    requests = conversations()
    assert {size: hits_of(policy, size, requests) for size in GOLDENS[policy]} == GOLDENS[policy]


@pytest.mark.integration
@pytest.mark.parametrize(
    "capacity", [1_000, 2_000, 3_000, 5_859, 10_000, 20_000, 30_000, 50_000, 100_000]
)
def test_hit_density_is_never_below_lru_on_conversations(capacity: int) -> None:
    requests = conversations()
    assert hits_of("hit-density", capacity, requests) >= hits_of("lru", capacity, requests)


@pytest.mark.integration
def test_the_page_has_the_ratios_of_the_trace() -> None:
    assert main([str(needs.traces() / CONVERSATIONS), "--check"]) == 0
