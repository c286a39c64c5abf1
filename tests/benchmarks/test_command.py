"""``python -m benchmarks``: the tables, the record, the exit code."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.__main__ import main
from benchmarks.record import read
from tests.support.scratch_benchmarks import MEASURES, MakePackage

BREAKS = '"""Breaks."""\ndef run(quick):\n    raise ValueError("7 is too many")\n'
SKIPS = '"""Skips."""\nimport no_such_distribution\ndef run(quick): ...\n'


def test_one_that_raises_keeps_no_other_from_running(
    make_package: MakePackage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = make_package(breaks=BREAKS, fast=MEASURES, skips=SKIPS)
    assert main(["--quick", "--json", str(tmp_path / "record.json")], package) == 1
    record = read(tmp_path / "record.json")
    assert record.quick
    assert record.versions["peer"] == "1.2"
    assert [(one.name, one.status) for one in record.benchmarks] == [
        ("breaks", "failed"),
        ("fast", "measured"),
        ("skips", "skipped"),
    ]
    output = capsys.readouterr().out
    assert "breaks failed: ValueError: 7 is too many" in output
    assert "skips skipped: ModuleNotFoundError: No module named 'no_such_distribution'" in output
    assert "≤ 1.5 met" in output


def test_what_is_skipped_is_no_failure(make_package: MakePackage) -> None:
    assert main([], make_package(skips=SKIPS)) == 0


def test_a_missed_target_is_told_and_fails_only_a_check(
    make_package: MakePackage, capsys: pytest.CaptureFixture[str]
) -> None:
    package = make_package(fast=MEASURES)
    assert main([], package) == 0
    assert "missed: fast: a | b, ours: 2 µs, target ≤ 1.5" in capsys.readouterr().out
    assert main(["--check"], package) == 1
    assert main(["--check", "--quick"], package) == 0


def test_names_select(make_package: MakePackage, tmp_path: Path) -> None:
    package = make_package(breaks=BREAKS, fast=MEASURES)
    assert main(["fast", "--json", str(tmp_path / "record.json")], package) == 0
    assert [one.name for one in read(tmp_path / "record.json").benchmarks] == ["fast"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["slow"], "there is no benchmark slow; there are fast"),
        (["--publish", "--quick"], "--publish takes a full run"),
        (["--publish", "fast", "fast"], "or of one by itself"),
    ],
)
def test_what_cannot_be_asked_for(
    make_package: MakePackage,
    arguments: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments, make_package(fast=MEASURES))
    assert reason in capsys.readouterr().err


def test_publish_writes_the_record_and_its_page(
    make_package: MakePackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "RECORD", tmp_path / "performance.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(page, "PAGES", ())  # the pages of the repository have no such figures
    assert main(["--publish"], make_package(fast=MEASURES)) == 0
    assert read(page.RECORD).with_status("measured")
    assert page.check(page.RECORD, page.PAGE) == ""
    tables = tmp_path / "performance/fast.md"
    assert "| a \\| b | ours | 2 µs |" in tables.read_text(encoding="utf-8")


def test_one_that_is_published_by_itself_goes_before_the_full_run(
    make_package: MakePackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "RECORD", tmp_path / "performance.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(page, "PAGES", ())  # the pages of the repository have no such figures
    assert main(["--publish"], make_package(fast=SKIPS)) == 0
    before = page.RECORD.read_bytes()
    assert main(["fast", "--publish"], make_package(fast=MEASURES)) == 0
    assert page.RECORD.read_bytes() == before
    assert read(tmp_path / "performance-fast.json").with_status("measured")
    assert page.check(page.RECORD, page.PAGE) == ""
    text = (tmp_path / "performance/fast.md").read_text(encoding="utf-8")
    assert "| a \\| b | ours | 2 µs |" in text
    assert "skipped" not in text


@pytest.mark.no_cover
def test_a_real_benchmark_runs(tmp_path: Path) -> None:
    package = importlib.import_module("benchmarks")
    assert main(["eviction", "--quick", "--json", str(tmp_path / "record.json")], package) == 0
    (outcome,) = read(tmp_path / "record.json").benchmarks
    assert outcome.report is not None
    subjects = {one.subject for one in outcome.report.measurements}
    assert subjects == {"evict_lru_entries", "allocate_entry"}
