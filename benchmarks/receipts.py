"""What receipts cost: pools that evict all the time, and the verification of a ledger.

The replay serves requests of random lengths, 200 to 2,200 tokens, from a pool that holds some
fifteen of them: each makes an entry, for which others have to go, and writes its tokens. A
token has 12 KiB, as in Qwen2.5-0.5B, one of the smallest models that are served; larger ones
evict as often and write more, so the share of the receipts shrinks. Nothing is computed: beside
a model that makes the tokens, receipts cost a share of this share.

The worst case does not occur in a server: each request takes 4 KiB and writes nothing, so that the
eviction and its receipt are all that happens. The target was set for a replay; here it is shown
all the same.

Both run until the ledger has made its checkpoints and has waited for the disk as it does by
default, once in 1,000 receipts.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

from benchmarks.harness import Ratio, Report, Target, interleave, median, seconds
from kvpool.cache_key import CacheKey
from kvpool.eviction.base import EvictionReason
from kvpool.layout import KVLayout
from kvpool.ledger import LedgerSink, verify
from kvpool.ledger.ed25519 import generate_key_files
from kvpool.manager import KVCacheManager
from kvpool.receipts import ReceiptEmitter, ReceiptSink, ReceiptStream
from kvpool.stats import MemoryStats

LAYOUT = KVLayout(layers=24, kv_heads=2, head_dim=64, dtype="float16")
TOKENS = (200, 2_200)
CAPACITY = 240 << 20
SMALL = 4 << 10
SMALL_CAPACITY = 1_000 * SMALL
LIMIT = Target(1.10, at_most=True)
SEED = 4

OFF = "receipts off"
LOGGING = "logging, not listened to"
LEDGER = "ledger"
SIGNED = "ledger, signed"

NOTES = (
    "replay: 200 to 2,200 tokens of 24 layers, 2 heads, 64 numbers in float16; a pool of 240 MiB",
    "processor: the time of the processor; wall: also the waiting for the disk",
    "a ratio is the median over the rounds, of each sink beside no receipts in the same round",
)

Sinks = Callable[[Path], bool | ReceiptSink]
Requests = Iterator[None]
"""Each step serves one request."""


def run(quick: bool) -> Report:
    """Measure both workloads with each sink, then the verification."""
    report = Report("receipts")
    report.versions = {
        name: metadata.version(name) for name in ("cryptography", "msgspec", "rfc8785")
    }
    report.notes += NOTES
    with tempfile.TemporaryDirectory(prefix="kvpool-receipts-") as folder:
        private, _ = generate_key_files(Path(folder) / "key")
        sinks: dict[str, Sinks] = {
            OFF: lambda _: False,
            LOGGING: lambda _: True,
            LEDGER: LedgerSink,
            SIGNED: partial(LedgerSink, key=private),
        }
        for workload in WORKLOADS:
            measure_workload(workload, sinks, Path(folder), report, quick=quick)
        measure_verification(Path(folder), report, quick=quick)
    return report


# -- writing -----------------------------------------------------------------------------------


def replay(manager: KVCacheManager) -> Requests:
    """Serve requests of random lengths, and write their tokens."""
    draws = random.Random(SEED)
    keys = values = np.ones((LAYOUT.layers, LAYOUT.kv_heads, TOKENS[1], LAYOUT.head_dim), "float16")
    number = 0
    while True:
        tokens = draws.randint(*TOKENS)
        entry = manager.create_cache_entry(CacheKey("chat", number), tokens)
        entry.extend(keys[:, :, :tokens], values[:, :, :tokens])
        number += 1
        yield


def take_little(manager: KVCacheManager) -> Requests:
    """Serve requests that write nothing."""
    number = 0
    while True:
        manager.allocate_entry(CacheKey("chat", number), SMALL)
        number += 1
        yield


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests that evict, from a pool that is full."""

    what: str
    serve: Callable[[KVCacheManager], Requests]
    capacity: int
    to_fill: int  # requests after which the pool is full
    requests: int
    rounds: int


WORKLOADS = (
    Workload("replay, 1,200 tokens of 12 KiB", replay, CAPACITY, 40, 1_100, 15),
    Workload("worst case, 4 KiB, not written", take_little, SMALL_CAPACITY, 1_000, 2_200, 31),
)


