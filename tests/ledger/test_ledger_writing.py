"""Writing a ledger: lines, checkpoints, options, rotation."""

from __future__ import annotations

import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from kvpool.ledger import ZERO, LedgerSink, verify
from kvpool.ledger._file import LedgerFile
from kvpool.receipts import MemorySink
from kvpool.receipts.errors import LedgerError, LedgerOptionError
from tests.support.ledgers import PRIVATE, parse, record
from tests.support.recorder import Recorder


def snapshots(sink: LedgerSink, count: int) -> None:
    """Emit receipts of a new pool, one by one."""
    recorder = Recorder([MemorySink()])
    for _ in range(count):
        sink.emit(recorder.emitter.emit_pool_snapshot(recorder.manager.get_stats()))


def kinds(path: Path) -> list[str]:
    return [line["kind"] for line in parse(path.read_bytes())]


@pytest.mark.parametrize("key", [None, PRIVATE], ids=["unsigned", "signed"])
def test_recorded_ledger_verifies(tmp_path: Path, key: Any) -> None:
    path = record(tmp_path / "a.jsonl", tiers=True, key=key, checkpoint_every=4)
    report = verify(path)
    assert report.findings == []
    assert report.is_sealed
    assert report.segments == 1
    assert min(report.events.values()) > 0
    assert report.lines == len(path.read_bytes().splitlines())
    assert report.signatures == (kinds(path).count("checkpoint") + 1 if key else 0)
    assert report.covered == (report.lines if key else 0)


