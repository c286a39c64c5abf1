"""Real traces, with every byte written, read back and checked."""

from __future__ import annotations

import itertools

import pytest

from kvpool.layout import KVLayout
from kvpool.replay import Replay, ReplayReport, TraceReader
from tests import needs

pytestmark = pytest.mark.integration

CAPACITY = 512 << 20
LAYOUT = KVLayout(2, 2, 64, "float16")


def replayed(name: str, backend: str, limit: int | None = None) -> ReplayReport:
    with TraceReader(needs.traces() / name) as requests:
        block_tokens = requests.trace_format.block_tokens
        with Replay(LAYOUT, CAPACITY, backend, block_tokens=block_tokens) as run:
            for request in itertools.islice(requests, limit):
                run.serve(request)
            run.finish()
            return run.report()


def test_all_of_azure(backend: str) -> None:
    report = replayed("azure_conv_2023.csv", backend)
    tally, stats = report.tally, report.stats
    assert report.complete
    assert (tally.requests, tally.rejected) == (19366, 0)
    assert (tally.prompt_tokens, tally.generated_tokens) == (22_361_870, 4_088_665)
    assert tally.written_bytes == (22_361_870 + 4_088_665) * LAYOUT.bytes_per_token
    assert tally.verified_bytes >= tally.written_bytes
    assert tally.checksum_failures == 0
    assert stats.evictions + stats.active_entries == 19366
    assert report.utilization.peak_used <= CAPACITY
    assert report.utilization.used_of_capacity > 0.9


def test_the_first_rows_of_mooncake(backend: str) -> None:
    report = replayed("mooncake_conversation.jsonl", backend, limit=300)
    tally = report.tally
    assert report.complete
    assert (tally.requests, tally.rejected) == (300, 0)
    assert report.stats.hits > 0
    assert tally.reused_tokens > 0
    assert tally.written_tokens == (
        tally.prompt_tokens + tally.generated_tokens - tally.reused_tokens
    )
    assert tally.checksum_failures == 0
