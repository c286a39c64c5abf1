"""`OpeningCache`: the cache of a session whose tokens are loaded in the background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from kvpool.entry import KVCacheEntry
from kvpool.manager import OpeningSession

__all__ = ["OpeningCache"]

CacheT = TypeVar("CacheT")


class OpeningCache(Generic[CacheT]):
    """A cache whose tokens are being loaded from tiers; `PooledCache.begin_for_tokens` returns it.

    Take the cache by `result` or `aresult`, or let its session go by `cancel`. An object that
    nothing refers to any more lets the session go as well, unless the cache was taken.

    Parameters
    ----------
    opening : OpeningSession
    make : callable
        Takes the entry of the open session, and returns the cache.

    Notes
    -----
    *Threads.* `result` and `aresult` are for one thread at a time. Any thread may call the others.
    *Processes.* In a child of `os.fork`, `result` and `aresult` raise `ForkedProcessError`.
    """

    def __init__(self, opening: OpeningSession, make: Callable[[KVCacheEntry], CacheT]) -> None:
        self._opening = opening
        self._make = make
        self._cache: CacheT | None = None

    @property
    def is_ready(self) -> bool:
        """Whether `result` returns or raises at once."""
        return self._opening.is_ready

    @property
    def held(self) -> int:
        """Tokens that the session begins with before anything is loaded: those in the pool."""
        return self._opening.held

    def cancel(self) -> None:
        """Let the session go, unless the cache was taken. It ends when its load does.

        What was loaded by then may stay in the pool, for sessions that begin with the same tokens.
        """
        self._opening.cancel()

    def when_ready(self, call: Callable[[], object]) -> None:
        """Have a function called once `is_ready` is true; at once if it is.

        Parameters
        ----------
        call : callable
            Called without arguments, in any thread: be brief. What it raises is logged.
        """
        self._opening.when_ready(call)

    def result(self, timeout: float | None = None) -> CacheT:
        """Wait until the tokens are loaded, and take the cache.

        Parameters
        ----------
        timeout : float, optional
            Seconds. [default: as long as the load may take, see `kvpool.tiers.TierStore`]

        Returns
        -------
        PooledCache
            As `PooledCache.for_tokens` returns it; the same one each time.

        Raises
        ------
        TimeoutError
            They are not loaded in this time. The load goes on.
        EntryRemovedError
            `cancel` was called, or the session was removed meanwhile.
        InvalidTtlError
            `timeout` is not a number of at least 0.
        PoolClosedError
            The manager was closed meanwhile.
        PoolExhaustedError
            Another call loaded the same tokens, and there is no room for a session with them.
        """
        return self._made(self._opening.result(timeout).entry)

    async def aresult(self) -> CacheT:
        """Wait in an event loop until the tokens are loaded, and take the cache; see `result`.

        Raises
        ------
        EntryRemovedError
            `cancel` was called, or the session was removed meanwhile.
        PoolClosedError
            The manager was closed meanwhile.
        PoolExhaustedError
            Another call loaded the same tokens, and there is no room for a session with them.

        Notes
        -----
        A task that is cancelled here has taken nothing: the session goes with this object.
        """
        opened = await self._opening.aresult()
        return self._made(opened.entry)

    def _made(self, entry: KVCacheEntry) -> CacheT:
        if self._cache is None:
            self._cache = self._make(entry)
        return self._cache

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._opening!r}>"
