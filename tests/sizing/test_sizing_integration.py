"""The curves of a real trace."""

from __future__ import annotations

import pytest

from kvpool.layout import KVLayout
from kvpool.replay import TraceReader
from kvpool.sizing import PrefixTrace, clairvoyant_curve, describe, lru_curve, measure
from tests.support import needs

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def trace() -> PrefixTrace:
    with TraceReader(needs.traces() / "mooncake_conversation.jsonl") as reader:
        return PrefixTrace.read(reader)


def test_the_figures_of_the_trace(trace: PrefixTrace) -> None:
    assert (trace.request_count, trace.block_count) == (12_031, 182_790)
    assert (trace.reference_count, trace.block_tokens) == (288_500, 512)


def test_lru_and_an_infinite_pool(trace: PrefixTrace) -> None:
    curve = lru_curve(trace)
    sizes = (1_000, 10_000, 30_000, 50_000, 100_000, 1_000_000)
    assert [curve.hits_at(size) for size in sizes] == [
        12_847,
        61_046,
        93_978,
        102_290,
        104_924,
        105_710,
    ]


def test_the_clairvoyant_bound(trace: PrefixTrace) -> None:
    curve = clairvoyant_curve(trace, [1_000, 10_000, 30_000])
    assert [round(curve.hit_ratio(size), 4) for size in (1_000, 10_000, 30_000)] == [
        0.1907,
        0.3664,
        0.3664,
    ]


def test_the_answer_in_words(trace: PrefixTrace) -> None:
    layout = KVLayout(32, 8, 128, "float16")
    report = measure(trace, ["lru"], layout=layout)
    assert describe(report)[:2] == [
        "An infinite pool would reuse 105,710 of 288,500 blocks (36.6%) in 12,031 requests.",
        "LRU needs 518 GiB for 50%, 1,308 GiB for 80% and 2,350 GiB for 95% of that.",
    ]
