"""The replay by blocks, beside figures that others have computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kvpool.errors import InvalidSizeError, InvalidTierError, UnknownPluginError
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


ROUNDS = [request(*range(n * 10, n * 10 + 4)) for n in range(6)] * 3


@pytest.mark.parametrize("kind", ["memory", "disk", "two"])
def test_a_tier_has_what_the_pool_has_not(kind: str, tmp_path: Path) -> None:
    disk = f"disk:{tmp_path}/kv?capacity=4MiB"
    kinds: dict[str, dict[str, Any]] = {
        "memory": {"tier_blocks": 100},
        "disk": {"tiers": disk},
        "two": {"tiers": [disk], "tier_blocks": 4},
    }
    options = kinds[kind]
    assert served(ROUNDS, capacity_blocks=8, policy="lru").hit_blocks == 0
    report = served(ROUNDS, capacity_blocks=8, policy="lru", **options)
    assert (report.hit_blocks, report.pool_hit_blocks) == (48, 0)
    assert (report.checksum_failures, report.complete) == (0, True)
    assert sum(tier.hit_blocks for tier in report.tiers) == 48
    assert report.tiers[-1].stored >= 24
    shown = report.as_dict()["levels"]
    assert [level["level"] for level in shown] == ["pool", *(tier.name for tier in report.tiers)]
    assert [level["hit_ratio"] for level in shown[1:]] == [
        tier.hit_blocks / report.blocks for tier in report.tiers
    ]
    json.dumps(report.as_dict())


def test_a_tier_that_is_too_small_evicts() -> None:
    report = served(ROUNDS, capacity_blocks=4, policy="lru", tier_blocks=10)
    (tier,) = report.tiers
    assert report.hit_blocks == tier.hit_blocks < 48
    assert tier.evicted == tier.stored - (tier.held or 0) > 0
    assert 9 <= (tier.held or 0) <= 11


def test_what_an_earlier_replay_stored_is_there(tmp_path: Path) -> None:
    disk = f"disk:{tmp_path}/kv?capacity=4MiB"
    assert served(ROUNDS[:6], capacity_blocks=100, tiers=disk).hit_blocks == 0
    assert served(ROUNDS[:6], capacity_blocks=100, tiers=disk).hit_blocks == 24


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"tier_blocks": 0}, InvalidSizeError, "tier_blocks"),
        ({"tiers": "disk"}, InvalidTierError, "disk"),
        ({"tiers": [3]}, InvalidTierError, "URLs of tiers"),
        ({"tiers": "memory:", "backend": "nonesuch"}, UnknownPluginError, "nonesuch"),
    ],
)
def test_a_bad_tier_is_named(options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        BlockReplay(10, **options)


@pytest.mark.integration
def test_the_hits_of_mooncake_by_level() -> None:
    with TraceReader(needs.traces() / "mooncake_conversation.jsonl") as reader:
        requests = list(reader)
    report = served(requests, capacity_blocks=1_000, policy="lru", tier_blocks=10_000)
    (tier,) = report.tiers
    assert report.pool_hit_blocks == GOLDENS["lru"][1_000]  # the pool does as without a tier
    assert tier.hit_blocks > 2 * report.pool_hit_blocks
    assert report.hit_blocks == report.pool_hit_blocks + tier.hit_blocks
    assert (report.checksum_failures, tier.dropped, tier.refused) == (0, 0, 0)
    assert report.hit_blocks < GOLDENS["lru"][10_000] + GOLDENS["lru"][1_000]


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
