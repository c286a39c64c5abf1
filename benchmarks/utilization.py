"""How full a space gets that is kept full, by the method of Mooncake's `allocator_bench`.

A space of 2 GiB is filled; then each request frees random victims until it fits, and the
share of the space that is allocated is averaged over the requests. kvpool's allocator and
LMCache's `AddressManager` get the same sizes and the same numbers to choose victims by.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.harness import Ratio, Report, Target, interleave, median
from benchmarks.peers import LMCACHE_VERSION, PeerUnavailableError, lmcache_address_manager
from kvpool.errors import PoolExhaustedError
from kvpool.pool import OffsetAllocator

KVPOOL = "kvpool OffsetAllocator"
LMCACHE = "LMCache AddressManager"

CAPACITY = 2 << 30
GRANULE = 64
SEED = 632


@dataclass(frozen=True, slots=True)
class Workload:
    """Sizes are uniform in `smallest` to `largest` bytes."""

    what: str
    smallest: int
    largest: int
    requests: int
    target: Target


WORKLOADS = (
    Workload("1 KiB to 64 MiB", 1 << 10, 64 << 20, 200_000, Target(0.8524, at_most=False)),
    # 1.000 to three decimals
    Workload("all 131,089 B", 131_089, 131_089, 100_000, Target(0.9995, at_most=False)),
)


class AllocatorSpace:
    """kvpool's allocator, full if it raises."""

    def __init__(self) -> None:
        self.allocator = OffsetAllocator(CAPACITY, GRANULE)

    def allocate(self, size: int) -> int | None:
        try:
            return self.allocator.allocate(size)
        except PoolExhaustedError:
            return None

    def free(self, block: int) -> None:
        self.allocator.free(block)


class LMCacheSpace:
    """LMCache's allocator with kvpool's granule (its own default of 4 KiB would hold less)."""

    def __init__(self, address_manager: Any) -> None:
        self.manager = address_manager(CAPACITY, align_bytes=GRANULE)

    def allocate(self, size: int) -> tuple[int, int] | None:
        try:
            block: tuple[int, int] = self.manager.allocate(size)
        except RuntimeError:
            return None
        return block

    def free(self, block: tuple[int, int]) -> None:
        self.manager.free(*block)


def run(quick: bool) -> Report:
    """Measure both workloads."""
    report = Report("utilisation of 2 GiB kept full")
    makers: dict[str, Callable[[], Any]] = {KVPOOL: AllocatorSpace}
    try:
        makers[LMCACHE] = partial(LMCacheSpace, lmcache_address_manager())
        report.versions["lmcache"] = LMCACHE_VERSION
    except PeerUnavailableError as error:
        report.notes.append(f"without LMCache: {error}")
    for workload in WORKLOADS:
        measure(workload, makers, report, share=0.02 if quick else 1, rounds=1 if quick else 3)
    return report


def measure(
    workload: Workload,
    makers: dict[str, Callable[[], Any]],
    report: Report,
    share: float,
    rounds: int,
) -> None:
    """Measure one workload in every space; each round has a seed of its own."""
    requests = int(workload.requests * share)
    seeds = {name: iter(range(SEED, SEED + rounds)) for name in makers}
    subjects = {
        name: partial(one_round, make, workload, requests, seeds[name])
        for name, make in makers.items()
    }
    samples = interleave(subjects, rounds)
    measured = {
        name: median(
            workload.what,
            name,
            "of the space",
            samples[name],
            workload.target if name == KVPOOL else None,
        )
        for name in makers
    }
    report.measurements += measured.values()
    if theirs := measured.get(LMCACHE):
        ours = measured[KVPOOL]
        fuller = ours.value / theirs.value
        report.ratios.append(Ratio(workload.what, ours, theirs, "times as full", fuller))


def one_round(
    make: Callable[[], Any], workload: Workload, requests: int, seeds: Iterator[int]
) -> float:
    """Return the average share of the space that is allocated, over all requests."""
    seed = next(seeds)
    sizes, choices = random.Random(seed), random.Random(seed + 1_000_000)
    space, used = make(), 0
    live: list[tuple[Any, int]] = []  # block and size

    def request(size: int) -> int:
        """Free random victims until `size` fits; return how many bytes more are used."""
        freed = 0
        while (block := space.allocate(size)) is None:
            victim = int(choices.random() * len(live))
            live[victim], live[-1] = live[-1], live[victim]
            old, length = live.pop()
            space.free(old)
            freed += length
        live.append((block, size))
        return size - freed

    asked = 0
    while asked < CAPACITY:
        size = sizes.randint(workload.smallest, workload.largest)
        used += request(size)
        asked += size
    total = 0
    for _ in range(requests):
        used += request(sizes.randint(workload.smallest, workload.largest))
        total += used
    return total / requests / CAPACITY
