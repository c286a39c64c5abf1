"""The record: what is in it, and what is no record."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Target, median
from benchmarks.page import RECORD
from benchmarks.record import Commit, RecordError, begin, commit, read, write
from tests.support.scratch_benchmarks import record


def written(path: Path) -> Any:
    write(path, record())
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "folder/record.json", record())
    assert read(tmp_path / "folder/record.json") == record()


def test_the_record_holds_both_sides_of_a_ratio_and_the_verdict(tmp_path: Path) -> None:
    speed = written(tmp_path / "record.json")["benchmarks"][0]
    (ratio,) = speed["report"]["ratios"]
    assert (ratio["value"], ratio["unit"], ratio["met"]) == (2500, "times as fast", False)
    assert ratio["target"] == {"limit": 3000, "at_most": False}
    sides = [
        (side["subject"], side["value"], side["unit"]) for side in (ratio["ours"], ratio["theirs"])
    ]
    assert sides == [("ours", 2, "µs"), ("theirs", 5000, "µs")]
    assert [one["met"] for one in speed["report"]["measurements"]] == [True, None]


def test_the_record_holds_what_did_not_run(tmp_path: Path) -> None:
    outcomes = written(tmp_path / "record.json")["benchmarks"]
    assert [(one["name"], one["status"], one["reason"]) for one in outcomes] == [
        ("speed", "measured", ""),
        ("torch_speed", "skipped", "there is no torch"),
        ("broken", "failed", "ValueError: 7 is too many"),
    ]


def test_versions_of_peers_are_among_the_versions() -> None:
    assert record().versions == {"python": "3.11.7", "kvpool": "0.1", "peer": "1.2"}


def test_the_verdict_is_worked_out_and_not_believed(tmp_path: Path) -> None:
    data = written(tmp_path / "record.json")
    data["benchmarks"][0]["report"]["ratios"][0]["met"] = True
    (tmp_path / "record.json").write_text(json.dumps(data), encoding="utf-8")
    assert read(tmp_path / "record.json") == record()


@pytest.mark.parametrize(
    ("limit", "at_most", "value", "met"),
    [(2, True, 2, True), (2, True, 2.1, False), (2, False, 2, True), (2, False, 1.9, False)],
)
def test_a_target_is_met_at_its_limit(limit: float, at_most: bool, value: float, met: bool) -> None:
    assert median("", "", "", [value], Target(limit, at_most)).met is met


def test_a_run_begins_with_what_figures_depend_on() -> None:
    begun = begin(quick=True)
    assert begun.quick
    assert begun.machine.processor or begun.machine.architecture
    assert begun.machine.cores
    assert {"python", "numpy", "kvpool"} <= set(begun.versions)
    assert begun.taken.tzinfo is not None
    assert begun.benchmarks == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "truncated"),
        ('{"format": 2}', "format"),
        ('{"format": 1, "taken": "2026-01-02T03:04:05Z"}', "quick"),
        ("[]", "object"),
        ("\udcff", "malformed"),
    ],
)
def test_anything_else_is_no_record(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(RecordError, match=reason) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_record_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"none\.json"):
        read(tmp_path / "none.json")


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *arguments]
    return subprocess.run(
        command, cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_and_whether_files_are_others(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == Commit(head, changed=False)
    (tmp_path / "new").write_text("", encoding="utf-8")
    assert commit(tmp_path) == Commit(head, changed=True)


def test_a_tree_inside_of_another_repository_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "first")
    (tmp_path / "unpacked").mkdir()
    assert commit(tmp_path / "unpacked") is None
    assert commit(tmp_path / "not there") is None


def test_the_record_of_the_docs_is_whole() -> None:
    """A full run in which nothing failed; what was skipped says why."""
    of_the_docs = read(RECORD)
    assert not of_the_docs.quick
    assert of_the_docs.commit is not None
    assert of_the_docs.with_status("failed") == []
    assert all(outcome.reason for outcome in of_the_docs.with_status("skipped"))