def test_lines_are_chained(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl")
    prev = ZERO
    for line in path.read_bytes().splitlines():
        assert parse(line)[0]["prev"] == prev
        prev = sha256(line).hexdigest()
    assert verify(path).head == prev


def test_checkpoints_come_by_number_and_by_flush(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with LedgerSink(path, checkpoint_every=3) as sink:
        snapshots(sink, 4)
        sink.flush()
        sink.flush()  # nothing new
        snapshots(sink, 3)
    body = ["receipt"] * 3 + ["checkpoint", "receipt", "checkpoint"] + ["receipt"] * 3
    assert kinds(path) == ["header", *body, "checkpoint", "seal"]
    lines = parse(path.read_bytes())
    counts = [(line["lines"], line["receipts"]) for line in lines if "lines" in line]
    assert counts == [(4, 3), (6, 4), (10, 7), (11, 7)]


def test_rotation_vouches_like_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with LedgerSink(path, checkpoint_every=2, rotate_at=1300) as sink:
        snapshots(sink, 6)
    names = [Path(name) for name in verify(path).files]
    assert [kinds(name) for name in names[:2]] == [
        ["header", "receipt", "receipt", "checkpoint", "rotation"]
    ] * 2


def test_line_is_with_the_system_once_it_is_emitted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with LedgerSink(path) as sink:
        for count in range(1, 4):
            snapshots(sink, 1)
            assert kinds(path).count("receipt") == count


def test_rotated_file_is_synced_before_it_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []
    sync = LedgerFile.sync

    def note(file: LedgerFile) -> None:
        synced.append((file.path.name, file.size))
        sync(file)

    monkeypatch.setattr(LedgerFile, "sync", note)
    path = tmp_path / "a.jsonl"
    with LedgerSink(path, rotate_at=1) as sink:
        snapshots(sink, 1)
        assert (path.name, path.stat().st_size) in synced
        assert verify(path, allow_open=True).ok  # the next file has its header already


def test_header_that_cannot_be_written_follows_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    append = LedgerFile.append

    def refuse(file: LedgerFile, raw: bytes, at: int) -> None:
        if b'"kind":"header"' in raw:
            raise OSError("no room for a header")
        append(file, raw, at)

    for close_at_once in (False, True):
        with LedgerSink(path, rotate_at=1) as sink:
            with monkeypatch.context() as patch:
                patch.setattr(LedgerFile, "append", refuse)
                with pytest.raises(LedgerError, match="no room for a header"):
                    snapshots(sink, 1)
            if not close_at_once:
                snapshots(sink, 1)
        assert verify(path).findings == []
    assert verify(path).receipts == 3


@pytest.mark.parametrize("policy", ["never", "checkpoint", "always"])
def test_fsync_policy(tmp_path: Path, policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(LedgerFile, "sync", lambda file: synced.append(file.size))
    path = tmp_path / "a.jsonl"
    with LedgerSink(path, fsync=policy, checkpoint_every=2) as sink:
        snapshots(sink, 2)
    ends = [index + 1 for index, byte in enumerate(path.read_bytes()) if byte == ord("\n")]
    expected = {"never": [], "checkpoint": [ends[0], ends[3], ends[4]], "always": ends}[policy]
    assert sorted(set(synced)) == expected


def test_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    recorder = Recorder([LedgerSink(path, checkpoint_every=10, rotate_at=20_000, fsync="never")])
    lock, start = threading.Lock(), threading.Barrier(6)

    def work(thread: int) -> None:
        start.wait()
        for turn in range(60):
            with lock:  # the manager's
                recorder.emitter.emit_pool_snapshot(recorder.manager.get_stats())
            recorder.stream.deliver()
            if turn % 20 == thread:
                recorder.stream.flush()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    recorder.close()
    report = verify(path)
    assert report.findings == []
    assert report.receipts == 361


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, not 0"),
        ({"checkpoint_every": 2.5}, "checkpoint_every must be a whole number, not 2.5"),
        ({"rotate_at": True}, "rotate_at must be a whole number, not True"),
        ({"rotate_at": 0}, "rotate_at must be at least 1, not 0"),
        ({"fsync": "often"}, "not 'often'"),
        ({"salt": bytes(32)}, "redact=True"),
        ({"salt": bytes(31), "redact": True}, "invalid salt of 31 bytes; expected 32"),
    ],
)
def test_option_out_of_range(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(LedgerOptionError, match=text):
        LedgerSink(tmp_path / "a.jsonl", **options)
    assert not list(tmp_path.iterdir())


def test_closed_ledger_takes_nothing(tmp_path: Path) -> None:
    sink = LedgerSink(tmp_path / "a.jsonl")
    sink.close()
    sink.close()
    with pytest.raises(LedgerError, match=r"a\.jsonl is closed"):
        snapshots(sink, 1)
    with pytest.raises(LedgerError, match="is closed"):
        sink.flush()
    assert sink.head == verify(sink.path).head


def test_directory_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no-such"):
        LedgerSink(tmp_path / "no-such" / "a.jsonl")


def test_line_that_is_too_long_is_refused_and_the_next_is_not(tmp_path: Path) -> None:
    sink = LedgerSink(tmp_path / "a.jsonl")
    recorder = Recorder([sink])
    recorder.make("x" * (1 << 18), 64)
    recorder.make("short", 64)
    recorder.remove("x" * (1 << 18))
    assert list(recorder.stream.failures.values()) == [1]
    recorder.remove("short")
    recorder.close()
    report = verify(sink.path)
    # What is missing is seen: the sequence has a gap.
    assert {finding.field for finding in report.findings} >= {"receipt.sequence"}
    assert report.events["kv_eviction"] == 1


# -- rotation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, PRIVATE], ids=["unsigned", "signed"])
def test_rotation_keeps_the_chain(tmp_path: Path, key: Any) -> None:
    path = record(tmp_path / "pool.jsonl", key=key, rotate_at=2500)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 3
    report = verify(path)
    assert report.findings == []
    assert report.files[:2] == [str(path), str(tmp_path / "pool.000001.jsonl")]
    assert len(report.files) == report.segments == len(files)
    assert verify(tmp_path).files == report.files
    assert all(file.stat().st_size < 5000 for file in files)
    whole = record(tmp_path / "whole.jsonl")
    assert verify(whole).events == report.events


def test_rotated_ledger_is_continued_in_its_last_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for _ in range(3):
        with LedgerSink(path, rotate_at=2000) as sink:
            snapshots(sink, 4)
    report = verify(path)
    assert report.findings == []
    assert report.receipts == 12
    assert report.segments > len(report.files) > 3


def test_rotation_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "a.000001.jsonl").write_bytes(b"something else")
    sink = LedgerSink(tmp_path / "a.jsonl", rotate_at=1)
    with pytest.raises(LedgerError, match=r"a\.000001\.jsonl: there is something in it"):
        snapshots(sink, 1)
    sink.close()
    assert verify(tmp_path / "a.jsonl").receipts == 1
    assert (tmp_path / "a.000001.jsonl").read_bytes() == b"something else"
