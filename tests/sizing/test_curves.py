"""Hits over the size of the pool, against a pool of few blocks that is served block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvpool.sizing import (
    HitCurve,
    PrefixTrace,
    SizingError,
    clairvoyant_curve,
    lru_curve,
    stack_distances,
)
from tests.support.prefix_traces import most_hits, naive_lru_hits, prompts, requests_of


def trace_of(paths: list[tuple[int, ...]]) -> PrefixTrace:
    return PrefixTrace.from_requests(requests_of(paths), 16)


@given(prompts.filter(any))
def test_lru_is_what_a_list_of_blocks_does(paths: list[tuple[int, ...]]) -> None:
    curve = lru_curve(trace_of(paths))
    for size in range(12):
        assert curve.hits_at(size) == naive_lru_hits(paths, size)
    assert curve.hits_at(10**9) == naive_lru_hits(paths, 10**9)


@given(prompts.filter(any))
def test_distances_grow_along_a_prompt(paths: list[tuple[int, ...]]) -> None:
    """So the hits of a request are a leading run at every size."""
    trace = trace_of(paths)
    distances = stack_distances(trace)
    for start, end in zip(trace.starts[:-1], trace.starts[1:], strict=True):
        known = distances[start:end]
        known = known[: np.count_nonzero(known)]
        assert (known > 0).all()
        assert (np.diff(known) > 0).all()


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), max_size=3).map(tuple), min_size=1, max_size=7).filter(
        any
    ),
    st.integers(0, 4),
)
def test_the_clairvoyant_pool_is_the_best_of_all(paths: list[tuple[int, ...]], size: int) -> None:
    assert clairvoyant_curve(trace_of(paths), [size]).hits.tolist() == [most_hits(paths, size)]


@given(prompts.filter(any))
def test_the_clairvoyant_pool_is_never_below_lru(paths: list[tuple[int, ...]]) -> None:
    trace = trace_of(paths)
    curve, bound = lru_curve(trace), clairvoyant_curve(trace, range(20))
    assert all(bound.hits_at(size) >= curve.hits_at(size) - 1e-9 for size in range(20))
    assert bound.hits[-1] <= curve.hits[-1]


def test_an_empty_pool_has_no_hits() -> None:
    trace = trace_of([(1, 2), (1, 2)])
    assert clairvoyant_curve(trace, [0]).hits.tolist() == [0]
    assert lru_curve(trace).hits_at(0) == 0


def test_sizes_are_sorted_and_counted_once() -> None:
    curve = clairvoyant_curve(trace_of([(1, 2), (1, 2)]), [2, 1, 2])
    assert curve.sizes.tolist() == [1, 2]
    assert curve.hits.tolist() == [1, 2]
    assert (curve.name, curve.references, curve.error) == ("clairvoyant", 4, 0)


@pytest.mark.parametrize("sizes", [[], [-1], [1.5], [True], ["8"]])
def test_bad_sizes_are_refused(sizes: list[Any]) -> None:
    with pytest.raises(SizingError, match="size"):
        clairvoyant_curve(trace_of([(1,)]), sizes)


def test_a_trace_without_reuse_has_a_curve_of_one_point() -> None:
    curve = lru_curve(trace_of([(1, 2), (3,)]))
    assert (curve.sizes.tolist(), curve.hits.tolist()) == ([0], [0])
    assert (curve.knee(), curve.blocks_for(1), curve.blocks_for(0)) == (0, None, 0)


def test_what_lies_between_two_points() -> None:
    curve = HitCurve("x", np.array([10, 20, 40]), np.array([100.0, 200.0, 200.0]), 400)
    assert curve.hits_at(15) == 150
    assert curve.hit_ratio(15) == 0.375
    assert curve.hits_at(5) == 100
    assert [curve.blocks_for(hits) for hits in (50, 150, 151, 200, 201)] == [10, 15, 16, 20, None]


def test_the_knee_is_where_the_curve_bends() -> None:
    curve = HitCurve("x", np.array([0, 10, 20, 100]), np.array([0.0, 80.0, 90.0, 100.0]), 400)
    assert curve.knee() == 10
