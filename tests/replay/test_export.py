"""Figures of replays as tables."""

from __future__ import annotations

import csv
import io
import sys

import pytest

from kvpool.errors import MissingExtraError
from kvpool.eviction import EvictionReason
from kvpool.layout import KVLayout
from kvpool.replay import (
    HASH_BLOCK_TOKENS,
    BlockReplay,
    Replay,
    ReplayReport,
    conversations,
    to_arrow,
    to_csv,
    to_rows,
)
from tests.support import needs


@pytest.fixture(scope="module")
def reports() -> list[ReplayReport]:
    """Of the same requests, in two pools."""
    found = []
    for capacity in ("1MiB", "4MiB"):
        layout = KVLayout(1, 1, 8)
        with Replay(layout, capacity, "numpy", hash_block_tokens=HASH_BLOCK_TOKENS) as run:
            for request in conversations(20):
                run.serve(request)
            found.append(run.report())
    return found


def test_a_row_has_all_figures(reports: list[ReplayReport]) -> None:
    rows = to_rows(reports)
    assert [row["capacity_bytes"] for row in rows] == [1 << 20, 4 << 20]
    for row, report in zip(rows, reports, strict=True):
        assert row["tokens.written"] == report.tally.written_tokens
        assert row["evictions.lru"] == report.stats.evictions_by_reason[EvictionReason.LRU]
        assert row["utilization.fragmentation"] == report.utilization.fragmentation
        assert "first_failures" not in row
    assert list(rows[0]) == list(rows[1])


def test_reports_of_two_kinds_have_the_columns_of_both(reports: list[ReplayReport]) -> None:
    with BlockReplay(9) as run:
        for request in conversations(5):
            run.serve(request)
        one, other = to_rows([reports[0], run.report()])
    assert list(one) == list(other)
    assert (one["hit_blocks"], other["backend"]) == (None, None) or other["hit_blocks"] >= 0


def test_csv(reports: list[ReplayReport]) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(reports))))
    assert [row["tokens.written"] for row in rows] == [
        str(report.tally.written_tokens) for report in reports
    ]
    assert rows[0]["ttl_seconds"] == ""
    assert to_csv([]) == ""


def test_arrow(reports: list[ReplayReport]) -> None:
    needs.pyarrow()
    table = to_arrow(reports)
    assert table.num_rows == 2
    assert table.column("capacity_bytes").to_pylist() == [1 << 20, 4 << 20]


def test_arrow_without_the_package(
    reports: list[ReplayReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r'install "kvpool\[arrow\]"'):
        to_arrow(reports)
