"""How fast tiers take and give keys and values, beside the raw clients of the same stores.

Both sides write the same payloads and read them into memory that is there, in one run and in turns:
first plain values, then keys and values from and into an entry of a pool, where the tier also makes
and checks names, headers and digests. Then a session of 1 GiB is loaded from a disk after a
restart, beside `safetensors`. What is read was written a moment ago, so a disk is its cache in
memory. The times are those of the wall.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import (
    Measurement,
    Ratio,
    Report,
    Target,
    UnavailableError,
    interleave,
    median,
)
from benchmarks.tiers_lmcache import LMCache
from benchmarks.tiers_resume import measure_resume
from benchmarks.tiers_sides import Payload, PoolSide, RawPoolSide, Side, ValueSide
from benchmarks.tiers_stores import STORES, OurClient, Store
from kvpool.tiers import TierStore, open_tier

ROUNDS, QUICK_ROUNDS = 11, 2
CHUNKS, QUICK_CHUNKS = 64, 6
RESUMED, QUICK_RESUMED = 1 << 30, 32 << 20  # bytes
BESIDE_RAW = Target(0.8, at_most=False)

NOTES = """\
A value is a chunk of SmolLM2-135M in 16 bits: 64 tokens, 1,474,560 bytes. A call has 11 values, \
as many as a store of tiers writes or reads at a time.
The tier `disk` and LMDB do not wait for the disk, and both give their mapped memory, which is \
copied once. LMCache writes a file for each chunk, and 8 threads talk to its Redis.
The names of chunks are made within the time of a put and of a get. The key that is derived from \
the salt of a tenant is not: a process derives it once for each model and tenant.
S3 is moto's server, which is written in Python: it is the limit there.
GB/s are of keys and values, by 1e9 bytes. A ratio is the median over the rounds."""


def run(quick: bool) -> Report:
    """Measure every tier whose store is here."""
    report = Report("tiers beside the raw clients of their stores")
    report.notes += NOTES.splitlines()
    payload = Payload(QUICK_CHUNKS if quick else CHUNKS)
    rounds = QUICK_ROUNDS if quick else ROUNDS
    for name in STORES:
        try:
            measure_store(report, name, payload, rounds)
        except UnavailableError as error:
            tell(report, f"without the tier {name}: {error}")
    try:
        measure_resume(report, QUICK_RESUMED if quick else RESUMED, 1 if quick else 5)
    except UnavailableError as error:
        tell(report, f"without the resumption of a session: {error}")
    return report


def tell(report: Report, what: str) -> None:
    """Say what is not measured, here and on the page."""
    report.notes.append(what)
    print(f"not measured: {what}", file=sys.stderr)


def measure_store(report: Report, name: str, payload: Payload, rounds: int) -> None:
    """Measure one tier, its raw client, and LMCache where it has such a store.

    Raises
    ------
    UnavailableError
        The store is not here.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvpool-bench-")))
        store = stack.enter_context(STORES[name](folder))
        report.versions |= store.versions
        measure_values(report, store, payload, rounds, folder)
        measure_pool(report, store, payload, rounds)


def measure_values(
    report: Report, store: Store, payload: Payload, rounds: int, folder: Path
) -> None:
    """Measure plain values."""
    with ExitStack() as stack:
        tier = stack.enter_context(open_tier(store.url))
        ours, theirs = f"tier {store.name}", store.theirs
        sides: dict[str, Side] = {
            ours: ValueSide(OurClient(tier), payload),
            theirs: ValueSide(store.raw, payload),
        }
        if store.name in LMCache.STORES:
            try:
                peer = stack.enter_context(LMCache(store.name, payload, folder, store.port))
            except UnavailableError as error:
                tell(report, f"without LMCache beside the tier {store.name}: {error}")
            else:
                sides[peer.name] = peer
                report.versions |= peer.versions
        compare(report, f"values, {store.name}", sides, rounds, {theirs: BESIDE_RAW})


def measure_pool(report: Report, store: Store, payload: Payload, rounds: int) -> None:
    """Measure keys and values from an entry and into one."""
    separator = "&" if "?" in store.url else "?"
    level = f"{store.url}{separator}budget=none"
    ours, theirs = f"TierStore, {store.name}", f"{store.theirs}, NumPy"
    with TierStore([level], queue_bytes=2 * payload.nbytes, load_budget=600) as tiers:
        sides: dict[str, Side] = {
            ours: PoolSide(tiers, payload),
            theirs: RawPoolSide(store.raw, payload),
        }
        compare(report, f"an entry, {store.name}", sides, rounds, {theirs: BESIDE_RAW})


def compare(
    report: Report, what: str, sides: dict[str, Side], rounds: int, targets: dict[str, Target]
) -> None:
    """Measure the sides in turns, the first one beside each other one."""
    for side in sides.values():  # memory, files and connections come with the first use
        side.put()
        side.get()
    ours, *others = sides
    calls: dict[str, Callable[[Side], float]] = {"put": put, "get": get}
    for verb, call in calls.items():
        turns = {name: lambda side=side, call=call: call(side) for name, side in sides.items()}
        samples = interleave(turns, rounds)
        figures: dict[str, Measurement] = {
            name: median(f"{verb}: {what}", name, "GB/s", samples[name]) for name in sides
        }
        report.measurements += figures.values()
        for other in others:
            quotients = [one / two for one, two in zip(samples[ours], samples[other], strict=True)]
            value = median("", "", "", quotients).value
            report.ratios.append(
                Ratio(
                    f"{verb}: {what}",
                    figures[ours],
                    figures[other],
                    "times as fast",
                    value,
                    targets.get(other),
                )
            )
    for side in sides.values():
        side.clear()


def put(side: Side) -> float:
    """Let a side write all values; return GB/s."""
    return side.put() / 1e9


def get(side: Side) -> float:
    """Let a side read all values; return GB/s."""
    return side.get() / 1e9
