"""Ledgers of managers that many threads use: each verifies, whenever the manager is closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpool.ledger import verify
from tests.support.busy_ledgers import BACKENDS, write_busy_ledger


@pytest.mark.parametrize("backend", BACKENDS)
def test_ledgers_of_busy_managers_verify(tmp_path: Path, backend: str) -> None:
    batches = 0
    for number in range(24):
        path = tmp_path / f"{number}" / "a.jsonl"
        path.parent.mkdir()
        write_busy_ledger(path, backend, number)
        report = verify(path)
        assert report.findings == [], f"ledger {number}: {report.findings[0]}"
        batches += report.events["kv_eviction_batch"]
    assert batches
