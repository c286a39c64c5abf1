"""The figures of a manager as metrics, whatever system they go to.

One table, so that Prometheus and OpenTelemetry have the same metrics under corresponding names.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from kvpool.errors import ForkedProcessError, PoolClosedError
from kvpool.manager import KVCacheManager
from kvpool.stats import PoolStats

if TYPE_CHECKING:  # an engine imports integrations
    from kvpool.serving import Engine, EngineStats, Histogram

__all__ = [
    "ENGINE_FIGURES",
    "ENGINE_TIMES",
    "FIGURES",
    "Figure",
    "Kind",
    "Times",
    "Values",
    "engine_stats_of",
    "stats_of",
]

S = TypeVar("S")

Values = Mapping[str, float]
"""The values of a figure by its label; a figure without one has the single key ``""``."""


class Kind(enum.Enum):
    """How a figure changes."""

    COUNTER = "counter"
    """It only rises."""
    GAUGE = "gauge"
    """It rises and falls."""


class Figure(NamedTuple, Generic[S]):
    """A metric of a manager, an engine or a level of tiers.

    Attributes
    ----------
    name : str
        With dots between its parts, without the name of the project, unit or kind.
    kind : Kind
    unit : str
        ``"bytes"``, ``"tokens"``, ``"seconds"``, ``"ratio"``, bytes or tokens ``"_per_second"``, or
        empty for a count.
    text : str
        What it means, as one sentence.
    read : callable
        Returns the values from the stats of the manager or engine.
    label : str
        Name of the label that tells the values apart; empty if there is one value.
    """

    name: str
    kind: Kind
    unit: str
    text: str
    read: Callable[[S], Values]
    label: str = ""


def stats_of(manager: KVCacheManager | None) -> PoolStats | None:
    """Return the figures of a manager; None if it is gone, closed, or of the parent process."""
    if manager is None:
        return None
    try:
        return manager.get_stats()
    except (ForkedProcessError, PoolClosedError):
        return None


def engine_stats_of(engine: Engine | None) -> EngineStats | None:
    """Return the figures of an engine; None if it is gone, or of the parent process."""
    if engine is None:
        return None
    try:
        return engine.stats()
    except ForkedProcessError:
        return None


def _one(read: Callable[[S], float]) -> Callable[[S], Values]:
    return lambda stats: {"": read(stats)}


def _memory(stats: PoolStats) -> Values:
    return {"used": stats.used_memory, "free": stats.total_capacity - stats.used_memory}


def _entries(stats: PoolStats) -> Values:
    return {
        "unpinned": stats.active_entries - stats.pinned_entries,
        "pinned": stats.pinned_entries,
        "draining": stats.parting_entries,
    }


FIGURES: tuple[Figure[PoolStats], ...] = (
    Figure(
        "pool.capacity",
        Kind.GAUGE,
        "bytes",
        "Bytes that all entries together may use.",
        _one(lambda stats: stats.total_capacity),
    ),
    Figure(
        "pool.memory",
        Kind.GAUGE,
        "bytes",
        "Bytes of the capacity by state; in an elastic pool, committed pages are used.",
        _memory,
        "state",
    ),
    Figure(
        "pool.reserved",
        Kind.GAUGE,
        "bytes",
        "Bytes of the address ranges of all entries, committed or not.",
        _one(lambda stats: stats.reserved_memory),
    ),
    Figure(
        "pool.address_space",
        Kind.GAUGE,
        "bytes",
        "Bytes of all address ranges that there are.",
        _one(lambda stats: stats.address_space),
    ),
    Figure(
        "pool.fragmentation",
        Kind.GAUGE,
        "ratio",
        "1 - largest free range / free bytes.",
        _one(lambda stats: stats.fragmentation),
    ),
    Figure(
        "pool.allocated",
        Kind.COUNTER,
        "bytes",
        "Bytes handed out.",
        _one(lambda stats: stats.bytes_allocated),
    ),
    Figure(
        "pool.freed",
        Kind.COUNTER,
        "bytes",
        "Bytes that came back.",
        _one(lambda stats: stats.bytes_freed),
    ),
    Figure(
        "pool.trimmed",
        Kind.COUNTER,
        "bytes",
        "Of the bytes that came back, those of entries that stayed.",
        _one(lambda stats: stats.bytes_trimmed),
    ),
    Figure(
        "entries",
        Kind.GAUGE,
        "",
        "Entries by state; draining ones left, but a view or fork still needs their bytes.",
        _entries,
        "state",
    ),
    Figure(
        "allocations",
        Kind.COUNTER,
        "",
        "Entries made.",
        _one(lambda stats: stats.allocations),
    ),
    Figure(
        "evictions",
        Kind.COUNTER,
        "",
        "Entries that left, by reason.",
        lambda stats: {reason.value: count for reason, count in stats.evictions_by_reason.items()},
        "reason",
    ),
    Figure(
        "lookups",
        Kind.COUNTER,
        "",
        "Look-ups of entries by their key.",
        lambda stats: {"hit": stats.hits, "miss": stats.misses},
        "result",
    ),
    Figure(
        "forks",
        Kind.GAUGE,
        "",
        "Forks that share pages.",
        _one(lambda stats: stats.forks),
    ),
    Figure(
        "copied_forks",
        Kind.COUNTER,
        "",
        "Forks that had to be a copy, by reason.",
        lambda stats: {
            reason.value: count for reason, count in stats.copied_forks_by_reason.items()
        },
        "reason",
    ),
    Figure(
        "prefix.lookups",
        Kind.COUNTER,
        "",
        "Sessions opened with the tokens of a prompt.",
        _one(lambda stats: stats.prefix.lookups),
    ),
    Figure(
        "prefix.asked",
        Kind.COUNTER,
        "tokens",
        "Tokens of the prompts with which sessions were opened.",
        _one(lambda stats: stats.prefix.tokens_asked),
    ),
    Figure(
        "prefix.reused",
        Kind.COUNTER,
        "tokens",
        "Of the tokens asked, those that the pool or its tiers held, by where they came from.",
        lambda stats: dict(stats.prefix.tokens_by_source),
        "source",
    ),
    Figure(
        "prefix.held",
        Kind.GAUGE,
        "tokens",
        "Tokens that can be reused; those that several sessions hold count once.",
        _one(lambda stats: stats.prefix.tokens_held),
    ),
    Figure(
        "prefix.reuse",
        Kind.GAUGE,
        "ratio",
        "Tokens reused / tokens asked, since the pool was made.",
        _one(lambda stats: stats.prefix.reuse_ratio),
    ),
)
"""All metrics of a manager."""


class Times(NamedTuple):
    """A metric of an engine: how long something took.

    Attributes
    ----------
    name, text : str
        As those of a `Figure`; the unit is seconds.
    read : callable
        Returns the histogram from the stats of an engine.
    """

    name: str
    text: str
    read: Callable[[EngineStats], Histogram]


ENGINE_FIGURES: tuple[Figure[EngineStats], ...] = (
    Figure(
        "active_requests",
        Kind.GAUGE,
        "",
        "Requests that are not finished, by state; the first tokens of loading ones come from "
        "tiers, and preempted ones wait to go on.",
        lambda stats: {
            "running": stats.running - stats.loading,
            "loading": stats.loading,
            "waiting": stats.queued - stats.preempted,
            "preempted": stats.preempted,
        },
        "state",
    ),
    Figure(
        "accepted_requests",
        Kind.COUNTER,
        "",
        "Requests accepted.",
        _one(lambda stats: stats.accepted),
    ),
    Figure(
        "requests",
        Kind.COUNTER,
        "",
        "Requests that are finished, by how they ended.",
        lambda stats: {str(reason): count for reason, count in stats.finished.items()},
        "outcome",
    ),
    Figure(
        "preemptions",
        Kind.COUNTER,
        "",
        "How often a request lost its place, to go on later.",
        _one(lambda stats: stats.preemptions),
    ),
    Figure(
        "steps",
        Kind.COUNTER,
        "",
        "Steps of the model.",
        _one(lambda stats: stats.steps),
    ),
    Figure(
        "prompt",
        Kind.COUNTER,
        "tokens",
        "Tokens of the prompts, by whether the pool held them.",
        lambda stats: {
            "cached": stats.cached_tokens,
            "computed": stats.prompt_tokens - stats.cached_tokens,
        },
        "source",
    ),
    Figure(
        "completion",
        Kind.COUNTER,
        "tokens",
        "Tokens generated.",
        _one(lambda stats: stats.completion_tokens),
    ),
    Figure(
        "promised",
        Kind.GAUGE,
        "bytes",
        "Bytes that the requests which run may grow to, all together.",
        _one(lambda stats: stats.promised_bytes),
    ),
)
"""The metrics of an engine that are numbers."""

ENGINE_TIMES = (
    Times(
        "time_to_first_token",
        "Seconds from a request to its first token.",
        lambda stats: stats.first_token,
    ),
    Times(
        "time_between_tokens",
        "Seconds from one token of a request to the next.",
        lambda stats: stats.between_tokens,
    ),
)
"""The metrics of an engine that are histograms."""
