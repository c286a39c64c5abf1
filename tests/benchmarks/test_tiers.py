"""The benchmark of tiers works, and compares what it reads with what it wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tiers
from benchmarks.harness import Report, UnavailableError
from benchmarks.tiers_lmcache import LMCache
from benchmarks.tiers_resume import measure_resume
from benchmarks.tiers_sides import Payload, ValueSide
from tests.support import needs


@pytest.fixture
def payload() -> Payload:
    return Payload(2)


def test_a_disk_is_compared_with_its_raw_client(
    monkeypatch: pytest.MonkeyPatch, payload: Payload
) -> None:
    monkeypatch.setenv("KVPOOL_BENCH_LMCACHE", "/nowhere/python")
    report = Report("a small run")
    tiers.measure_store(report, "disk", payload, rounds=1)
    subjects = [figure.subject for figure in report.measurements]
    values, pool = ["tier disk", "lmdb"], ["TierStore, disk", "lmdb, NumPy"]
    assert subjects == [*values, *values, *pool, *pool]
    assert all(figure.value > 0 for figure in report.measurements)
    assert [ratio.target for ratio in report.ratios] == [tiers.BESIDE_RAW] * 4
    assert any("without LMCache beside the tier disk" in note for note in report.notes)


def test_a_peer_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, payload: Payload
) -> None:
    monkeypatch.setenv("KVPOOL_BENCH_LMCACHE", "/nowhere/python")
    with pytest.raises(UnavailableError, match="there is no /nowhere/python: make it with"):
        LMCache("disk", payload, tmp_path, 0)
    monkeypatch.setenv("KVPOOL_BENCH_LMCACHE", "/bin/false")
    with pytest.raises(UnavailableError, match="LMCache ended at 'version'"):
        LMCache("redis", payload, tmp_path, 0)


def test_a_store_that_gives_other_bytes_is_an_error(payload: Payload) -> None:
    class Wrong:
        def write(self, items: Sequence[tuple[bytes, Any]]) -> None:
            self.size = len(items[0][1])

        @contextmanager
        def read(self, keys: Sequence[bytes]) -> Iterator[Sequence[Any]]:
            yield [bytes(self.size) for _ in keys]

        def remove(self, _keys: Sequence[bytes]) -> None:
            raise AssertionError("nothing was written before")

    side = ValueSide(Wrong(), payload)
    side.put()
    with pytest.raises(AssertionError, match="what was read is not what was written"):
        side.get()


def test_a_session_is_resumed_beside_safetensors() -> None:
    needs.safetensors()
    report = Report("a small run")
    measure_resume(report, nbytes=8 << 20, rounds=1)
    assert [ratio.ours.subject for ratio in report.ratios] == [
        "tier disk, mmap",
        "tier disk, numpy",
        "tier disk, mmap, used memory",
    ]
    assert {ratio.theirs.subject for ratio in report.ratios} == {"safetensors"}
    assert [ratio.target is None for ratio in report.ratios] == [False, False, True]
