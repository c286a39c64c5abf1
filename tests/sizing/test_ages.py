"""How long blocks wait for their next use, and how long they are in use."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given

from kvpool.sizing import AGE_EDGES, Ages, PrefixTrace, block_lifetimes, reuse_ages
from tests.support.prefix_traces import prompts, requests_of


def trace_of(paths: list[tuple[int, ...]]) -> PrefixTrace:
    return PrefixTrace.from_requests(requests_of(paths), 16)


@given(prompts.filter(any))
def test_ages_are_those_of_each_block(paths: list[tuple[int, ...]]) -> None:
    moments: dict[tuple[int, ...], list[float]] = {}
    for number, path in enumerate(paths):
        for end in range(len(path)):
            moments.setdefault(path[: end + 1], []).append(10.0 * number)
    trace = trace_of(paths)
    gaps = [b - a for uses in moments.values() for a, b in pairwise(uses)]
    assert reuse_ages(trace) == Ages.of(np.array(gaps, np.float64))
    lives = [uses[-1] - uses[0] for uses in moments.values() if len(uses) > 1]
    assert block_lifetimes(trace) == Ages.of(np.array(lives, np.float64))


def test_bins() -> None:
    ages = Ages.of(np.array([0, 0.5, 1, 59, 60, 86_400, 1e9]))
    found = Counter(dict(zip(AGE_EDGES, ages.counts, strict=True)))
    assert +found == Counter({0: 2, 1: 1, 30: 1, 60: 1, 86_400: 2})
    assert (ages.total, ages.median) == (7, 59)


def test_without_reuse_there_are_no_ages() -> None:
    ages = reuse_ages(trace_of([(1, 2), (3,)]))
    assert (ages.total, ages.median, ages.p90) == (0, None, None)
    assert block_lifetimes(trace_of([(1, 2), (3,)])) == ages


def test_time_that_goes_back_counts_as_none() -> None:
    requests = [replace(one, arrival=-one.arrival) for one in requests_of([(1,), (1,)])]
    assert reuse_ages(PrefixTrace.from_requests(requests, 16)).counts[0] == 1
