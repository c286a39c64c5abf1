"""How full the pages of an elastic pool are while it serves the Azure conversation trace.

Each request is a session of an 8B-class model, reserved for the longest context, and stays
until others need its pages. The pool charges pages as it does for real tokens, but the tokens
are only counted: the pool is larger than the memory of a common machine. Every figure is the
bytes of live tokens by the bytes that hold them, averaged over the time of the trace. The first
requests are served once more with real tokens, and the system says how many pages that took.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from benchmarks.harness import Ratio, Report, Target, UnavailableError, median
from benchmarks.record import ROOT
from kvpool.layout import KVLayout
from kvpool.replay import Replay, ReplayReport, TraceReader

LAYOUT = KVLayout(layers=32, kv_heads=8, head_dim=128, dtype="float16")
CAPACITY = 64 << 30
CONTEXTS = (131_072, 8_192)
TRACE = "azure_conv_2023.csv"
BACKEND = "mmap"

COMMITTED = "committed pages"
PAGED = "paged blocks of 16 tokens, arithmetic"
WHOLE = "whole blocks"

MIB = 1 << 20
CHECKED_CAPACITY = 1 << 30
CHECKED_REQUESTS = 20


def run(quick: bool) -> Report:
    """Replay the trace for each context length."""
    if sys.platform != "linux":
        raise UnavailableError(f"arenas are elastic on Linux only, and this is {sys.platform}")
    trace = find_trace()
    report = Report(f"live tokens by the bytes that hold them, {TRACE}")
    for context in CONTEXTS:
        add(report, context, replayed(trace, context, 500 if quick else None))
    check(report, replayed(trace, CONTEXTS[0], CHECKED_REQUESTS, CHECKED_CAPACITY, write=True))
    return report


def find_trace() -> Path:
    """Return the trace in $KVPOOL_TRACES, or in ../shared/traces."""
    configured = os.environ.get("KVPOOL_TRACES")
    directory = Path(configured) if configured else ROOT.parent / "shared/traces"
    trace = directory / TRACE
    if not trace.is_file():
        raise UnavailableError(f"there is no {TRACE} in {directory}; set KVPOOL_TRACES")
    return trace


def replayed(
    trace: Path,
    context: int,
    limit: int | None,
    capacity: int = CAPACITY,
    *,
    layout: KVLayout = LAYOUT,
    write: bool = False,
) -> ReplayReport:
    """Serve the requests of the trace, or the first of them."""
    with (
        TraceReader(trace) as requests,
        Replay(
            *(layout, capacity, BACKEND),
            hash_block_tokens=requests.hash_block_tokens,
            receipts=False,
            elastic=True,
            max_context_length=context,
            write=write,
        ) as replay,
    ):
        for request in itertools.islice(requests, limit):
            replay.serve(request)
        replay.finish()
        return replay.report()


def add(report: Report, context: int, found: ReplayReport) -> None:
    """Add the three figures of a replay, and how they compare."""
    what = f"sessions reserved for {context:,} tokens"
    use, tally = found.utilization, found.tally
    target = Target(0.99, at_most=False)
    ours = median(what, COMMITTED, "of them", [use.live_of_used], target)
    paged = median(what, PAGED, "of them", [use.live_of_paged_blocks])
    whole = median(what, WHOLE, "of them", [use.live_of_whole_blocks])
    report.measurements += [ours, paged, whole]
    for theirs in (paged, whole):
        fuller = ours.value / theirs.value
        report.ratios.append(Ratio(what, ours, theirs, "times as full", fuller))
    report.notes.append(
        f"{what}: {tally.served:,} of {tally.requests:,} requests served, "
        f"{found.stats.active_entries:,} sessions in {CAPACITY >> 30} GiB at the end"
    )


def check(report: Report, found: ReplayReport) -> None:
    """Add what the system says of real tokens, beside what the pool charged."""
    what = f"{found.tally.served} requests with real tokens"
    if found.committed_by_system is None:
        raise UnavailableError("the system does not say how many pages are committed")
    used, committed = found.stats.used_memory, found.committed_by_system
    ours = median(what, "charged", "MiB", [used / MIB])
    theirs = median(what, "committed, by the system", "MiB", [committed / MIB])
    none = Target(0, at_most=True)
    difference = median(what, "between the two", "bytes", [abs(used - committed)], none)
    report.measurements += [ours, theirs, difference]
