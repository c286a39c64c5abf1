"""The books of a manager: which sessions are there, who may go first, and who expires."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kvpool.cache_key import CacheKey
from kvpool.entry import PoolEntry
from kvpool.errors import EntryExistsError, EntryNotFoundError, IntegrityError, InvalidTtlError
from kvpool.eviction.base import EvictionPolicy
from kvpool.manager._expiry import ExpiryQueue

__all__ = ["Resident", "Residents", "check_ttl"]


@dataclass(slots=True)
class Resident:
    """A session that is there.

    Attributes
    ----------
    ttl : float
        Seconds it stays without being used; infinite where it stays forever.
    number : int
        1 for the first entry that its manager made, and so on.
    pins : int
        How often it was pinned more than unpinned; it is not evicted while that is not 0.
    """

    entry: PoolEntry
    ttl: float
    number: int
    pins: int = 0

    @property
    def deadline(self) -> float:
        """Seconds of the clock at which it expires unless it is used before."""
        return self.entry.last_accessed + self.ttl


class Residents:
    """The sessions of one manager. Not thread-safe: the manager holds its lock.

    Parameters
    ----------
    policy : EvictionPolicy

    Attributes
    ----------
    use_log : deque of (CacheKey, PoolEntry)
        Entries that were used by their own methods since `settle`. They append to it
        without a lock.
    """

    def __init__(self, policy: EvictionPolicy) -> None:
        self.policy = policy
        self.use_log: deque[tuple[CacheKey, PoolEntry]] = deque()
        self._by_key: dict[CacheKey, Resident] = {}
        self._expiry = ExpiryQueue()

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[CacheKey]:
        return iter(self._by_key)

    def get(self, key: CacheKey) -> Resident | None:
        """Return the resident of a key, or None."""
        return self._by_key.get(key)

    def require(self, key: CacheKey) -> Resident:
        """Return the resident of a key.

        Raises
        ------
        EntryNotFoundError
        """
        resident = self._by_key.get(key)
        if resident is None:
            raise EntryNotFoundError(f"no entry for {key!s}")
        return resident

    def require_absent(self, key: CacheKey) -> None:
        """Raise unless the key is free.

        Raises
        ------
        EntryExistsError
        """
        if key in self._by_key:
            raise EntryExistsError(f"{key!s} has an entry of {self._by_key[key].entry!r} already")

    def add(self, key: CacheKey, resident: Resident) -> None:
        """Let a session in, as the one used last; where the policy raises, it is not there."""
        try:
            self.policy.admit(key, resident.entry.size_bytes)
        except BaseException:
            with contextlib.suppress(Exception):  # it may have come half the way
                self.policy.remove(key)
            raise
        self._by_key[key] = resident
        if resident.ttl < math.inf:
            self._expiry.add(key, resident.deadline)

    def remove(self, key: CacheKey) -> Resident:
        """Let a session go; its key is free again."""
        self.policy.remove(key)
        resident = self._by_key.pop(key)
        if resident.ttl < math.inf:
            self._expiry.discard(key)
        return resident

    def settle(self) -> None:
        """Tell the policy of the uses in the log, in the order of each entry's last use."""
        log = self.use_log
        if not log:  # the usual case, at every call of the manager
            return
        used = []
        while log:
            key, entry = log.popleft()
            resident = self._by_key.get(key)
            if resident is not None and resident.entry is entry:  # not one that has gone since
                entry.use_noted = False
                used.append((entry.last_use, key))
        for _, key in sorted(used):
            self.policy.touch(key)

    def expired(self, clock: Callable[[], float]) -> list[CacheKey]:
        """Return the sessions that outlived their time to live and are not pinned."""
        if not self._expiry:  # the usual case, at every call of the manager
            return []
        due = self._expiry.due(clock(), lambda key: self._by_key[key].deadline)
        return [key for key in due if not self._by_key[key].pins]

    def victims(self) -> Iterator[tuple[CacheKey, PoolEntry]]:
        """Yield the sessions that are not pinned, the one to go first first."""
        for key in self.policy.victims():
            resident = self._by_key[key]
            if not resident.pins:
                yield key, resident.entry

    def pinned_count(self) -> int:
        """Return how many sessions are pinned."""
        return sum(1 for resident in self._by_key.values() if resident.pins)

    def check_integrity(self) -> None:
        """Prove that the policy and the expiry queue know just the sessions that are there.

        Raises
        ------
        IntegrityError
            They do not. This is a bug here or in the policy.
        """
        ranked = list(self.policy.victims())
        if len(ranked) != len(self._by_key) or set(ranked) != set(self._by_key):
            odd = set(ranked) ^ set(self._by_key)
            raise IntegrityError(f"the policy ranks {len(ranked)} sessions; it is wrong on {odd}")
        for key, resident in self._by_key.items():
            if (key in self._expiry) != (resident.ttl < math.inf):
                raise IntegrityError(f"{key!s} has ttl {resident.ttl} and is watched wrongly")
        if len(self._expiry) > len(self._by_key):
            raise IntegrityError("the expiry queue watches sessions that are gone")


def check_ttl(ttl: float | None) -> float:
    """Return a time to live in seconds, infinite for None.

    Raises
    ------
    InvalidTtlError
        It is no number above 0.
    """
    if ttl is None:
        return math.inf
    try:
        valid = ttl > 0
    except TypeError:
        valid = False
    if not valid:
        raise InvalidTtlError(f"a time to live must be above 0 seconds, not {ttl!r}")
    return ttl
