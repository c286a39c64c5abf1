"""A ledger whose writes fail or are interrupted: nothing is left half written."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvpool.ledger import LedgerSink, verify
from kvpool.ledger._file import LedgerFile
from kvpool.receipts.errors import LedgerError
from tests.support.ledgers import parse, record
from tests.support.recorder import Recorder


@contextmanager
def room(path: Path, count: int) -> Iterator[None]:
    """Let the system refuse whatever is written behind `count` more bytes of a file."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("count", [0, 1, 300, 700, 1500])
def test_full_disk_loses_what_does_not_fit_and_says_so(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.jsonl"
    sink = LedgerSink(path)
    recorder = Recorder([sink])
    recorder.snapshot()
    with room(path, count):
        for _ in range(5):
            recorder.snapshot()
        assert path.read_bytes().endswith(b"\n")  # no half of a line
    length = len(path.read_bytes().splitlines()[1]) + 1
    lost = recorder.stream.failures[sink.name]
    assert lost == 5 - count // length
    recorder.snapshot()
    recorder.close()
    report = verify(path)
    assert report.is_sealed
    assert {finding.field for finding in report.findings} == {"receipt.sequence"}
    assert report.receipts == 8 - lost


def test_file_that_cannot_be_cut_back_is_cut_before_the_next_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    sink = LedgerSink(path)
    recorder = Recorder([sink])

    def refuse(_file: LedgerFile, _size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(LedgerFile, "cut", refuse)
        with room(path, 100):
            recorder.snapshot()
        assert not path.read_bytes().endswith(b"\n")
        recorder.snapshot()
    assert recorder.stream.failures[sink.name] == 2
    recorder.snapshot()
    assert recorder.stream.failures[sink.name] == 2
    recorder.close()
    kinds = [line["kind"] for line in parse(path.read_bytes())]
    assert kinds == ["header", "receipt", "receipt", "seal"]


def test_interrupt_leaves_no_half_of_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    sink = LedgerSink(path)
    recorder = Recorder([sink])
    recorder.snapshot()
    before, append = path.read_bytes(), LedgerFile.append

    def interrupted(file: LedgerFile, raw: bytes, at: int) -> None:
        append(file, raw, at)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LedgerFile, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recorder.snapshot()
    assert path.read_bytes() == before
    sink.close()
    assert verify(path).findings == []


def test_closing_without_room_lets_go_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = LedgerSink(path)
    with room(path, 10), pytest.raises(LedgerError, match=r"cannot write to .*a\.jsonl"):
        sink.close()
    sink.close()
    assert sink.head == verify(path, allow_open=True).head
    LedgerSink(path).close()
    assert verify(path).findings == []


def test_full_disk_after_a_recovery(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl")
    with path.open("ab") as file:
        file.write(b"torn" * 100)
    sink = LedgerSink(path)
    recorder = Recorder([sink])
    with room(path, 100):
        recorder.snapshot()
    assert recorder.stream.failures[sink.name] == 1
    assert path.read_bytes().endswith(b"\n")
    sink.close()
    assert verify(path).findings == []
