"""Policies in pools of one size, through the prefix tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvpool.errors import UnknownPluginError
from kvpool.replay import BlockReplay, conversations
from kvpool.sizing import (
    PrefixTrace,
    SizingError,
    clairvoyant_curve,
    lru_curve,
    policy_hits,
    usable_policies,
)
from tests.support.prefix_traces import prompts, requests_of


@settings(deadline=None)
@given(prompts.filter(any), st.integers(1, 12))
def test_lru_in_the_tree_is_lru_in_one_pass(paths: list[tuple[int, ...]], size: int) -> None:
    trace = PrefixTrace.from_requests(requests_of(paths), 16)
    assert policy_hits(trace, "lru", size).sum() == lru_curve(trace).hits_at(size)


@pytest.mark.no_cover
@pytest.mark.parametrize("policy", usable_policies())
@settings(deadline=None, max_examples=25)
@given(paths=prompts.filter(any), size=st.integers(1, 12))
def test_no_policy_is_above_the_clairvoyant_pool(
    policy: str, paths: list[tuple[int, ...]], size: int
) -> None:
    trace = PrefixTrace.from_requests(requests_of(paths), 16)
    hits = policy_hits(trace, policy, size)
    assert hits.sum() <= clairvoyant_curve(trace, [size]).hits[0]
    assert (hits <= np.diff(trace.starts)).all()


@pytest.mark.no_cover
@pytest.mark.parametrize("policy", usable_policies())
@pytest.mark.parametrize("size", [400, 2000])
def test_the_replay_of_a_pool_with_bytes_has_the_same_hits(
    policy: str, size: int, talks: PrefixTrace
) -> None:
    with BlockReplay(size, policy) as replay:
        hits = [replay.serve(request) for request in conversations(300)]
    assert policy_hits(talks, policy, size).tolist() == hits


@pytest.mark.parametrize("policy", usable_policies())
def test_a_pool_for_all_blocks_has_every_hit(policy: str, talks: PrefixTrace) -> None:
    hits = policy_hits(talks, policy, talks.block_count)
    assert hits.sum() == talks.reference_count - talks.block_count


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None])
def test_a_bad_size_is_refused(talks: PrefixTrace, size: Any) -> None:
    with pytest.raises(SizingError, match="size"):
        policy_hits(talks, "lru", size)


def test_an_unknown_policy_is_refused(talks: PrefixTrace) -> None:
    with pytest.raises(UnknownPluginError, match="mru"):
        policy_hits(talks, "mru", 10)