def measure_workload(
    workload: Workload, sinks: dict[str, Sinks], folder: Path, report: Report, *, quick: bool
) -> None:
    """Measure a workload with each sink, by two clocks, and add the figures to the report."""
    requests = 50 if quick else workload.requests
    walls: dict[str, list[float]] = {name: [] for name in sinks}
    subjects = {
        name: partial(one_round, workload, requests, folder, sink, walls[name])
        for name, sink in sinks.items()
    }
    processor = interleave(subjects, rounds=3 if quick else workload.rounds)
    compare(f"{workload.what}; processor", processor, report)
    compare(f"{workload.what}; wall", walls, report)


def compare(what: str, samples: dict[str, list[float]], report: Report) -> None:
    """Add the figures of each sink, and how they compare with no receipts."""
    figures = {name: median(what, name, "µs", taken) for name, taken in samples.items()}
    report.measurements += figures.values()
    for name in (LOGGING, LEDGER, SIGNED):
        # Each round against the round beside it, in which the machine was the same.
        rates = [ours / off for ours, off in zip(samples[name], samples[OFF], strict=True)]
        target = LIMIT if name == LEDGER else None
        ratio = median(what, name, "", rates).value
        compared = Ratio(what, figures[name], figures[OFF], "times the time", ratio, target)
        report.ratios.append(compared)


def one_round(
    workload: Workload, requests: int, folder: Path, sink: Sinks, walls: list[float]
) -> float:
    """Return the microseconds of one request by the processor's clock; note those of the wall."""
    ledger = folder / "replay.jsonl"
    with KVCacheManager(workload.capacity, "numpy", LAYOUT, receipts=sink(ledger)) as manager:
        serve = workload.serve(manager)
        for _ in range(workload.to_fill):
            next(serve)
        before = manager.get_stats().evictions
        wall, processor = time.perf_counter(), seconds()
        for _ in range(requests):
            next(serve)
        processor = seconds() - processor
        walls.append((time.perf_counter() - wall) / requests * 1e6)
        assert manager.get_stats().evictions - before > 0.8 * requests
    if ledger.exists():
        assert verify(ledger).ok
        ledger.unlink()
    return processor / requests * 1e6


# -- verifying ---------------------------------------------------------------------------------


def measure_verification(folder: Path, report: Report, *, quick: bool) -> None:
    count = 5_000 if quick else 100_000
    private, public = generate_key_files(folder / "another-key")
    plain, signed = folder / "plain.jsonl", folder / "signed.jsonl"
    never = write_ledger(count, LedgerSink(plain, fsync="never"))
    write_ledger(count, LedgerSink(signed, fsync="never", key=private, checkpoint_every=100))
    always = write_ledger(count // 100, LedgerSink(folder / "always.jsonl", fsync="always"))
    what = "one receipt, made and written; wall"
    report.measurements.append(median(what, "ledger, fsync never", "µs", [never]))
    report.measurements.append(median(what, "ledger, fsync always", "µs", [always]))
    subjects = {
        "without signatures": partial(verification, plain, None),
        "a signature per 100": partial(verification, signed, public),
    }
    samples = interleave(subjects, rounds=3 if quick else 11)
    for name, rates in samples.items():
        target = Target(100_000, at_most=False) if name == "without signatures" else None
        what = f"verification of {count:,} receipts"
        report.measurements.append(median(what, name, "/s", rates, target))


def write_ledger(count: int, sink: LedgerSink) -> float:
    """Write a ledger of evictions as a pool would make them; return the µs of one receipt."""
    start = time.perf_counter()
    emitter = ReceiptEmitter(ReceiptStream([sink]))
    freed, step, held = 0, 65_536, 100
    for number in range(1, count + 1):
        before, after = (figures(held * step + freed, freed + back, number) for back in (0, step))
        emitter.emit_eviction_receipt(
            f"chat/{number}",
            number,
            EvictionReason.LRU,
            charged=step,
            before=before,
            after=after,
            sessions_before=held,
        )
        emitter.stream.deliver()
        freed += step
    emitter.stream.close()
    assert not any(emitter.stream.failures.values())
    return (time.perf_counter() - start) / count * 1e6


def figures(allocated: int, freed: int, salt: int) -> MemoryStats:
    capacity, used = 1 << 30, allocated - freed
    free = capacity - used
    return MemoryStats(
        *(capacity, used, free, free - salt % 1_000_000, 0, 0, 0, 0, allocated, freed),
        reserved=used,
        address_space=capacity,
    )


def verification(path: Path, public_key: Path | None) -> float:
    """Return the receipts that are verified in a second."""
    start = seconds()
    report = verify(path, public_key=public_key)
    elapsed = seconds() - start
    assert report.ok
    return report.receipts / elapsed
