"""Each rule of the arithmetic: a ledger that is hashed anew, but whose numbers do not add up."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from kvpool.ledger._verification.report import KEPT
from tests.support.ledgers import Line, check, forge, parse, record, rules


@cache
def recorded() -> bytes:
    with TemporaryDirectory() as folder:
        return record(Path(folder) / "a.jsonl", tiers=True).read_bytes()


def find_line(kind: str, skip: int = 0) -> int:
    """Return the index of the first receipt of a kind, or of one after it."""
    found = [
        index
        for index, line in enumerate(parse(recorded()))
        if line["kind"] == "receipt" and line["receipt"]["event"] == kind
    ]
    return found[skip]


EVICTION, BATCH, SNAPSHOT = "kv_eviction", "kv_eviction_batch", "kv_pool_snapshot"
LOAD, REFUSAL, TIER = "kv_tier_load", "kv_tier_refusal", "kv_tier_eviction"


def changed(kind: str, skip: int = 0, **changes: Any) -> list[Line]:
    """Return the lines of a ledger with other values in one receipt.

    An int among the changes is added to what is there, a str taken as it is.
    """
    lines = copy.deepcopy(parse(recorded()))
    receipt = lines[find_line(kind, skip)]["receipt"]
    for name, change in changes.items():
        receipt[name] = change if isinstance(change, str) else receipt[name] + change
    return lines


def test_untouched_ledger_is_right() -> None:
    assert check(forge(parse(recorded()))).findings == []


@pytest.mark.parametrize(
    ("kind", "changes", "field"),
    [
        (EVICTION, {"bytes_freed": 64}, "pool_used_after"),
        (EVICTION, {"bytes_freed": 64}, "bytes_evicted_total"),
        (EVICTION, {"pool_used_before": 64}, "pool_used_after"),
        (EVICTION, {"pool_used_before": 64, "pool_used_after": 64}, "pool_used_after"),
        (EVICTION, {"bytes_evicted_total": 64}, "bytes_evicted_total"),
        (EVICTION, {"bytes_allocated_total": -64}, "pool_used_after"),
        (EVICTION, {"bytes_freed_total": 64}, "pool_used_after"),
        (EVICTION, {"sessions_before": 1}, "sessions_after"),
        (EVICTION, {"sessions_after": 1}, "sessions_after"),
        (EVICTION, {"sequence": 1}, "sequence"),
        (EVICTION, {"pool_total": 64}, "pool_total"),
        (EVICTION, {"session_number": 500}, "session_number"),
        (EVICTION, {"schema_version": "1.0"}, "schema_version"),
        (EVICTION, {"schema_version": "3.0.0"}, "schema_version"),
        (EVICTION, {"eviction_reason": "bored"}, "eviction_reason"),
        (EVICTION, {"timestamp": "2026-13-01T00:00:00.000000Z"}, "timestamp"),
        (EVICTION, {"timestamp": "yesterday"}, "timestamp"),
        (BATCH, {"count": 1}, "pool_used_before"),
        (BATCH, {"count": -1}, "total_bytes_freed"),
        (BATCH, {"count": 1000}, "count"),
        (BATCH, {"total_bytes_freed": 64}, "total_bytes_freed"),
        (BATCH, {"pool_used_before": 64}, "pool_used_before"),
        (BATCH, {"pool_used_after": 64}, "pool_used_after"),
        (BATCH, {"fragmentation_before": 0.0625}, "fragmentation_before"),
        (BATCH, {"fragmentation_after": 0.0625}, "fragmentation_after"),
        (LOAD, {"bytes_loaded": "none"}, "bytes_loaded"),
        (LOAD, {"tokens": 1 << 20}, "bytes_loaded"),
        (LOAD, {"bytes_freed_total": 1 << 40}, "bytes_freed_total"),
        (LOAD, {"bytes_allocated_total": 1 << 40}, "bytes_allocated_total"),
        (LOAD, {"schema_version": "1.0.0"}, "schema_version"),
        (REFUSAL, {"bytes_evicted_total": 64}, "bytes_evicted_total"),
        (REFUSAL, {"schema_version": "1.0.0"}, "schema_version"),
        (TIER, {"sequence": 1}, "sequence"),
        (TIER, {"bytes_moved_total": -64}, "bytes_moved_total"),
        (TIER, {"count": "many"}, "count"),
        (TIER, {"pool_total": 64}, "pool_total"),
        (SNAPSHOT, {"pool_used": 64}, "pool_used"),
        (SNAPSHOT, {"pool_used": 64}, "utilization"),
        (SNAPSHOT, {"utilization": -0.0625}, "utilization"),
        (SNAPSHOT, {"total_evictions": 1}, "total_evictions"),
        (SNAPSHOT, {"total_sessions_created": 1}, "active_sessions"),
        (SNAPSHOT, {"active_sessions": 1}, "active_sessions"),
    ],
)
def test_wrong_value_is_found_where_it_is(kind: str, changes: dict[str, Any], field: str) -> None:
    report = check(forge(changed(kind, **changes)))
    assert (find_line(kind) + 1, f"receipt.{field}") in rules(report)


@pytest.mark.parametrize(
    ("kind", "changes", "field"),
    [
        (SNAPSHOT, {"cache_hits": -1}, "cache_hits"),
        (SNAPSHOT, {"cache_misses": -1}, "cache_misses"),
        (SNAPSHOT, {"total_sessions_created": -5}, "total_sessions_created"),
        (EVICTION, {"bytes_allocated_total": -50_000}, "bytes_allocated_total"),
        (EVICTION, {"bytes_freed_total": -5000}, "bytes_freed_total"),
        (EVICTION, {"bytes_moved_total": -1}, "bytes_moved_total"),
        (EVICTION, {"sessions_before": -3, "sessions_after": -3}, "sessions_after"),
    ],
)
def test_total_that_falls_is_found(kind: str, changes: dict[str, Any], field: str) -> None:
    last = parse(recorded())
    skip = sum(line.get("receipt", {}).get("event") == kind for line in last) - 1
    report = check(forge(changed(kind, skip, **changes)))
    assert (find_line(kind, skip) + 1, f"receipt.{field}") in rules(report)


def test_finding_names_line_field_and_both_values() -> None:
    lines = changed(SNAPSHOT, pool_used=64)
    index = find_line(SNAPSHOT)
    found = lines[index]["receipt"]["pool_used"]
    finding = check(forge(lines)).findings[0]
    assert str(finding) == (
        f"ledger:{index + 1}: receipt.pool_used: expected {found - 64}, found {found} "
        "(bytes_allocated_total - bytes_freed_total)"
    )


def test_entry_that_is_evicted_twice_is_found() -> None:
    lines = copy.deepcopy(parse(recorded()))
    first, second = find_line(EVICTION, 0), find_line(EVICTION, 1)
    lines[second]["receipt"]["session_number"] = lines[first]["receipt"]["session_number"]
    (finding,) = check(forge(lines)).findings
    assert (finding.line, finding.field) == (second + 1, "receipt.session_number")
    assert finding.rule == "no entry is evicted twice"


def test_session_that_is_made_again_may_be_evicted_again() -> None:
    """`record` does that with the session "briefly"."""
    numbers = [
        line["receipt"]["session_number"]
        for line in parse(recorded())
        if line.get("receipt", {}).get("session_id") == "chat/briefly"
    ]
    assert len(numbers) == len(set(numbers)) == 2


def test_bytes_come_back_late_only_if_they_were_pending_or_moved() -> None:
    lines = copy.deepcopy(parse(recorded()))
    pending = [line for line in lines if line.get("receipt", {}).get("bytes_pending")]
    assert len(pending) == 1
    pending[0]["receipt"]["bytes_pending"] = 0
    fields = {(one.field, one.rule.split()[0]) for one in check(forge(lines)).findings}
    assert fields == {("receipt.bytes_freed_total", "bytes")}
    moved = copy.deepcopy(parse(recorded()))
    for line in moved:
        if "receipt" in line:
            line["receipt"]["bytes_moved_total"] = 0
    assert {one.field for one in check(forge(moved)).findings} == {"receipt.bytes_freed_total"}


def test_receipt_that_is_left_out_is_found() -> None:
    for index, line in enumerate(parse(recorded())):
        if line["kind"] == "receipt":
            lines = parse(recorded())
            del lines[index]
            report = check(forge(lines))
            assert not report.ok
            last = line["receipt"]["event"] == SNAPSHOT and lines[index]["kind"] == "seal"
            assert last or "receipt.sequence" in {one.field for one in report.findings}


def test_eviction_that_is_left_out_is_missed_once() -> None:
    lines = parse(recorded())
    del lines[find_line(EVICTION, 2)]
    found = [one.field for one in check(forge(lines)).findings]
    assert found.count("receipt.total_evictions") == 1
    assert found.count("receipt.sequence") == 1


@pytest.mark.parametrize("total", [0, 1024])
def test_pool_does_not_hold_more_than_its_size(total: int) -> None:
    lines = parse(recorded())
    for line in lines:
        if "receipt" in line:
            line["receipt"]["pool_total"] = total
    expected = {one.expected for one in check(forge(lines)).findings if "used" in one.field}
    assert expected == {f"at most {total}"}


def test_counts_of_a_checkpoint() -> None:
    for name in ("lines", "receipts"):
        for kind in ("checkpoint", "seal"):
            lines = parse(recorded())
            index = next(i for i, line in enumerate(lines) if line["kind"] == kind)
            lines[index][name] += 1
            assert rules(check(forge(lines))) == [(index + 1, name)]


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({"format": 2}, "format", "1"),
        ({"file": 1}, "file", "0"),
        ({"ledger_id": "x"}, "ledger_id", "`str` matching regex '^[0-9a-f]{32}$'"),
        ({"created": "now"}, "created", "`str` matching regex"),
        ({"more": 1}, "more", "no such field"),
        ({"kind": "footer"}, "kind", "a value that is known"),
        ({"public_key": "0" * 64}, "public_key", "?"),
    ],
)
def test_header(change: dict[str, Any], field: str, expected: str) -> None:
    lines = parse(recorded())
    lines[0].update(change)
    report = check(forge(lines))
    if field == "public_key":
        assert {one.field for one in report.findings} == {"signature"}
    else:
        first = report.findings[0]
        assert (first.line, first.field) == (1, field)
        assert expected in first.expected


@pytest.mark.parametrize("raw", [b"[]", b"3", b"null", b'"x"', b"{}", b'{"kind":3}', b"\xff", b""])
def test_line_that_is_none(raw: bytes) -> None:
    first = check(raw + b"\n").findings[0]
    assert (first.line, first.field) == (1, "kind" if b"3}" in raw or raw == b"{}" else "line")


def test_line_of_a_newer_kvpool_is_called_so() -> None:
    lines = parse(recorded())
    lines[0] |= {"format": 2, "more": 1}
    index = find_line(EVICTION)
    lines[index]["receipt"] = {"event": "kv_disk", "schema_version": "3.1.0"}
    found = {one.line: one for one in check(forge(lines)).findings}
    assert (found[1].field, found[1].expected, found[1].found) == ("format", "1", "2")
    newer = found[index + 1]
    assert (newer.field, newer.found) == ("receipt.schema_version", "3.1.0")


def test_header_without_a_field() -> None:
    lines = parse(recorded())
    del lines[0]["file"]
    first = check(forge(lines)).findings[0]
    assert (first.line, first.field, first.expected, first.found) == (
        1,
        "file",
        "this field",
        "nothing",
    )


def test_newer_minor_version_is_verified_as_far_as_it_is_known() -> None:
    lines = parse(recorded())
    for line in lines:
        if "receipt" in line:
            major = line["receipt"]["schema_version"][0]
            line["receipt"] |= {"schema_version": f"{major}.4.0", "far": {"x": 1}, "aa": 1e-7}
    assert check(forge(lines)).ok
    lines[find_line(EVICTION)]["receipt"]["bytes_freed"] += 64
    assert not check(forge(lines)).ok


def test_field_that_its_version_does_not_have_is_found() -> None:
    lines = parse(recorded())
    lines[find_line(EVICTION)]["receipt"]["tier"] = 1
    (finding,) = check(forge(lines)).findings
    assert (finding.field, finding.expected) == ("receipt.tier", "no such field")


def test_two_pools_may_share_a_ledger() -> None:
    lines = parse(recorded())
    both: list[Line] = [lines[0]]
    for line in lines[1:-1]:
        if line["kind"] == "receipt":
            both += [line, {**line, "receipt": {**line["receipt"], "pool_id": "f" * 32}}]
    both.append({**lines[-1], "lines": len(both), "receipts": len(both) - 1})
    assert check(forge(both)).findings == []


def test_clock_that_steps_back_is_noted() -> None:
    lines = changed(EVICTION, timestamp="2001-01-01T00:00:00.000000Z")
    report = check(forge(lines))
    assert report.ok
    assert "the clock of the pool stepped back 1 times" in report.notes


def test_findings_are_kept_up_to_a_number_and_counted() -> None:
    report = check(b"x\n" * (KEPT + 500))
    assert len(report.findings) == KEPT
    assert report.total_findings > KEPT + 500
    assert not report.ok


def test_control_characters_do_not_reach_the_terminal() -> None:
    report = check(b"\x1b[2J\x07\xff\n")
    assert "\x1b" not in str(report.findings[0])
    assert report.findings[0].found.startswith("\\x1b[2J\\x07")
