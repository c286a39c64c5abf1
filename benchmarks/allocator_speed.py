"""Free + allocate of random sizes, among live blocks and past holes too small to use.

kvpool's allocator, and its whole pool (which also zeroes the bytes), beside LMCache's
`AddressManager`: the same sizes and the same victims for each, in turns, in one run.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.harness import Ratio, Report, Target, interleave, median, seconds
from benchmarks.peers import LMCACHE_VERSION, PeerUnavailableError, lmcache_address_manager
from kvpool.pool import MemoryBlock, MemoryPool, OffsetAllocator

ALLOCATOR = "kvpool OffsetAllocator"
POOL = "kvpool MemoryPool"
LMCACHE = "LMCache AddressManager"

CAPACITY = 256 << 20
GRANULE = 64
SIZES = (GRANULE + 1, 8192)  # bytes; the small holes of a scenario fit none of them
SEED = 20_231_116


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    run_in: float  # how often each live block is replaced beforehand
    rounds: int
    per_round: int  # enough that what the subject before left in the caches hardly counts


FULL = Effort(run_in=2, rounds=21, per_round=2_000)
QUICK = Effort(run_in=0.2, rounds=3, per_round=300)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the space looks like while a round is timed."""

    what: str
    live: int
    holes: int
    limit: float  # microseconds for free + allocate
    rate_target: Target | None = None  # beside LMCache


SCENARIOS = (
    Scenario("1,000 live", live=1_000, holes=0, limit=4),
    Scenario("20,000 live", 20_000, holes=0, limit=4, rate_target=Target(3, at_most=False)),
    Scenario("1,000 live, past 20,000 small holes", live=1_000, holes=20_000, limit=5),
)


class Subject(ABC):
    """An allocator with live blocks."""

    def __init__(self) -> None:
        self.live: list[Any] = []

    @abstractmethod
    def allocate(self, size: int) -> Any:
        """Allocate; what is returned is handed to `free`."""

    @abstractmethod
    def free(self, block: Any) -> None: ...

    @abstractmethod
    def replace(self, victims: list[int], sizes: list[int]) -> None:
        """Free each victim and allocate another in its place, without a call in between."""


class AllocatorSubject(Subject):
    def __init__(self) -> None:
        super().__init__()
        self.allocator = OffsetAllocator(CAPACITY, GRANULE)

    def allocate(self, size: int) -> int:
        return self.allocator.allocate(size)

    def free(self, block: int) -> None:
        self.allocator.free(block)

    def replace(self, victims: list[int], sizes: list[int]) -> None:
        allocate, free, live = self.allocator.allocate, self.allocator.free, self.live
        for victim, size in zip(victims, sizes, strict=True):
            free(live[victim])
            live[victim] = allocate(size)


class PoolSubject(Subject):
    def __init__(self) -> None:
        super().__init__()
        self.pool = MemoryPool(CAPACITY, "numpy")

    def allocate(self, size: int) -> MemoryBlock:
        return self.pool.allocate(size)

    def free(self, block: MemoryBlock) -> None:
        self.pool.deallocate(block)

    def replace(self, victims: list[int], sizes: list[int]) -> None:
        allocate, free, live = self.pool.allocate, self.pool.deallocate, self.live
        for victim, size in zip(victims, sizes, strict=True):
            free(live[victim])
            live[victim] = allocate(size)


class LMCacheSubject(Subject):
    def __init__(self, address_manager: Any) -> None:
        super().__init__()
        self.manager = address_manager(CAPACITY, align_bytes=GRANULE)

    def allocate(self, size: int) -> tuple[int, int]:
        block: tuple[int, int] = self.manager.allocate(size)
        return block

    def free(self, block: tuple[int, int]) -> None:
        self.manager.free(*block)

    def replace(self, victims: list[int], sizes: list[int]) -> None:
        allocate, free, live = self.manager.allocate, self.manager.free, self.live
        for victim, size in zip(victims, sizes, strict=True):
            address, length = live[victim]
            free(address, length)
            live[victim] = allocate(size)


def run(quick: bool) -> Report:
    """Measure every scenario."""
    report = Report("free + allocate, random sizes of 65 to 8,192 bytes")
    makers: dict[str, Callable[[], Subject]] = {ALLOCATOR: AllocatorSubject, POOL: PoolSubject}
    try:
        makers[LMCACHE] = partial(LMCacheSubject, lmcache_address_manager())
        report.versions["lmcache"] = LMCACHE_VERSION
    except PeerUnavailableError as error:
        report.notes.append(f"without LMCache: {error}")
    report.notes.append(f"{POOL} also zeroes the bytes of each block, about 4 KiB")
    for scenario in SCENARIOS:
        measure(scenario, makers, report, QUICK if quick else FULL)
    return report


def measure(
    scenario: Scenario, makers: dict[str, Callable[[], Subject]], report: Report, effort: Effort
) -> None:
    """Measure one scenario for every subject, and add the figures to the report."""
    timed = {}
    for name, make in makers.items():
        subject = make()
        draws = random.Random(SEED)
        prepare(subject, scenario, draws, round(effort.run_in * scenario.live))
        timed[name] = partial(one_round, subject, draws, effort.per_round)
    samples = interleave(timed, effort.rounds)
    measured = {}
    for name in makers:
        target = None if name == LMCACHE else Target(scenario.limit, at_most=True)
        measured[name] = median(scenario.what, name, "µs", samples[name], target)
    report.measurements += measured.values()
    if theirs := measured.get(LMCACHE):
        for name in (ALLOCATOR, POOL):
            ours = measured[name]
            rate = theirs.value / ours.value
            compared = Ratio(
                scenario.what, ours, theirs, "times as fast", rate, scenario.rate_target
            )
            report.ratios.append(compared)


def prepare(subject: Subject, scenario: Scenario, draws: random.Random, run_in: int) -> None:
    """Fill the space and run it in, so that its free ranges are those of a long run."""
    pairs = [(subject.allocate(GRANULE), subject.allocate(GRANULE)) for _ in range(scenario.holes)]
    for hole, _ in pairs:
        subject.free(hole)
    subject.live = [subject.allocate(draws.randint(*SIZES)) for _ in range(scenario.live)]
    subject.replace(*drawn(draws, scenario.live, run_in))


def one_round(subject: Subject, draws: random.Random, count: int) -> float:
    """Return the microseconds that one free + allocate took, on average over a round."""
    victims, sizes = drawn(draws, len(subject.live), count)
    start = seconds()
    subject.replace(victims, sizes)
    return (seconds() - start) / count * 1e6


def drawn(draws: random.Random, live: int, count: int) -> tuple[list[int], list[int]]:
    """Return `count` victims and the sizes of what comes in their place."""
    victims = [draws.randrange(live) for _ in range(count)]
    return victims, [draws.randint(*SIZES) for _ in range(count)]
