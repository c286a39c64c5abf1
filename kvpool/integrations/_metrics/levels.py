"""The figures of a store of tiers as metrics: the same ones for each of its levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvpool.errors import ForkedProcessError
from kvpool.integrations._metrics.figures import Figure, Kind, Values
from kvpool.tiers import BreakerFigures, BreakerState, LevelStats, TierStats, TierStore

__all__ = ["LEVEL_FIGURES", "LEVEL_LABELS", "LevelReading", "readings_of"]

LEVEL_LABELS = ("level", "url")
"""The labels of each figure: the number of the level, from 1 on, and the URL of its tier."""


class LevelReading(NamedTuple):
    """What is known of a level at one moment.

    Parameters
    ----------
    labels : tuple of str
        The values of `LEVEL_LABELS`.
    stats : LevelStats
    calls : BreakerFigures
    held : TierStats or None
        None if the tier does not answer.
    compute_rate : float or None
        Tokens per second that the model computes; None before it was measured.
    """

    labels: tuple[str, str]
    stats: LevelStats
    calls: BreakerFigures
    held: TierStats | None
    compute_rate: float | None


def readings_of(store: TierStore | None) -> list[LevelReading]:
    """Return the figures of all levels; none if the store is gone or of the parent process.

    Each tier is asked what it holds, for as long as its budget allows.
    """
    if store is None:
        return []
    try:
        stats = store.stats()
    except ForkedProcessError:
        return []
    return [
        LevelReading(
            (str(number), level.name),
            own,
            level.breaker.figures,
            level.tier_stats(),
            stats.compute_rate,
        )
        for number, (level, own) in enumerate(zip(store.levels, stats.levels, strict=True), 1)
    ]


def _one(read: Callable[[LevelReading], float]) -> Callable[[LevelReading], Values]:
    return lambda reading: {"": read(reading)}


def _known(read: Callable[[LevelReading], float | None]) -> Callable[[LevelReading], Values]:
    def values(reading: LevelReading) -> Values:
        value = read(reading)
        return {} if value is None else {"": value}

    return values


def _held(read: Callable[[TierStats], float | None]) -> Callable[[LevelReading], Values]:
    return _known(lambda reading: None if reading.held is None else read(reading.held))


def _lookups(reading: LevelReading) -> Values:
    return {"hit": reading.stats.hits, **reading.stats.misses}


def _writes(reading: LevelReading) -> Values:
    stats = reading.stats
    return {
        "stored": stats.stored,
        "dropped": stats.dropped,
        "refused": stats.refused,
        "failed": stats.failed,
    }


def _states(reading: LevelReading) -> Values:
    return {state.value: float(state is reading.stats.state) for state in BreakerState}


def _failures(reading: LevelReading) -> Values:
    calls = reading.calls
    return {"error": calls.errors, "timeout": calls.timeouts, "not_made": calls.refused}


LEVEL_FIGURES: tuple[Figure[LevelReading], ...] = (
    Figure(
        "tier.lookups",
        Kind.COUNTER,
        "",
        "Chunks that were asked for, by whether they were loaded, or why not.",
        _lookups,
        "result",
    ),
    Figure(
        "tier.loaded",
        Kind.COUNTER,
        "tokens",
        "Tokens loaded.",
        _one(lambda reading: reading.stats.tokens),
    ),
    Figure(
        "tier.read",
        Kind.COUNTER,
        "bytes",
        "Bytes of the keys and values that were loaded.",
        _one(lambda reading: reading.stats.nbytes),
    ),
    Figure(
        "tier.load",
        Kind.COUNTER,
        "seconds",
        "Seconds that the loads took.",
        _one(lambda reading: reading.stats.seconds),
    ),
    Figure(
        "tier.bandwidth",
        Kind.GAUGE,
        "bytes_per_second",
        "Bytes of keys and values per second of the last loads.",
        _known(lambda reading: reading.stats.bandwidth),
    ),
    Figure(
        "tier.compute",
        Kind.GAUGE,
        "tokens_per_second",
        "Tokens of prompts that the model computed per second of late.",
        _known(lambda reading: reading.compute_rate),
    ),
    Figure(
        "tier.writes",
        Kind.COUNTER,
        "",
        "Chunks to be written, by what became of them.",
        _writes,
        "outcome",
    ),
    Figure(
        "tier.written",
        Kind.COUNTER,
        "bytes",
        "Bytes that were written, after the codec.",
        _one(lambda reading: reading.stats.stored_nbytes),
    ),
    Figure(
        "tier.queued",
        Kind.GAUGE,
        "bytes",
        "Bytes of keys and values that wait to be written.",
        _one(lambda reading: reading.stats.queued_nbytes),
    ),
    Figure(
        "tier.breaker",
        Kind.GAUGE,
        "",
        "1 for the state of the breaker: closed asks the tier, open leaves it alone.",
        _states,
        "state",
    ),
    Figure(
        "tier.failed_calls",
        Kind.COUNTER,
        "",
        "Calls that failed, by an error or their time, or that an open breaker did not make.",
        _failures,
        "reason",
    ),
    Figure(
        "tier.values",
        Kind.GAUGE,
        "",
        "Values in the tier, if it can tell.",
        _held(lambda held: held.values),
    ),
    Figure(
        "tier.used",
        Kind.GAUGE,
        "bytes",
        "Bytes that the values take, if the tier can tell.",
        _held(lambda held: held.nbytes),
    ),
    Figure(
        "tier.capacity",
        Kind.GAUGE,
        "bytes",
        "The most bytes that the tier may take, if it has a limit.",
        _held(lambda held: held.capacity),
    ),
    Figure(
        "tier.evictions",
        Kind.COUNTER,
        "",
        "Values that this process evicted from the tier.",
        _held(lambda held: held.evicted),
    ),
)
"""All metrics of a level."""
