"""The contract of eviction policies, and the reasons of evictions."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = ["EvictionPolicy", "EvictionReason", "PolicyFactory", "cost_of", "names_of"]


class EvictionReason(enum.StrEnum):
    """Why an entry was removed from the pool."""

    MANUAL = "manual"
    """The caller removed the entry, or a session without a name was covered by another one."""
    LRU = "lru"
    """The entry was the least recently used, and memory was needed."""
    TTL = "ttl"
    """The entry was not used for longer than its time to live."""
    POLICY = "policy"
    """Another policy than LRU chose the entry, and memory was needed."""
    CLOSE = "close"
    """The manager was closed."""


def names_of(item: Hashable) -> Sequence[Hashable]:
    """Return the names by which the parts of an item are known when they come back.

    Parameters
    ----------
    item : hashable

    Returns
    -------
    sequence of hashable
        The attribute `names` of the item: one name for each part, the first part first, all parts
        of one size. For an item without that attribute, the item alone.
    """
    names: Sequence[Hashable] | None = getattr(item, "names", None)
    return (item,) if names is None else names


def cost_of(item: Hashable, nbytes: int) -> float:
    """Return the work to make an item again.

    Parameters
    ----------
    item : hashable
    nbytes : int
        The bytes that it holds.

    Returns
    -------
    float
        The attribute `cost` of the item, in the unit in which a byte of other items costs 1. For
        an item without that attribute, its bytes.
    """
    cost: float | None = getattr(item, "cost", None)
    return nbytes if cost is None else cost


class EvictionPolicy(ABC):
    """Decides in which order items are evicted when memory is needed.

    An item is a session, by its `kvpool.CacheKey`, or a segment of a prefix tree. A policy may
    know of an item what `names_of` and `cost_of` tell, and its size; it needs to know neither.
    The caller skips items that cannot be evicted, because they are leased or pinned.

    Attributes
    ----------
    reason : EvictionReason
        The reason to record for evictions that this policy chose.

    Notes
    -----
    The order of calls at one use of the segments A, B, C of a path, A at the root:
    ``touch(C)``, ``touch(B)``, ``touch(A)``, so that of items with equal histories the one at the
    end of the path is the least recently used. Segments that are new are admitted after those.
    If the use ends inside of C, `split` comes first: its head is touched, and the rest is not.

    Not thread-safe: the manager holds its lock around every call. The conformance suite
    `kvpool.testing.PolicyConformance` contains this contract as tests.
    """

    reason: ClassVar[EvictionReason] = EvictionReason.POLICY

    @abstractmethod
    def admit(self, item: Hashable, nbytes: int, /) -> None:
        """Add a new item, which holds `nbytes` bytes. It counts as used now."""

    @abstractmethod
    def touch(self, item: Hashable, /) -> None:
        """Note that an item was used. Calls come in the order of the uses."""

    @abstractmethod
    def remove(self, item: Hashable, /) -> None:
        """Remove an item that left the pool, for any reason. Its names are still those it had."""

    @abstractmethod
    def victims(self) -> Iterator[Hashable]:
        """Yield every item, in the order in which they should be evicted.

        The caller stops as soon as enough memory is free, and asks again after a change. So the
        first victims must be cheap: O(log n) or better each. Iterating must not change the
        policy, and the policy is not changed during an iteration.
        """

    @abstractmethod
    def resize(self, item: Hashable, nbytes: int, /) -> None:
        """Note that an item now holds `nbytes` bytes.

        If they are fewer than before, its last parts were evicted. The names of the item are
        still those that it had, so that a policy can note which parts went.
        """

    def reset(self) -> None:
        """Forget all items, after a call of the policy that did not end; they are admitted again.

        An interrupt may have left anything half done, so nothing that the policy keeps may be
        relied on.

        Notes
        -----
        A policy that does not override this removes what `victims` yields. Override it if an
        interrupt may leave more than that behind.
        """
        for item in list(self.victims()):
            self.remove(item)

    def split(self, item: Hashable, head: Hashable, nbytes: int, head_nbytes: int, /) -> None:
        """Note that the first part of an item is now an item of its own, with the same history.

        Parameters
        ----------
        item : hashable
            An item that is ranked. It stands for the rest from now on.
        head : hashable
            The new item. It is used right after.
        nbytes, head_nbytes : int
            The bytes that `item` and `head` hold now.

        Notes
        -----
        A policy that does not override this resizes `item` and admits `head`. Override it if the
        policy counts uses, or remembers anything else of an item.
        """
        self.resize(item, nbytes)
        self.admit(head, head_nbytes)


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
