"""Samples of a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvpool.sizing import PrefixTrace, Sample, SizingError, draw_sample, policy_hits
from kvpool.sizing._workers import Case, simulate
from tests.support.prefix_traces import prompts, requests_of

SYSTEM = (0, 1, 2)


def sessions(count: int, turns: int = 3) -> PrefixTrace:
    """Return the trace of some sessions that take turns, all with one system prompt."""
    paths = [
        (*SYSTEM, *range(10 * session, 10 * session + 2 * turn + 1))
        for turn in range(turns)
        for session in range(10, count + 10)
    ]
    return PrefixTrace.from_requests(requests_of(paths), 16)


@given(prompts.filter(any))
def test_all_of_a_trace_is_the_trace(paths: list[tuple[int, ...]]) -> None:
    trace = PrefixTrace.from_requests(requests_of(paths), 16)
    sample = draw_sample(trace, 1.0)
    assert sample.rate == 1
    assert sample.trace is trace
    assert sample.all_hits(np.diff(trace.starts)) == trace.reference_count
    assert [sample.scaled(size) for size in range(50)] == list(range(50))


@pytest.mark.parametrize("seed", range(5))
def test_a_session_is_drawn_with_all_of_its_turns(seed: int) -> None:
    trace = sessions(200)
    sample = draw_sample(trace, 0.2, seed)
    assert sample.trunk_blocks == len(SYSTEM)
    assert 0.1 < sample.rate < 0.3
    uses = np.bincount(sample.trace.references)
    drawn = sample.trace.request_count // 3
    assert sorted(uses.tolist()) == sorted([3 * drawn] * 3 + [3, 2, 2, 1, 1] * drawn)
    assert sample.trunk_lengths.tolist() == [3] * (3 * drawn)


def test_one_seed_draws_the_same_again_and_another_does_not() -> None:
    trace = sessions(200)
    first, again, other = (draw_sample(trace, 0.2, seed).trace.arrivals for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_the_trunk_is_not_made_smaller() -> None:
    sample = draw_sample(sessions(200), 0.2)
    assert [sample.scaled(size) for size in (0, 1, 3)] == [0, 1, 3]
    assert sample.scaled(1003) == round(3 + 1000 * sample.rate)


@given(st.integers(0, 100))
def test_hits_are_scaled_to_the_whole(seed: int) -> None:
    """All blocks of all prompts: as many as the trace has references."""
    trace = sessions(200)
    sample = draw_sample(trace, 0.2, seed)
    lengths = np.diff(sample.trace.starts)
    assert sample.all_hits(lengths) == pytest.approx(trace.reference_count)


def test_hits_in_the_trunk_and_behind_it_have_rates_of_their_own() -> None:
    trace = PrefixTrace.from_requests(requests_of([(1, 2, 3), (1, 2, 4, 5)]), 16)
    sample = Sample(trace, 0.25, 2, 0.5, np.array([2, 2]))
    assert sample.all_hits(np.array([1, 3])) == (1 + 2) / 0.5 + 1 / 0.25


def test_a_sample_is_simulated_in_a_pool_of_its_scale() -> None:
    trace = sessions(200)
    sample = draw_sample(trace, 0.3)
    ((case, hits),) = simulate([sample], [Case("lru", 300, 0)], 1)
    assert case == ("lru", 300, 0)
    assert hits == sample.all_hits(policy_hits(sample.trace, "lru", sample.scaled(300)))
    assert hits < sample.all_hits(policy_hits(sample.trace, "lru", 300))


@pytest.mark.parametrize("rate", [0, -0.5, 1.01, float("nan")])
def test_a_bad_rate_is_refused(rate: float) -> None:
    with pytest.raises(SizingError, match=f"not {rate}"):
        draw_sample(sessions(80), rate)


def test_a_sample_of_nothing_is_refused() -> None:
    with pytest.raises(SizingError, match="no request"):
        draw_sample(sessions(80), 1e-9)


def test_requests_that_end_in_the_trunk_are_drawn_by_themselves() -> None:
    paths: list[Any] = [SYSTEM] * 500 + [(*SYSTEM, session) for session in range(10, 510)]
    sample = draw_sample(PrefixTrace.from_requests(requests_of(paths), 16), 0.3, 3)
    ends = sample.trace.arrivals < 5000
    assert 50 < int(ends.sum()) < 250
    assert sample.trunk_rate == pytest.approx(0.3, abs=0.1)
