"""The naive model that a manager is tested against: dictionaries, lists and arrays of its own.

It knows the rules and nothing of how they are kept: every question is answered by looking at
everything. Only where blocks lie is told to it, because which hole the allocator takes is
the allocator's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvpool.cache_key import CacheKey
from kvpool.layout import KVLayout
from tests.support.sessions import Tokens

__all__ = ["ModelBlock", "ModelManager", "ModelSession"]

GRANULE = 64


@dataclass(eq=False)
class ModelBlock:
    """The bytes of a session, as two arrays; old views show them for as long as they live."""

    keys: NDArray[Any]
    values: NDArray[Any]
    nbytes: int
    offset: int = -1
    views: int = 0

    @classmethod
    def empty(cls, layout: KVLayout, context: int) -> ModelBlock:
        shape = (layout.layers, layout.kv_heads, context, layout.head_dim)
        nbytes = layout.geometry(context).nbytes
        return cls(np.zeros(shape, layout.dtype), np.zeros(shape, layout.dtype), nbytes)

    @property
    def range(self) -> range:
        """The granules that it takes."""
        return range(self.offset // GRANULE, -(-(self.offset + self.nbytes) // GRANULE))


@dataclass(eq=False)
class ModelSession:
    """A session that is there."""

    block: ModelBlock
    context: int
    ttl: float
    last_accessed: float
    counts: list[int]
    birth: int
    pins: int = 0

    @property
    def deadline(self) -> float:
        return self.last_accessed + self.ttl

    @property
    def complete(self) -> int:
        return min(self.counts)

    @property
    def in_step(self) -> bool:
        return len(set(self.counts)) > 1

    def may_append(self, layer: int, count: int) -> bool:
        ahead = max(self.counts) - self.complete
        return not self.in_step or (self.counts[layer] == self.complete and count == ahead)

    def append(self, layer: int, keys: NDArray[Any], values: NDArray[Any]) -> None:
        at = self.counts[layer]
        self.counts[layer] += keys.shape[1]
        self.block.keys[layer, :, at : self.counts[layer]] = keys
        self.block.values[layer, :, at : self.counts[layer]] = values


@dataclass
class ModelManager:
    """Sessions from the least to the most recently used, and the counts."""

    capacity: int
    layout: KVLayout
    now: float
    sessions: dict[CacheKey, ModelSession] = field(default_factory=dict)
    parting: list[ModelBlock] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("hits", "misses", "allocations"), 0)
    )
    evictions: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("manual", "lru", "ttl"), 0)
    )

    # -- uses and their absence ----------------------------------------------------------

    def use(self, key: CacheKey) -> ModelSession:
        session = self.sessions.pop(key)
        session.last_accessed = self.now
        self.sessions[key] = session
        return session

    def expire(self) -> list[CacheKey]:
        """Let go who expired; return them, the earliest deadline first, then the oldest."""
        due = [
            (session.deadline, session.birth, key)
            for key, session in self.sessions.items()
            if session.deadline <= self.now and not session.pins and not session.block.views
        ]
        gone = [key for _, _, key in sorted(due)]
        for key in gone:
            self.forget(key, "ttl")
        return gone

    def forget(self, key: CacheKey, reason: str) -> None:
        session = self.sessions.pop(key)
        self.evictions[reason] += 1
        self.part(session.block)

    def part(self, block: ModelBlock) -> None:
        if block.views:
            self.parting.append(block)

    def view_ended(self, block: ModelBlock) -> None:
        block.views -= 1
        if not block.views and block in self.parting:
            self.parting.remove(block)

    # -- room ----------------------------------------------------------------------------

    def blocks(self) -> list[ModelBlock]:
        return [*(session.block for session in self.sessions.values()), *self.parting]

    def used(self) -> int:
        return sum(len(block.range) for block in self.blocks()) * GRANULE

    def fits(self, nbytes: int, blocks: Iterable[ModelBlock]) -> bool:
        return largest_hole(blocks, self.capacity) >= nbytes

    def victims(self, nbytes: int, growing: CacheKey | None = None) -> list[CacheKey] | None:
        """Return who has to go so that so many bytes fit; None if that cannot be."""
        left, gone = self.blocks(), []
        if self.fits(nbytes, left):
            return []
        for key, session in self.sessions.items():
            if session.pins or session.block.views or key == growing:
                continue
            left.remove(session.block)
            gone.append(key)
            if self.fits(nbytes, left):
                return gone
        return None

    # -- sessions ------------------------------------------------------------------------

    def create(self, key: CacheKey, context: int, ttl: float) -> ModelSession:
        self.counts["allocations"] += 1
        block = ModelBlock.empty(self.layout, context)
        counts = [0] * self.layout.layers
        birth = self.counts["allocations"]
        session = ModelSession(block, context, ttl, self.now, counts, birth)
        self.sessions[key] = session
        return session

    def grow(self, key: CacheKey, context: int) -> None:
        session = self.sessions[key]
        old, new = session.block, ModelBlock.empty(self.layout, context)
        for layer, held in enumerate(session.counts):
            new.keys[layer, :, :held] = old.keys[layer, :, :held]
            new.values[layer, :, :held] = old.values[layer, :, :held]
        session.block, session.context = new, context
        self.part(old)

    def extend(self, session: ModelSession, tokens: Tokens) -> None:
        for layer in range(self.layout.layers):
            session.append(layer, *tokens.layer(layer))


def largest_hole(blocks: Iterable[ModelBlock], capacity: int) -> int:
    """Return the bytes of the longest run of granules that no block takes."""
    longest = run = 0
    taken = {granule for block in blocks for granule in block.range}
    for granule in range(capacity // GRANULE):
        run = 0 if granule in taken else run + 1
        longest = max(longest, run)
    return longest * GRANULE


def forever(ttl: float | None) -> float:
    return math.inf if ttl is None else ttl
