"""The contract of eviction policies, and the reasons of evictions."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from kvpool.cache_key import CacheKey

__all__ = ["EvictionPolicy", "EvictionReason", "PolicyFactory"]


class EvictionReason(enum.StrEnum):
    """Why an entry was removed from the pool."""

    MANUAL = "manual"
    """The caller removed the entry."""
    LRU = "lru"
    """The entry was the least recently used, and memory was needed."""
    TTL = "ttl"
    """The entry was not used for longer than its time to live."""
    POLICY = "policy"
    """Another policy than LRU chose the entry, and memory was needed."""
    CLOSE = "close"
    """The manager was closed."""


class EvictionPolicy(ABC):
    """Decides in which order sessions are evicted when memory is needed.

    A policy knows only keys and sizes. The caller skips sessions that cannot be evicted, because
    they are leased or pinned.

    Attributes
    ----------
    reason : EvictionReason
        The reason to record for evictions that this policy chose.

    Notes
    -----
    Not thread-safe: the manager holds its lock around every call. The conformance suite
    `kvpool.testing.PolicyConformance` contains this contract as tests.
    """

    reason: ClassVar[EvictionReason] = EvictionReason.POLICY

    @abstractmethod
    def admit(self, key: CacheKey, nbytes: int, /) -> None:
        """Add a new session, which holds `nbytes` bytes. It counts as used now."""

    @abstractmethod
    def touch(self, key: CacheKey, /) -> None:
        """Note that a session was used. Calls come in the order of the uses."""

    @abstractmethod
    def remove(self, key: CacheKey, /) -> None:
        """Remove a session that left the pool, for any reason."""

    @abstractmethod
    def victims(self) -> Iterator[CacheKey]:
        """Yield every session, in the order in which they should be evicted.

        The caller stops as soon as enough memory is free, so the first victims must be cheap:
        O(log n) or better each. Iterating must not change the policy, and the policy is not
        changed during an iteration.
        """

    @abstractmethod
    def resize(self, key: CacheKey, nbytes: int, /) -> None:
        """Note that a session now holds `nbytes` bytes."""


@dataclass(frozen=True, slots=True)
class PolicyFactory:
    """The description of an eviction policy, which its plugin returns.

    Parameters
    ----------
    create : callable
        Takes no arguments; returns a new `EvictionPolicy`.
    summary : str
        One line for people who choose a policy.
    """

    create: Callable[[], EvictionPolicy]
    summary: str
