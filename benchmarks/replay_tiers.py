"""How many blocks of Mooncake's trace a pool reuses with a tier of ten times its size beside it.

The conversation trace is replayed by its blocks, by `kvpool.replay.BlockReplay`: one pass without a
tier, and one with a tier in memory, whose hits are shown level by level. Nothing is drawn by lot.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Report, UnavailableError, median, seconds
from kvpool.replay import BlockReplay, BlockReport, TraceReader, TraceRequest

POOL_BLOCKS = (1_000, 5_859)
TIMES = 10
"""How many times as many blocks the tier holds."""
POLICY = "lru"
UNIT = "of blocks"


def run(quick: bool) -> Report:
    """Replay the trace with pools of several sizes."""
    trace = (
        Path(os.environ.get("KVPOOL_TRACES", "../shared/traces")) / "mooncake_conversation.jsonl"
    )
    if not trace.is_file():
        raise UnavailableError(f"{trace} is missing: see KVPOOL_TRACES")
    with TraceReader(trace) as reader:
        requests = list(itertools.islice(reader, 300 if quick else None))
    report = Report(f"Mooncake's trace, with a tier of {TIMES} times the pool")
    for blocks in POOL_BLOCKS[:1] if quick else POOL_BLOCKS:
        measure(report, requests, blocks)
    return report


def measure(report: Report, requests: Sequence[TraceRequest], blocks: int) -> None:
    """Replay a trace without and with a tier, and note the hit ratios."""
    what = f"hit ratio, {blocks:,} blocks in the pool, {POLICY}"
    start = seconds()
    alone = replayed(requests, blocks, None)
    between = seconds()
    both = replayed(requests, blocks, TIMES * blocks)
    took = seconds() - between
    (tier,) = both.tiers
    ratios = {
        "pool without a tier": alone.hit_ratio,
        "pool and tier": both.hit_ratio,
        "of these, the pool": both.pool_hit_blocks / both.blocks,
        "of these, the tier": tier.hit_blocks / both.blocks,
    }
    report.measurements += [median(what, name, UNIT, [value]) for name, value in ratios.items()]
    report.notes.append(
        f"{blocks:,} blocks: {both.requests:,} requests took {between - start:.1f} s of processor "
        f"time without a tier and {took:.1f} s with it, in the thread that asks; "
        f"{tier.stored:,} blocks were stored, {tier.evicted:,} evicted, "
        f"{tier.dropped + tier.refused:,} not stored; "
        f"{alone.checksum_failures + both.checksum_failures} requests read other bytes"
    )


def replayed(requests: Sequence[TraceRequest], blocks: int, tier: int | None) -> BlockReport:
    """Return the figures of a replay."""
    with BlockReplay(blocks, POLICY, tier_blocks=tier) as replay:
        for request in requests:
            replay.serve(request)
        replay.finish()
        return replay.report()
