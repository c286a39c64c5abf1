"""Who is served when."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvpool.cache_key import CacheKey
from kvpool.serving import Request
from kvpool.serving._job import Job
from kvpool.serving._queue import WaitingJobs, shares

COUNTS = st.lists(st.integers(1, 1000), max_size=40)


def job(number: int, rank: float, session: int | None = None) -> Job:
    key = None if session is None else CacheKey("serving", session)
    return Job(Request(prompt="a"), np.zeros(1, np.int64), 1, key, 0, number, 0.0, rank)


def numbers(jobs: object) -> list[int]:
    assert isinstance(jobs, WaitingJobs)
    return [one.number for one in jobs]


@given(COUNTS, st.integers(1, 300))
def test_shares_are_fair(wanted: list[int], budget: int) -> None:
    given_shares = shares(wanted, budget)
    assert all(1 <= share <= want for share, want in zip(given_shares, wanted, strict=True))
    long = [(share, want) for share, want in zip(given_shares, wanted, strict=True) if want > 1]
    used = sum(share for share, _ in long)
    assert used <= max(budget, len(long))
    unmet = [share for share, want in long if share < want]
    if unmet:
        assert used == max(budget, len(long))  # nothing is left over
        assert max(unmet) - min(unmet) <= 1
        assert all(share <= max(unmet) for share, _ in long)


def test_a_lower_rank_comes_first_and_then_the_older_one() -> None:
    waiting = WaitingJobs()
    for number, rank in ((1, 5.0), (2, 3.0), (3, 5.0), (4, 1.0)):
        waiting.add(job(number, rank))
    assert numbers(waiting) == [4, 2, 1, 3]
    waiting.remove(next(iter(waiting)))
    assert numbers(waiting) == [2, 1, 3]


def test_a_session_has_its_requests_in_their_order() -> None:
    waiting = WaitingJobs()
    for number, rank, session in ((1, 5.0, 7), (2, 0.0, 7), (3, 6.0, 8), (4, 7.0, None)):
        waiting.add(job(number, rank, session))
    assert [one.number for one in waiting.firsts()] == [1, 3, 4]
