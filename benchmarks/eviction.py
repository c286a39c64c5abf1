"""What one eviction costs among many sessions, and what a new session costs in a full pool.

All sessions have the same size, so each eviction takes exactly one; they were last used in
random order, so neighbours in the order of uses lie anywhere in the arena. Each call is timed
by itself, because the next one finds room to make only once the pool is full again; a round is
the median of its calls, so that what else the machine does counts for little.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.harness import Report, Target, interleave, median
from kvpool.cache_key import CacheKey
from kvpool.manager import KVCacheManager

EVICT = "evict_lru_entries"
CREATE = "allocate_entry"
NBYTES = 4 << 10
FEW, MANY = 1_000, 20_000
TIMES = 200  # calls in a round
HOUR = 3600.0
SEED = 20_231_116


@dataclass(frozen=True, slots=True)
class Scenario:
    """How many sessions there are, and whether they could expire."""

    what: str
    sessions: int
    ttl: float | None = None
    limit: float | None = None  # microseconds for one eviction


SCENARIOS = (
    Scenario("among 1,000 sessions", FEW),
    Scenario("among 20,000 sessions", MANY, limit=10),
    Scenario("among 20,000 sessions that may expire", MANY, ttl=HOUR),
)


class FullPool:
    """A manager whose pool is full, and the rounds that are timed."""

    def __init__(self, scenario: Scenario) -> None:
        capacity = scenario.sessions * NBYTES
        self.manager = KVCacheManager(capacity, "numpy", ttl=scenario.ttl)
        self.keys = (CacheKey("chat", number) for number in itertools.count())
        for _ in range(scenario.sessions):
            self.create()
        used = self.manager.session_keys()
        random.Random(SEED).shuffle(used)
        for key in used:
            self.manager.get_cache_entry(key)

    def create(self) -> None:
        self.manager.allocate_entry(next(self.keys), NBYTES)

    def evict(self) -> None:
        self.manager.evict_lru_entries(NBYTES)

    def evictions(self) -> float:
        """Return the microseconds of one eviction."""
        times = []
        for _ in range(TIMES):
            times.append(timed(self.evict))
            self.create()
        return statistics.median(times)

    def creations(self) -> float:
        """Return the microseconds of one creation that evicts."""
        return statistics.median(timed(self.create) for _ in range(TIMES))


def timed(call: Callable[[], None]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1_000


def run(quick: bool) -> Report:
    """Measure every scenario."""
    report = Report(f"one eviction, sessions of {NBYTES} bytes")
    report.notes.append(f"{CREATE} evicts one session, takes its block and zeroes it")
    for scenario in SCENARIOS:
        measure(scenario, report, rounds=5 if quick else 101)
    return report


def measure(scenario: Scenario, report: Report, rounds: int) -> None:
    """Measure one scenario, and add the figures to the report."""
    full = FullPool(scenario)
    samples = interleave({EVICT: full.evictions, CREATE: full.creations}, rounds)
    target = Target(scenario.limit, at_most=True) if scenario.limit else None
    add = partial(median, scenario.what)
    report.measurements.append(add(EVICT, "µs", samples[EVICT], target))
    report.measurements.append(add(CREATE, "µs", samples[CREATE]))
    full.manager.check_integrity()
    full.manager.close()
