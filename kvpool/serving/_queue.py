"""Who is served when: the order of those that wait, and the shares of those that run."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

from kvpool.serving._job import Job

__all__ = ["WaitingJobs", "shares"]


class WaitingJobs:
    """Jobs that wait, the first in rank first. Not thread-safe."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs))

    def add(self, job: Job) -> None:
        """Put a job where its rank is."""
        bisect.insort(self._jobs, job, key=lambda one: one.rank)

    def remove(self, job: Job) -> None:
        """Take a job out."""
        self._jobs.remove(job)

    def firsts(self) -> Iterator[Job]:
        """Yield jobs by rank, of each session only the one that was accepted first."""
        first: dict[object, int] = {}
        for job in self._jobs:
            if job.key is not None:
                first[job.key] = min(first.get(job.key, job.number), job.number)
        for job in tuple(self._jobs):
            if job.key is None or first[job.key] == job.number:
                yield job


def shares(wanted: Sequence[int], budget: int) -> list[int]:
    """Return how many tokens each of some sessions computes in a step.

    One that wants a single token gets it, beside the budget. The others share the budget: each
    gets as much as any other, or what it wants if that is less, and at least one token.

    Examples
    --------
    >>> shares([1, 1000, 20, 1], 256)
    [1, 236, 20, 1]
    >>> shares([1000, 1000], 256)
    [128, 128]
    """
    given = [1] * len(wanted)
    long = sorted((count, at) for at, count in enumerate(wanted) if count > 1)
    for left, (count, at) in zip(range(len(long), 0, -1), long, strict=True):
        given[at] = min(count, max(budget // left, 1))
        budget -= given[at]
    return given
