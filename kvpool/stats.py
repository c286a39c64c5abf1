"""The figures of a pool, `MemoryStats`, and of a manager, `PoolStats`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from kvpool.eviction.base import EvictionReason

__all__ = ["CopyReason", "MemoryStats", "PoolStats", "PrefixStats"]


class CopyReason(enum.StrEnum):
    """Why a fork is a copy of the tokens, and does not share their pages."""

    WHOLE_BLOCK = "whole block"
    """The parent is charged as a whole, not by pages: the pool is not elastic."""
    ARENA = "arena"
    """The arena cannot fork, or the system refused."""
    ARENA_LIMIT = "arena limit"
    """There are as many forks as `ArenaInfo.fork_limit` allows."""
    MAPPINGS = "mappings"
    """The process has no mapping left for forks."""
    DESCRIPTORS = "descriptors"
    """The process has no descriptor left for forks."""
    MEMORY = "memory"
    """The process has no memory or address space left for the mapping."""
    MORE_ROOM = "more room"
    """The fork was to have room for more tokens than its parent."""
    WRITEABLE_VIEW = "writeable view"
    """A writeable view of the parent is alive; the fork would show what is written there."""


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """The figures of a `MemoryPool`, from its `stats`. A manager has its own, `PoolStats`.

    All sizes are in bytes, rounded up to the granule of the pool.

    Attributes
    ----------
    capacity : int
        Bytes that all blocks together may use.
    used : int
        Bytes of the blocks handed out; in an elastic pool, of their committed pages.
    free : int
        ``capacity - used``.
    largest_free : int
        Bytes of the largest free range.
    live_blocks : int
        Blocks handed out and not deallocated.
    parting_blocks : int
        Draining blocks: deallocated, but a view or fork still needs their bytes. They count
        as used.
    allocations, deallocations : int
        How often bytes were handed out, and how often they came back.
    bytes_allocated, bytes_freed : int
        Running totals; ``used == bytes_allocated - bytes_freed``.
    reserved : int
        Bytes of the address ranges of all blocks, committed or not.
    address_space : int
        Bytes of all address ranges that there are.
    bytes_trimmed : int
        Of the bytes freed, those that live blocks gave back or left to forks.
    forks : int
        Forks that share pages now.
    copied_forks : int
        How often a fork had to be a copy so far.
    copied_forks_by_reason : mapping of CopyReason to int
        One count for every reason; they add up to `copied_forks`.
    is_exact : bool
        False if a finalizer or a signal handler asked in the middle of another call of its thread:
        then a figure may be that from before this call or after it.
    """

    capacity: int
    used: int
    free: int
    largest_free: int
    live_blocks: int
    parting_blocks: int
    allocations: int
    deallocations: int
    bytes_allocated: int
    bytes_freed: int
    reserved: int
    address_space: int
    bytes_trimmed: int = 0
    forks: int = 0
    copied_forks: int = 0
    copied_forks_by_reason: Mapping[CopyReason, int] = field(
        default_factory=lambda: dict.fromkeys(CopyReason, 0), hash=False
    )
    is_exact: bool = True

    @property
    def fragmentation(self) -> float:
        """``1 - largest_free / free``: 0 if all free bytes are in one range, or no byte is free."""
        return 1 - self.largest_free / self.free if self.free else 0.0

    @property
    def utilization(self) -> float:
        """``used / capacity``."""
        return self.used / self.capacity


@dataclass(frozen=True, slots=True)
class PrefixStats:
    """The figures of prefix reuse: of `KVCacheManager.open_session`.

    Attributes
    ----------
    lookups : int
        Sessions opened.
    tokens_asked : int
        Tokens with which they were opened.
    tokens_reused : int
        Of those, the ones that the pool or its tiers held, so that they need not be computed.
    tokens_by_source : mapping of str to int
        How many came from an earlier turn (``"continued"``), from pages shared with another
        session (``"forked"``), from a copy of its bytes (``"copied"``), or from tiers
        (``"loaded"``).
    tokens_held : int
        Tokens that can be reused now; those that several sessions hold count once.
    """

    lookups: int = 0
    tokens_asked: int = 0
    tokens_reused: int = 0
    tokens_by_source: Mapping[str, int] = field(default_factory=dict)
    tokens_held: int = 0

    @property
    def reuse_ratio(self) -> float:
        """``tokens_reused / tokens_asked``; 0 before the first look-up."""
        return self.tokens_reused / self.tokens_asked if self.tokens_asked else 0.0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The figures of a `KVCacheManager`, from its `get_stats`. A pool has its own, `MemoryStats`.

    All figures are of one moment; all sizes are in bytes.

    Attributes
    ----------
    total_capacity : int
        Bytes that all entries together may use; in an elastic pool, that may be committed.
    used_memory : int
        Bytes in use; in an elastic pool, of committed pages. Entries that were removed count
        until their last view and fork are gone.
    active_entries : int
        Entries that can be found by their key.
    pinned_entries : int
        Active entries that are pinned.
    parting_entries : int
        Draining entries: they left, but a view or fork still needs their bytes.
    allocations : int
        Entries made.
    evictions : int
        Entries that left, for any reason.
    evictions_by_reason : mapping of EvictionReason to int
        One count for every reason; they add up to `evictions`.
    fragmentation : float
        ``1 - largest free range / free bytes``.
    hits, misses : int
        Look-ups that found an entry, and those that did not.
    bytes_allocated, bytes_freed : int
        Running totals; ``used_memory == bytes_allocated - bytes_freed``.
    bytes_trimmed : int
        Of the bytes freed, those that entries gave back, or left to forks, while they stayed.
    reserved_memory : int
        Bytes of the address ranges of all entries, committed or not.
    address_space : int
        Bytes of all address ranges that there are.
    forks : int
        Forks that share pages now.
    copied_forks : int
        How often a fork had to be a copy so far.
    copied_forks_by_reason : mapping of CopyReason to int
        One count for every reason; they add up to `copied_forks`.
    prefix : PrefixStats
        What `open_session` found.
    is_exact : bool
        False if a finalizer or a signal handler asked in the middle of another call of its thread:
        then a figure may be that from before this call or after it.
    """

    total_capacity: int
    used_memory: int
    active_entries: int
    pinned_entries: int
    parting_entries: int
    allocations: int
    evictions: int
    evictions_by_reason: Mapping[EvictionReason, int]
    fragmentation: float
    hits: int
    misses: int
    bytes_allocated: int
    bytes_freed: int
    bytes_trimmed: int
    reserved_memory: int
    address_space: int
    forks: int
    copied_forks: int
    copied_forks_by_reason: Mapping[CopyReason, int]
    prefix: PrefixStats = field(default_factory=PrefixStats)
    is_exact: bool = True

    @property
    def utilization(self) -> float:
        """``used_memory / total_capacity``."""
        return self.used_memory / self.total_capacity

    @property
    def hit_rate(self) -> float:
        """``hits / (hits + misses)``; 0 before the first look-up."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0
