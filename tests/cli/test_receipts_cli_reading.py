"""``kvpool receipts show`` and ``summary``: what they print."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from rich.cells import cell_len

from kvpool import EvictionReason
from kvpool.ledger import LedgerSink
from kvpool.receipts import LoggingSink, decode_receipt
from kvpool.receipts.errors import DamagedLedgerError, LedgerError, LedgerOptionError
from tests.support.ledgers import parse, record
from tests.support.receipts_command import run
from tests.support.recorder import Recorder


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return record(tmp_path / "a.jsonl")


# -- show --------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 200])
def test_show_cuts_nothing(ledger: Path, columns: int) -> None:
    result = run("show", ledger, columns=columns)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert max(map(len, lines)) <= columns
    assert lines[0].split() == ["#", "time", "(UTC)", "session", "reason", "freed", "used"]
    assert len(lines) == 1 + 16
    words = [line.split() for line in lines[1:]]
    assert [int(line[0]) for line in words] == list(range(16))
    assert any(line[3:5] == ["chat/leased", "manual"] for line in words)
    assert any(line[3:6] == ["(batch", "of", "4)"] for line in words)
    assert any(line[3:5] == ["(snapshot", "of"] for line in words)


def test_receipts_of_tiers_are_shown_and_added_up(tmp_path: Path) -> None:
    ledger = record(tmp_path / "b.jsonl", tiers=True)
    lines = run("show", ledger, columns=120).stdout.splitlines()
    for session, reason in (
        ("chat/1 (64 tokens from disk:/kv)", " load "),
        ("chat/1 (digest, from disk:/kv)", " refuse "),
        ("(3 values of disk:/kv)", " tier "),
    ):
        assert sum(session in line and reason in line for line in lines) == 1
    of_session = run("show", ledger, "--session", "chat/1", "--json").stdout.splitlines()
    events = [json.loads(line)["event"] for line in of_session]
    assert sorted(events) == ["kv_eviction", "kv_tier_load", "kv_tier_refusal"]
    by_reason = run("show", ledger, "--session", "chat/1", "--reason", "lru", "--json").stdout
    assert [json.loads(line)["event"] for line in by_reason.splitlines()] == ["kv_eviction"]
    summed = json.loads(run("summary", ledger, "--json").stdout)
    assert summed["tiers"] == {"disk:/kv": {"loads": 1, "tokens": 64, "refused": 1, "evicted": 3}}
    table = run("summary", ledger).stdout
    row = next(line for line in table.splitlines() if line.split()[:1] == ["disk:/kv"])
    assert row.split() == ["disk:/kv", "1", "64", "1", "3"]
    verified = run("verify", ledger).stdout
    assert "1 load from a tier, 1 refused chunk, 1 eviction in a tier" in verified
    copy = tmp_path / "copy.jsonl"
    run("copy", ledger, copy, "--redact")
    assert b"chat/" not in copy.read_bytes()
    assert b"ab" * 32 not in copy.read_bytes()


def test_show_folds_long_names(tmp_path: Path) -> None:
    recorder = Recorder([LedgerSink(tmp_path / "a.jsonl")])
    recorder.make("[red]" + "x" * 60, 100)
    recorder.close()
    lines = run("show", tmp_path / "a.jsonl").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "chat/[red]" in lines[1]
    assert sum(line.count("x") for line in lines) == 60


def test_show_and_log_do_not_let_names_act(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="kvpool.receipts")
    recorder = Recorder([LedgerSink(tmp_path / "a.jsonl"), LoggingSink()])
    recorder.make("\x1b[2J\nevicted", 100)
    recorder.use_tiers("\x1b[2J\nevicted")
    recorder.close()
    shown = run("show", tmp_path / "a.jsonl", columns=120).stdout
    assert "  chat/\\x1b[2J\\nevicted  " in shown
    told = [record.getMessage() for record in caplog.records]
    assert "chat/\\x1b[2J\\nevicted (close)" in told[3]
    assert not any("\x1b" in line or "\n" in line for line in (*told, *shown.splitlines()))
    assert sum("chat/\\x1b[2J\\nevicted" in line for line in told) == 3


def test_show_of_wide_characters(tmp_path: Path) -> None:
    recorder = Recorder([LedgerSink(tmp_path / "a.jsonl")])
    recorder.make("会話" * 10, 100)
    recorder.close()
    lines = run("show", tmp_path / "a.jsonl").stdout.splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert sum(line.count("会") for line in lines) == 10
    assert cell_len(lines[1].partition("close")[0]) == lines[0].index("reason")


@pytest.mark.parametrize(
    ("options", "sessions"),
    [
        (["--session", "chat/briefly"], ["chat/briefly", "chat/briefly"]),
        (["--reason", "ttl"], ["chat/briefly"]),
        (["--reason", "ttl", "--session", "chat/1"], []),
        (["--reason", "manual"], ["chat/leased"]),
        (["--until", "2001-01-01"], []),
        (["--since", "2001-01-01T12:00:00+02:00", "--reason", "manual"], ["chat/leased"]),
    ],
)
def test_show_some(ledger: Path, options: list[str], sessions: list[str]) -> None:
    lines = run("show", ledger, *options, "--json").stdout.splitlines()
    shown = [decode_receipt(line.encode()).receipt for line in lines]
    assert [getattr(one, "session_id", None) for one in shown] == sessions
    assert len(run("show", ledger, *options).stdout.splitlines()) == len(sessions) + bool(sessions)


def test_show_between_two_times(ledger: Path) -> None:
    times = [
        line["receipt"]["timestamp"] for line in parse(ledger.read_bytes()) if "receipt" in line
    ]
    lines = run("show", ledger, "--since", times[3], "--until", times[7], "--json").stdout
    assert [json.loads(line)["sequence"] for line in lines.splitlines()] == [3, 4, 5, 6]


def test_show_of_a_wrong_time(ledger: Path) -> None:
    result = run("show", ledger, "--since", "yesterday")
    assert result.exit_code == 2
    assert "2026-01-31T12:00:00Z" in result.stderr


def test_show_of_a_redacted_ledger(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl", redact=True)
    for options in ([], ["--salt", tmp_path / "salt"]):
        result = run("show", path, "--session", "chat/briefly", *options, "--json")
        assert [json.loads(line)["eviction_reason"] for line in result.stdout.splitlines()] == [
            EvictionReason.TTL,
            EvictionReason.CLOSE,
        ]
        (tmp_path / "salt").write_bytes((tmp_path / "a.jsonl.salt").read_bytes())
    (tmp_path / "a.jsonl.salt").write_text("00" * 32)
    with pytest.raises(LedgerOptionError, match="another salt"):
        run("show", path, "--session", "chat/briefly")
    (tmp_path / "a.jsonl.salt").unlink()
    with pytest.raises(LedgerError, match=r"a\.jsonl\.salt"):
        run("show", path, "--session", "chat/briefly")


def test_show_reads_around_damage(ledger: Path) -> None:
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[4] = b"damaged\n"
    ledger.write_bytes(b"".join(lines))
    result = run("show", ledger)
    assert len(result.stdout.splitlines()) == 1 + 15
    assert result.stderr == "kvpool: 1 line not readable; see `kvpool receipts verify`\n"


@pytest.mark.parametrize("command", ["show", "summary"])
def test_what_is_no_ledger_is_an_error(tmp_path: Path, command: str) -> None:
    with pytest.raises(LedgerError, match="cannot read the ledger"):
        run(command, tmp_path / "nothing")
    (tmp_path / "a").write_bytes(b"rubbish\n")
    with pytest.raises(DamagedLedgerError, match="does not begin with the header of a ledger"):
        run(command, tmp_path / "a")


# -- summary -----------------------------------------------------------------------------------


def test_summary_adds_up(ledger: Path) -> None:
    document = json.loads(run("summary", ledger, "--json", "--bins", 4).stdout)
    evictions = [
        line["receipt"]
        for line in parse(ledger.read_bytes())
        if line.get("receipt", {}).get("event") == "kv_eviction"
    ]
    assert document["receipts"] == 16
    assert document["sessions"] == len({one["session_id"] for one in evictions})
    by_reason = document["evictions"]
    assert sum(one["count"] for one in by_reason.values()) == len(evictions)
    for reason, sums in by_reason.items():
        own = [one for one in evictions if one["eviction_reason"] == reason]
        assert sums["bytes_freed"] == sum(one["bytes_freed"] for one in own)
        assert sums["bytes_pending"] == sum(one["bytes_pending"] for one in own)
    assert len(document["histogram"]) == 4
    assert sum(one["evictions"] for one in document["histogram"]) == len(evictions)


@pytest.mark.parametrize("columns", [80, 120])
def test_summary_draws_a_histogram(ledger: Path, columns: int) -> None:
    lines = run("summary", ledger, "--bins", 5, columns=columns).stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0] == "16 receipts of 1 pool and 10 sessions, 3 snapshots"
    assert any(line.split()[:1] == ["lru"] for line in lines)
    (title,) = [index for index, line in enumerate(lines) if line.startswith("evictions over time")]
    rows = lines[title + 1 :]
    assert len(rows) == 5
    assert sum(int(row.split()[-1]) for row in rows) == 11
    most = max(rows, key=lambda row: int(row.split()[-1]))
    assert max(rows, key=lambda row: row.count("█")).count("█") == most.count("█") > 20


def test_summary_of_little(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    LedgerSink(path).close()
    assert run("summary", path).stdout == "No receipts.\n"
    recorder = Recorder([LedgerSink(path)])
    recorder.make("a", 10)
    recorder.close()
    assert run("summary", path).stdout.splitlines()[-1].endswith("█ 1")
    assert json.loads(run("summary", path, "--json").stdout)["histogram"][0]["evictions"] == 1
