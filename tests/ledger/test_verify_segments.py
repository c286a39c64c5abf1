"""Ledgers of several segments and files, and what can be done to these."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvpool.ledger import LedgerSink, verify
from tests.support.ledgers import (
    PRIVATE,
    check,
    forge,
    parse,
    public_key_file,
    record,
    short_ledger,
)
from tests.support.recorder import Recorder


@pytest.fixture
def public_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public_key_file(tmp_path_factory.mktemp("keys") / "key.pub", PRIVATE)


def fields_of(data: bytes) -> set[str]:
    return {finding.field for finding in check(data).findings}


# -- segments ----------------------------------------------------------------------------------


def test_ledger_cut_back_to_an_earlier_seal_needs_a_head(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl", key=PRIVATE)
    first = path.read_bytes()
    LedgerSink(path, key=PRIVATE).close()
    head = verify(path).head
    path.write_bytes(first)
    assert verify(path).ok
    assert [finding.field for finding in verify(path, head=head).findings] == ["head"]


def test_earlier_head_is_still_there(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl")
    head = verify(path).head
    with LedgerSink(path) as sink:
        assert sink.head != head
    assert verify(path, head=head).ok


def test_another_ledger_is_no_continuation(tmp_path: Path) -> None:
    one = record(tmp_path / "a.jsonl").read_bytes()
    two = record(tmp_path / "b.jsonl").read_bytes()
    assert fields_of(one + two) >= {"prev", "ledger_id"}
    assert {"ledger_id"} <= fields_of(forge(parse(one + two)))


def test_recovery_cannot_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in short_ledger(signed=False).splitlines()[:4]))
    LedgerSink(path).close()
    lines = parse(path.read_bytes())
    assert [line["kind"] for line in lines[4:]] == ["header", "recovery", "seal"]
    assert check(forge(lines)).ok
    without = [*lines[:5], {**lines[6], "lines": 1}]
    (finding,) = check(forge(without)).findings
    assert (finding.line, finding.field, finding.expected) == (6, "kind", "recovery")
    moved = [*lines[:3], lines[5], *lines[3:]]
    assert (4, "kind", "anything else") in {
        (finding.line, finding.field, finding.expected) for finding in check(forge(moved)).findings
    }


# -- files -------------------------------------------------------------------------------------


@pytest.fixture
def rotated(tmp_path: Path) -> list[Path]:
    path = record(tmp_path / "a.jsonl", key=PRIVATE, rotate_at=2500)
    files = [Path(name) for name in verify(path).files]
    assert len(files) > 3
    return files


def test_file_that_is_missing(rotated: list[Path], public_key: Path) -> None:
    for missing in rotated:
        kept = missing.read_bytes()
        missing.unlink()
        for where in (rotated[0], rotated[0].parent):
            assert not verify(where, public_key=public_key).ok
        missing.write_bytes(kept)
    assert verify(rotated[0], public_key=public_key).ok


def test_file_that_is_replaced_or_emptied(rotated: list[Path]) -> None:
    for one in rotated:
        kept = one.read_bytes()
        for content in (b"", b"\n", kept[:-1], kept * 2, rotated[0].read_bytes() + b"x"):
            one.write_bytes(content)
            assert not verify(rotated[0]).ok
        one.write_bytes(kept)
    second, third = (path.read_bytes() for path in rotated[1:3])
    rotated[1].write_bytes(third)
    rotated[2].write_bytes(second)
    fields = {finding.field for finding in verify(rotated[0]).findings}
    assert {"prev", "file"} <= fields


def test_verification_begins_with_the_first_file(rotated: list[Path]) -> None:
    report = verify(rotated[1])
    assert {(one.line, one.field) for one in report.findings} >= {(1, "prev"), (1, "file")}


def test_ledger_that_follows_itself_ends(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl", rotate_at=2500)
    path.write_bytes(path.read_bytes().replace(b"a.000001.jsonl", b"a.jsonl"))
    assert "next" in {finding.field for finding in verify(path).findings}


@pytest.mark.parametrize("name", ["../b.jsonl", "/b.jsonl", "..", ".", "", "x/../b.jsonl", "b\\c"])
def test_ledger_cannot_send_its_reader_elsewhere(tmp_path: Path, name: str) -> None:
    path = record(tmp_path / "a.jsonl", rotate_at=2500)
    lines = parse(path.read_bytes())
    lines[-1]["next"] = name
    path.write_bytes(forge(lines))
    report = verify(path)
    assert not report.ok
    assert all(Path(file).parent == tmp_path for file in report.files)


def test_pipe_is_no_continuation(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl", rotate_at=2500)
    following = tmp_path / "a.000001.jsonl"
    following.unlink()
    following.mkdir()
    assert "is not a regular file" in str(verify(path).findings[0])
    following.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(following)
        assert "is not a regular file" in str(verify(path).findings[0])


@pytest.mark.parametrize("path", ["\0", "x" * 5000, "\udcff"])
def test_path_that_the_system_cannot_have(path: str) -> None:
    assert not verify(path).ok


def test_directory_needs_one_ledger(tmp_path: Path) -> None:
    assert "it holds: none" in str(verify(tmp_path).findings[0])
    record(tmp_path / "a.jsonl")
    assert verify(tmp_path).ok
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    assert verify(tmp_path).ok
    record(tmp_path / "b.jsonl")
    assert "it holds: a.jsonl, b.jsonl" in str(verify(tmp_path).findings[0])


def test_file_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    (finding,) = verify(tmp_path / "missing").findings
    assert "No such file" in str(finding)


def test_long_ledger_with_one_wrong_digit(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    recorder = Recorder([LedgerSink(path, fsync="never")])
    for number in range(3000):
        recorder.make(number, 5000 + number)
    recorder.close()
    lines = path.read_bytes().splitlines()
    assert check(lines).ok
    at = 1777
    lines[at] = lines[at].replace(b'"pool_total":65536', b'"pool_total":65537')
    report = check(lines)
    assert [(one.line, one.field, one.expected, one.found) for one in report.findings[:1]] == [
        (at + 1, "receipt.pool_total", "65536", "65537")
    ]
    # The line after it carries another hash, and the pool another size; then all is well again.
    assert {(one.line, one.field) for one in report.findings[1:]} <= {
        (at + 2, "prev"),
        (at + 2, "receipt.pool_total"),
    }
