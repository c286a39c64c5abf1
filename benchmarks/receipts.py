"""What receipts cost: a replay that evicts all the time, and the verification of a ledger.

The replay serves requests of random lengths from a pool that holds some fifteen of them: each
makes an entry, for which others have to go, and writes its tokens. A token has 12 KiB, as in
Qwen2.5-0.5B, one of the smallest models that are served; larger ones evict as often and write
more, so the share of the receipts shrinks. Times are processor times, except where one receipt
is written by itself, which may mean to wait for the disk: by default once in 1,000 receipts.

    python -m benchmarks.receipts [--quick] [--json FILE] [--check]
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np

from benchmarks.harness import Ratio, Report, Target, interleave, main, median, seconds
from kvpool.cache_key import CacheKey
from kvpool.eviction.base import EvictionReason
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.memory_stats import MemoryStats
from kvpool.receipts import LedgerSink, ReceiptEmitter, ReceiptSink, ReceiptStream, verify
from kvpool.receipts.ledger.ed25519 import generate_key_files

LAYOUT = KVLayout(layers=24, kv_heads=2, head_dim=64, dtype="float16")
TOKENS = (200, 2_200)
CAPACITY = 240 << 20
SEED = 4

OFF = "receipts off"
LOGGING = "logging, not listened to"
LEDGER = "ledger"
SIGNED = "ledger, signed"

Sinks = Callable[[Path], bool | ReceiptSink]


def run(quick: bool) -> Report:
    """Measure the replay with each sink, then the verification."""
    report = Report("receipts")
    report.versions = {
        name: metadata.version(name) for name in ("cryptography", "msgspec", "rfc8785")
    }
    with tempfile.TemporaryDirectory(prefix="kvpool-receipts-") as folder:
        measure_replay(Path(folder), report, quick=quick)
        measure_verification(Path(folder), report, quick=quick)
    return report


# -- writing -----------------------------------------------------------------------------------


def measure_replay(folder: Path, report: Report, *, quick: bool) -> None:
    requests = 40 if quick else 100
    private, _ = generate_key_files(folder / "key")
    sinks: dict[str, Sinks] = {
        OFF: lambda _: False,
        LOGGING: lambda _: True,
        LEDGER: LedgerSink,
        SIGNED: partial(LedgerSink, key=private),
    }
    subjects = {name: partial(replay, folder, sink, requests) for name, sink in sinks.items()}
    samples = interleave(subjects, rounds=3 if quick else 15)
    what = "a request that evicts"
    figures = {name: median(what, name, "µs", samples[name]) for name in subjects}
    report.measurements += figures.values()
    for name in (LOGGING, LEDGER, SIGNED):
        # Each round against the round beside it, in which the machine was the same.
        rates = [ours / off for ours, off in zip(samples[name], samples[OFF], strict=True)]
        target = Target(1.10, at_most=True) if name == LEDGER else None
        ratio = median(f"time, {name}", name, "", rates).value
        report.ratios.append(Ratio("time beside none", figures[name], figures[OFF], ratio, target))


def replay(folder: Path, sink: Sinks, requests: int) -> float:
    """Return the microseconds of one request."""
    draws = random.Random(SEED)
    keys = values = np.ones((LAYOUT.layers, LAYOUT.kv_heads, TOKENS[1], LAYOUT.head_dim), "float16")
    ledger = folder / "replay.jsonl"
    with KVCacheManager(CAPACITY, "numpy", LAYOUT, receipts=sink(ledger)) as manager:
        start = seconds()
        for number in range(requests):
            tokens = draws.randint(*TOKENS)
            entry = manager.create_cache_entry(CacheKey("chat", number), tokens)
            entry.extend(keys[:, :, :tokens], values[:, :, :tokens])
        elapsed = seconds() - start
        assert manager.get_stats().evictions > requests - 30
    if ledger.exists():
        assert verify(ledger).ok
        ledger.unlink()
    return elapsed / requests * 1e6


# -- verifying ---------------------------------------------------------------------------------


def measure_verification(folder: Path, report: Report, *, quick: bool) -> None:
    count = 5_000 if quick else 100_000
    private, public = generate_key_files(folder / "another-key")
    plain, signed = folder / "plain.jsonl", folder / "signed.jsonl"
    never = write_ledger(count, LedgerSink(plain, fsync="never"))
    write_ledger(count, LedgerSink(signed, fsync="never", key=private, checkpoint_every=100))
    always = write_ledger(count // 100, LedgerSink(folder / "always.jsonl", fsync="always"))
    what = "one receipt, made and written"
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
    return MemoryStats(capacity, used, free, free - salt % 1_000_000, 0, 0, 0, 0, allocated, freed)


def verification(path: Path, public_key: Path | None) -> float:
    """Return the receipts that are verified in a second."""
    start = seconds()
    report = verify(path, public_key=public_key)
    elapsed = seconds() - start
    assert report.ok
    return report.receipts / elapsed


if __name__ == "__main__":
    main(run)
