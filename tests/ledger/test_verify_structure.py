"""The order of lines: what may follow what, in segments and files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from kvpool.ledger import verify
from kvpool.receipts.errors import MissingExtraError
from tests.support.ledgers import (
    PRIVATE,
    Line,
    check,
    forge,
    parse,
    public_key_file,
    record,
    short_ledger,
)


def lines_of_a_ledger() -> list[Line]:
    return parse(short_ledger(signed=False))


def kinds_expected(lines: list[Line]) -> list[tuple[int, str, str]]:
    """Return line, expected and found of the findings about the kind of a line."""
    found = check(forge(lines)).findings
    return [(one.line, one.expected, one.found) for one in found if one.field == "kind"]


def test_ledger_without_a_header() -> None:
    assert kinds_expected(lines_of_a_ledger()[1:])[0] == (1, "header", "receipt")


def test_damaged_header_is_one_finding() -> None:
    lines = lines_of_a_ledger()
    lines[0]["created"] = "now"
    report = check(forge(lines), allow_open=True)
    assert [(one.line, one.field) for one in report.findings] == [(1, "created")]


def test_field_with_a_dot_in_its_name() -> None:
    lines = lines_of_a_ledger()
    lines[0]["a.b"] = 1
    assert check(forge(lines)).findings[0].field == "a.b"


@pytest.mark.parametrize("index", [1, 4, -1])
def test_what_follows_a_seal_is_a_header(index: int) -> None:
    lines = lines_of_a_ledger()
    followed: list[Line] = [*lines, lines[index]]
    kind = lines[index]["kind"]
    assert (len(lines) + 1, "header", kind) in kinds_expected(followed)
    assert not kinds_expected([*lines, lines[0], {**lines[-1], "lines": 1, "receipts": 0}])


def test_header_in_the_middle_of_a_segment() -> None:
    lines = lines_of_a_ledger()
    lines.insert(3, lines[0])
    assert kinds_expected(lines) == [(5, "recovery", lines[4]["kind"])]


def test_rotation_is_the_last_line_of_its_file(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl", rotate_at=2500)
    lines = parse(path.read_bytes())
    assert lines[-1]["kind"] == "rotation"
    found = kinds_expected([*lines, {**lines[0], "file": 0}])
    assert found[0][:2] == (len(lines) + 1, "the end of the file")


def test_file_that_begins_with_something_else(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl", rotate_at=2500)
    following = tmp_path / "a.000001.jsonl"
    following.write_bytes(b"".join(following.read_bytes().splitlines(keepends=True)[1:]))
    found = [one for one in verify(path).findings if one.file == str(following)]
    assert ("kind", "header") in {(one.field, one.expected) for one in found}


@pytest.mark.parametrize("kind", ["checkpoint", "seal"])
def test_line_is_signed_as_the_header_says(kind: str) -> None:
    for signed, expected in ((True, "a signature"), (False, "null")):
        lines = parse(short_ledger(signed=signed))
        index = next(at for at, line in enumerate(lines) if line["kind"] == kind)
        lines[index]["signature"] = None if signed else "ab" * 64
        found = [one for one in check(forge(lines)).findings if one.line == index + 1]
        assert ("signature", expected) in {(one.field, one.expected) for one in found}


def test_report_of_nothing() -> None:
    report = check(b"")
    assert (report.lines, report.head, report.notes) == (0, "", [])
    assert [(one.line, one.found) for one in report.findings] == [(0, "an empty file")]


def test_long_values_are_cut() -> None:
    lines = lines_of_a_ledger()
    lines[0]["created"] = "x" * 5000
    assert len(check(forge(lines)).findings[0].found) == 201


def test_uncovered_lines_are_noted() -> None:
    lines = short_ledger(signed=True).splitlines()
    report = check(lines[:6], allow_open=True)
    assert report.covered == 5
    assert "the last 1 lines are under no valid signature" in report.notes
    assert report.public_key is not None


def test_signatures_vouch_for_nothing_behind_a_break_of_the_chain() -> None:
    lines = short_ledger(signed=True).splitlines()
    whole = check(lines)
    assert whole.covered == len(lines)
    for broken in range(len(lines) - 1):
        changed = [*lines[:broken], lines[broken].replace(b":", b": ", 1), *lines[broken + 1 :]]
        report = check(changed)
        assert report.covered <= broken + 1, f"line {broken + 1} was changed"
        assert report.signatures <= whole.signatures


def test_without_cryptography(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = public_key_file(tmp_path / "key.pub", PRIVATE)
    whole = short_ledger(signed=True)
    for module in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "kvpool.ledger.ed25519")
    report: Any = check(whole)
    assert report.ok
    assert report.signatures == 0
    (note,) = [one for one in report.notes if "signatures were not checked" in one]
    assert "kvpool[sign]" in note
    with pytest.raises(MissingExtraError, match=r"kvpool\[sign\]"):
        check(whole, public_key=key)
