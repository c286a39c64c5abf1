"""Real traces, with every byte written, read back and checked."""

from __future__ import annotations

import itertools

import pytest

from kvpool.layout import KVLayout, Packing
from kvpool.replay import Replay, ReplayReport, TraceReader
from tests.support import needs
from tests.support.docs_pages import DOCS
from tests.support.marks import needs_pages

pytestmark = pytest.mark.integration

CAPACITY = 512 << 20
LAYOUT = KVLayout(2, 2, 64, "float16")


def replayed(name: str, backend: str, limit: int | None = None) -> ReplayReport:
    with TraceReader(needs.traces() / name) as requests:
        hash_block_tokens = requests.hash_block_tokens
        with Replay(LAYOUT, CAPACITY, backend, hash_block_tokens=hash_block_tokens) as replay:
            for request in itertools.islice(requests, limit):
                replay.serve(request)
            replay.finish()
            return replay.report()


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


@needs_pages
@pytest.mark.parametrize("packing", ["head", "layer"])
def test_all_of_azure_costs_hardly_more_than_its_tokens(packing: Packing) -> None:
    """A model of the 8B class, each entry reserved for 128 Ki tokens; counted, not written."""
    layout = KVLayout(layers=32, kv_heads=8, head_dim=128, dtype="float16", packing=packing)
    with (
        TraceReader(needs.traces() / "azure_conv_2023.csv") as requests,
        Replay(layout, 32 << 30, "mmap", max_context_length=1 << 17, write=False) as replay,
    ):
        for request in requests:
            replay.serve(request)
        replay.finish()
        report = replay.report()
    use = report.utilization
    assert (report.elastic, report.tally.requests, report.tally.rejected) == (True, 19366, 0)
    assert use.live_of_used > 0.99
    if packing == "head":  # a page is 16 tokens of a head
        assert use.live_of_used == pytest.approx(use.live_of_paged_blocks)
        page = (DOCS / "elastic.md").read_text(encoding="utf-8")
        assert f"{use.live_of_used:.2%}" in page
        assert f"{use.live_of_whole_blocks:.2%}" in page
    else:
        assert f"{use.live_of_used:.2%}" == "99.96%"


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
