"""`JobSessions`: the sessions of jobs, from their opening to their end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kvpool.cache_key import CacheKey
from kvpool.manager import KVCacheManager
from kvpool.serving._job import Job

if TYPE_CHECKING:
    from kvpool.integrations.transformers import OpeningCache, PooledCache
    from kvpool.serving._model import ServedModel

__all__ = ["JobSessions"]


class JobSessions:
    """Opens and closes the sessions of jobs; for the engine's thread alone.

    A job has either no session, or one that is loaded from tiers in the background
    (`Job.opening`), or one that it computes in (`Job.cache`).

    Parameters
    ----------
    model : ServedModel
    manager : KVCacheManager
    ring : callable
        Is called by any thread when the tokens of a session are loaded.
    """

    def __init__(
        self, model: ServedModel, manager: KVCacheManager, ring: Callable[[], object]
    ) -> None:
        self._model = model
        self._manager = manager
        self._ring = ring
        self._given_up: set[CacheKey] = set()  # sessions that are open until their load ends

    def begin(self, job: Job) -> None:
        """Open the session of a job with what the pool holds; `Job.opening` loads the rest.

        Where there is nothing to load, the job has its cache when this returns.

        Raises
        ------
        PoolExhaustedError
            There is no room now. Nothing has changed.
        KVPoolError
        """
        room = len(job.tokens)
        opening = self._model.begin(job.all_tokens(), job.key, job.request.salt, room)
        if opening.is_ready:
            self._take(job, opening)
            return
        job.held, job.reused = 0, opening.held
        job.opening = opening
        opening.when_ready(self._ring)

    def take(self, job: Job) -> None:
        """Give a job whose load has ended its cache.

        Raises
        ------
        PoolExhaustedError
            Another session loaded the same tokens, and there is no room for one more with them. The
            job has no session.
        KVPoolError
            The session was removed, for example. The job has no session.
        """
        opening, job.opening = job.opening, None
        if opening is not None:
            self._take(job, opening)

    def _take(self, job: Job, opening: OpeningCache[PooledCache]) -> None:
        job.cache = opening.result()
        job.held = job.reused = job.cache.get_seq_length()

    def close(self, job: Job) -> None:
        """Close the session of a job with the tokens that it holds, or give its load up.

        Raises
        ------
        Exception
            An eviction policy raised. The session is gone.
        """
        opening, job.opening = job.opening, None
        if opening is not None:
            opening.cancel()
            if job.key is not None:
                self._given_up.add(job.key)
        cache, job.cache = job.cache, None
        if cache is not None:
            job.held = 0
            self._model.close(cache, job.all_tokens())

    def busy(self, jobs: Iterable[Job]) -> set[CacheKey]:
        """Return the keys that no other job can have now.

        They are those of jobs that run, and of loads that were given up and have not ended.

        Parameters
        ----------
        jobs : iterable of Job
            That run.

        Raises
        ------
        PoolClosedError
            The manager is closed.
        """
        self._given_up = set(filter(self._manager.is_open, self._given_up))
        return self._given_up | {job.key for job in jobs if job.key is not None}
