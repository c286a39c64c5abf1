"""The replay by blocks, beside figures that others have computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from kvpool.errors import InvalidSizeError, UnknownPluginError
from kvpool.replay import BlockReplay, BlockReport, TraceError, TraceReader, TraceRequest
from tests.support import needs

GOLDENS = {  # hit blocks of 288,500, by policy and blocks of the pool
    "lru": {1_000: 12_847, 10_000: 61_046, 30_000: 93_978, 50_000: 102_290, 100_000: 104_924},
    "lfu": {1_000: 13_871, 10_000: 38_004, 30_000: 79_613, 50_000: 99_205, 100_000: 104_755},
}
INFINITE = 105_710


def served(requests: Sequence[TraceRequest], **options: Any) -> BlockReport:
    with BlockReplay(**options) as replay:
        for request in requests:
            replay.serve(request)
        replay.finish()
        return replay.report()


def request(*blocks: int) -> TraceRequest:
    return TraceRequest(0.0, 512 * len(blocks), 1, blocks)


@pytest.mark.integration
@pytest.mark.parametrize("policy", GOLDENS)
def test_the_figures_of_mooncake(policy: str) -> None:
    with TraceReader(needs.traces() / "mooncake_conversation.jsonl") as reader:
        requests = list(reader)
    for blocks, hits in [*GOLDENS[policy].items(), (None, INFINITE)]:
        report = served(requests, capacity_blocks=blocks, policy=policy)
        assert (report.blocks, report.hit_blocks) == (288_500, hits), blocks
        assert (report.requests, report.checksum_failures) == (12_031, 0)
        assert report.complete


def test_a_hit_is_a_leading_run(backend: str) -> None:
    report = served(
        [request(1, 2, 3), request(1, 2, 9), request(5, 2, 3), request(1, 2, 3, 4)],
        capacity_blocks=100,
        backend=backend,
    )
    assert (report.requests, report.blocks, report.hit_blocks) == (4, 13, 5)
    assert report.hit_ratio == 5 / 13
    assert report.stats.prefix.tokens_held == 8
    json.dumps(report.as_dict())


def test_the_blocks_of_the_request_stay_while_it_is_served() -> None:
    report = served([request(*range(5)), request(*range(9)), request(*range(9))], capacity_blocks=4)
    assert report.hit_blocks == 8
    assert report.stats.prefix.tokens_held == 4


def test_ids_of_64_bits() -> None:
    wide = request(2**63 - 1, -(2**63), 0)
    assert served([wide, wide]).hit_blocks == 3


@pytest.mark.parametrize("odd", [2**63, -(2**63) - 1])
def test_an_id_that_does_not_fit_is_named(odd: int) -> None:
    with BlockReplay(10) as replay, pytest.raises(TraceError, match=str(odd)):
        replay.serve(request(1, odd))


@pytest.mark.parametrize(("blocks", "error"), [(0, InvalidSizeError), (1.5, InvalidSizeError)])
def test_a_bad_capacity_is_named(blocks: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=str(blocks)):
        BlockReplay(blocks)


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(UnknownPluginError, match="nonesuch"):
        BlockReplay(10, "nonesuch")


def test_a_trace_without_ids_is_refused() -> None:
    with BlockReplay(10) as replay, pytest.raises(TraceError, match="ids of blocks"):
        replay.serve(TraceRequest(0.0, 10, 1))
