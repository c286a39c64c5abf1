"""The benchmark of a replay with a tier, on a short trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import replay_tiers
from benchmarks.harness import Report, UnavailableError
from kvpool.replay import TraceRequest


def test_the_tier_has_what_the_pool_has_not() -> None:
    rounds = [TraceRequest(0.0, 512 * 4, 1, tuple(range(n * 10, n * 10 + 4))) for n in range(6)]
    report = Report("a short trace")
    replay_tiers.measure(report, rounds * 3, 8)
    alone, both, pool, tier = (figure.value for figure in report.measurements)
    assert (alone, pool) == (0, 0)  # each prompt is gone before it comes again
    assert both == tier == pytest.approx(2 / 3)
    assert "24 blocks were stored, 0 evicted, 0 not stored; 0 requests" in report.notes[0]


def test_a_trace_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KVPOOL_TRACES", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"mooncake_conversation\.jsonl is missing"):
        replay_tiers.run(quick=True)
