"""The interface of eviction policies, and the reasons for which entries leave."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from kvpool.cache_key import CacheKey

__all__ = ["EvictionPolicy", "EvictionReason", "PolicyFactory"]


class EvictionReason(enum.StrEnum):
    """Why an entry left the pool."""

    MANUAL = "manual"
    """The caller removed it."""
    LRU = "lru"
    """It was the least recently used, and its bytes were needed."""
    TTL = "ttl"
    """It was not used for longer than its time to live."""
    POLICY = "policy"
    """Another policy chose it, and its bytes were needed."""
    CLOSE = "close"
    """The manager was closed."""


class EvictionPolicy(ABC):
    """The order in which sessions may go when bytes are needed.

    A policy knows keys and sizes, never entries or bytes. Whether a session can go at all
    (it may be leased or pinned) is for its caller to say: the policy only ranks.

    Attributes
    ----------
    reason : EvictionReason
        What is recorded for the entries that this policy chose.

    Notes
    -----
    Not thread-safe: the manager holds its lock around every call. The conformance suite
    `kvpool.testing.PolicyConformance` states this contract as tests.
    """

    reason: ClassVar[EvictionReason] = EvictionReason.POLICY

    @abstractmethod
    def admit(self, key: CacheKey, nbytes: int, /) -> None:
        """Rank a new session, which holds `nbytes` bytes. It counts as used now."""

    @abstractmethod
    def touch(self, key: CacheKey, /) -> None:
        """Note that a session was used. Touches come in the order of the uses."""

    @abstractmethod
    def remove(self, key: CacheKey, /) -> None:
        """Forget a session, whatever made it leave."""

    @abstractmethod
    def victims(self) -> Iterator[CacheKey]:
        """Yield every ranked session, the one to go first first.

        The caller stops as soon as it has enough, so an early victim must be cheap: O(log n)
        or better. Iterating changes nothing, and nothing changes while it is iterated.
        """

    @abstractmethod
    def resize(self, key: CacheKey, nbytes: int, /) -> None:
        """Note that a session now holds `nbytes` bytes."""


@dataclass(frozen=True, slots=True)
class PolicyFactory:
    """What a plugin says of an eviction policy.

    Parameters
    ----------
    create : callable
        Without arguments; returns a new `EvictionPolicy`.
    summary : str
        One line for people who choose a policy.
    """

    create: Callable[[], EvictionPolicy]
    summary: str
