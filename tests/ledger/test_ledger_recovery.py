"""A ledger whose writer did not close it: killed, out of disk, interrupted."""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kvpool import CacheKey, EvictionReason, KVCacheManager
from kvpool.ledger import LedgerSink, verify
from kvpool.ledger._lines import MAX_LINE
from kvpool.receipts import ReceiptEmitter, ReceiptStream
from kvpool.receipts.errors import DamagedLedgerError
from tests.support.forked import Child
from tests.support.ledgers import PRIVATE, check, parse, record, short_ledger
from tests.support.recorder import Recorder


def write(path: Path, say: Callable[[str], None]) -> None:
    """Write receipts of evictions without an end."""
    sink = LedgerSink(path, fsync="never", checkpoint_every=7, rotate_at=50_000)
    emitter = ReceiptEmitter(ReceiptStream([sink]))
    manager = KVCacheManager(1 << 16, backend="numpy")
    say("ready")
    for number in itertools.count(1):
        key = CacheKey("chat", number)
        manager.allocate_entry(key, 30_016)
        before = manager.pool.stats()
        manager.remove_cache_entry(key)
        emitter.emit_eviction_receipt(
            str(key),
            number,
            EvictionReason.MANUAL,
            charged=30_016,
            before=before,
            after=manager.pool.stats(),
            sessions_before=1,
        )
        emitter.stream.deliver()
        if number < 9:
            say(f"wrote {number}")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_writer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    for turn in range(1, 4):
        with Child(partial(write, path)) as writer:
            assert writer.line() == "ready", writer.rest()
            for number in range(1, turn + 2):
                assert writer.line() == f"wrote {number}", writer.rest()
            time.sleep(0.1 * turn)
            writer.kill()
        report = verify(path)
        assert not report.is_sealed
        assert [finding.field for finding in report.findings][-1] == "kind"
        assert report.events["kv_eviction"] > turn
    LedgerSink(path).close()
    assert "did not close it" in caplog.text
    report = verify(path)
    assert report.findings == []
    assert len([note for note in report.notes if "did not close" in note]) == 3
    assert report.segments >= 4


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_any_beginning_of_a_ledger_is_recovered(tmp_path: Path, signed: bool) -> None:
    """What a kill can leave behind: prefixes of the file, above all near the ends of lines."""
    whole = short_ledger(signed=signed)
    options: Any = {"key": PRIVATE} if signed else {}
    ends = [index for index, byte in enumerate(whole) if byte == ord("\n")]
    near = {end + by for end in ends for by in (-1, 0, 1, 2)}
    path = tmp_path / "a.jsonl"
    for size in sorted(near | set(range(0, len(whole), 61))):
        if size >= len(whole):
            continue
        path.write_bytes(whole[:size])
        LedgerSink(path, fsync="never", **options).close()
        data = path.read_bytes()
        report = check(data)
        assert report.findings == [], size
        complete, _, torn = whole[:size].rpartition(b"\n")
        kept = complete + b"\n" if complete else b""
        assert data.startswith(kept)
        aside = list(tmp_path.glob("a.jsonl.torn-*"))
        assert [one.read_bytes() for one in aside] == ([torn] if torn else [])
        added = parse(data[len(kept) :])
        expected = ["header", "seal"] if size == 0 else ["header", "recovery", "seal"]
        assert [line["kind"] for line in added] == expected
        if size:
            assert added[1]["torn_bytes"] == len(torn)
        for one in (path, *aside):
            one.unlink()


def test_nothing_is_reported_where_nothing_was_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = record(tmp_path / "a.jsonl")
    LedgerSink(path).close()
    assert not caplog.records


def test_recovery_is_reported_and_in_the_ledger(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = record(tmp_path / "a.jsonl")
    with path.open("ab") as file:
        file.write(b'{"kind":"rec')
    assert check(path.read_bytes()).findings[0].found == "12 bytes without one"
    caplog.set_level(logging.WARNING)
    with LedgerSink(path) as sink:
        sink.flush()
    (aside,) = tmp_path.glob("a.jsonl.torn-*")
    assert aside.read_bytes() == b'{"kind":"rec'
    assert f"12 bytes of an unfinished line are in {aside}" in caplog.text
    report = verify(path)
    assert report.findings == []
    assert any("12 bytes of an unfinished line" in note for note in report.notes)


def test_end_of_a_long_ledger(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    recorder = Recorder([LedgerSink(path, fsync="never")])
    while path.stat().st_size < 3 * MAX_LINE:
        recorder.snapshot()
    recorder.close()
    with path.open("ab") as file:
        file.write(b"x" * MAX_LINE)
    LedgerSink(path).close()
    assert verify(path).findings == []
    with path.open("ab") as file:
        file.write(b"x" * (MAX_LINE + 1))
    with pytest.raises(DamagedLedgerError, match="a line has at most 262144 bytes"):
        LedgerSink(path)


def test_killed_while_rotating(tmp_path: Path) -> None:
    """The next file is made before the rotation is written, and may stay empty."""
    path = tmp_path / "a.jsonl"
    record(path, rotate_at=2000)
    files = verify(path).files
    following = Path(files[1])
    for content in (b"", following.read_bytes()[:70]):
        for name in files[1:]:
            Path(name).unlink(missing_ok=True)
        following.write_bytes(content)
        before = path.read_bytes()
        LedgerSink(path).close()
        report = verify(path)
        assert report.findings == []
        assert report.files == files[:2]
        assert path.read_bytes() == before
    following.unlink()
    LedgerSink(path).close()  # not even the file is there
    assert verify(path).findings == []


def test_empty_file_left_by_a_kill_is_used(tmp_path: Path) -> None:
    (tmp_path / "a.000001.jsonl").touch()
    path = record(tmp_path / "a.jsonl", rotate_at=2000)
    assert verify(path).findings == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda lines: [*lines[:-1], b'{"kind":"seal"}'], "the last line"),
        (lambda lines: lines[1:], "its first line is not a header"),
        (lambda lines: [b"{}", *lines[1:]], "the first line"),
    ],
)
def test_damaged_ledger_is_not_continued(tmp_path: Path, change: Any, text: str) -> None:
    path = record(tmp_path / "a.jsonl")
    damaged = b"".join(line + b"\n" for line in change(path.read_bytes().splitlines()))
    path.write_bytes(damaged)
    with pytest.raises(DamagedLedgerError, match=text):
        LedgerSink(path)
    assert path.read_bytes() == damaged


def test_file_of_another_ledger_is_not_continued(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl", rotate_at=2000)
    other = record(tmp_path / "b.jsonl", rotate_at=2000)
    last = Path(verify(path).files[1])
    last.write_bytes(Path(verify(other).files[1]).read_bytes())
    with pytest.raises(DamagedLedgerError, match="of the ledger"):
        LedgerSink(path)
    path.write_bytes(path.read_bytes() + b"{")
    with pytest.raises(DamagedLedgerError, match="continues after its last line"):
        LedgerSink(path)


def test_ledger_that_follows_itself_is_not_continued(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl", rotate_at=2000)
    path.write_bytes(path.read_bytes().replace(b"a.000001.jsonl", b"a.jsonl"))
    with pytest.raises(DamagedLedgerError, match="which came before"):
        LedgerSink(path)
