"""``kvpool receipts verify``, ``copy``, ``keygen``, ``schema``: output and exit codes."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from kvpool.ledger import LedgerSink, verify
from kvpool.receipts.errors import DamagedLedgerError, LedgerError, LedgerOptionError
from kvpool.receipts.schema import schema_text
from tests.support.ledgers import parse, record
from tests.support.receipts_command import run


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return record(tmp_path / "a.jsonl")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    private = tmp_path / "key"
    assert run("keygen", private).exit_code == 0
    return private, tmp_path / "key.pub"


# -- verify ------------------------------------------------------------------------------------


def test_verify_says_ok(ledger: Path) -> None:
    result = run("verify", ledger)
    report = verify(ledger)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "receipts  16: 11 evictions, 2 batches, 3 snapshots",
        "ledger    19 lines, 1 file, 1 segment, sealed",
        f"head      {report.head}",
        "note      not signed: anyone with write access can replace all of it",
        "verdict   ok",
    ]


def test_verify_says_line_field_and_both_values(ledger: Path) -> None:
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"bytes_freed":', b'"bytes_freed":1')
    freed = parse(lines[3])[0]["receipt"]["bytes_freed"]
    ledger.write_bytes(b"".join(lines))
    result = run("verify", ledger)
    assert result.exit_code == 1
    assert f"{ledger}:4: receipt.pool_used_after: pool_used_before - bytes_freed\n" in result.stdout
    used = parse(lines[3])[0]["receipt"]
    expected = used["pool_used_before"] - freed
    assert f"  expected  {expected}\n  found     {used['pool_used_after']}\n" in result.stdout
    assert (
        result.stdout.splitlines()[-1]
        == f"verdict   FAILED, {verify(ledger).total_findings} findings"
    )


def test_verify_for_machines(ledger: Path) -> None:
    document = json.loads(run("verify", ledger, "--json").stdout)
    assert document["ok"] is True
    assert document["head"] == verify(ledger).head
    ledger.write_bytes(ledger.read_bytes()[:-1])
    result = run("verify", ledger, "--json")
    assert result.exit_code == 1
    (torn, unsealed) = json.loads(result.stdout)["findings"]
    assert (torn["line"], torn["field"]) == (19, "line")
    assert (unsealed["line"], unsealed["field"]) == (0, "kind")
    assert set(torn) == {"file", "line", "field", "expected", "found", "rule"}


def test_verify_with_a_key(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    signed = record(tmp_path / "signed.jsonl", key=keys[0])
    result = run("verify", signed, "--public-key", keys[1])
    assert result.exit_code == 0
    assert "signed    2 valid signatures, for 19 of 19 lines" in result.stdout
    assert "note" not in result.stdout
    assert "as it says itself" in " ".join(run("verify", signed).stdout.split())
    unsigned = record(tmp_path / "unsigned.jsonl")
    assert run("verify", unsigned, "--public-key", keys[1]).exit_code == 1


def test_verify_an_open_ledger(tmp_path: Path) -> None:
    with LedgerSink(tmp_path / "a.jsonl") as sink:
        assert run("verify", sink.path).exit_code == 1
        result = run("verify", sink.path, "--allow-open")
        assert result.exit_code == 0
        assert "note      the ledger is open" in result.stdout


def test_verify_with_a_head(ledger: Path) -> None:
    assert run("verify", ledger, "--head", verify(ledger).head).exit_code == 0
    assert run("verify", ledger, "--head", "0" * 64).exit_code == 1


def test_verify_of_nothing(tmp_path: Path) -> None:
    result = run("verify", tmp_path / "nothing")
    assert result.exit_code == 1
    assert "No such file" in result.stdout


def test_verify_of_rubbish_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"rubbish\n" * 500)
    result = run("verify", tmp_path / "a")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) < 220
    assert "more; --json has the first 1,000" in result.stdout


# -- copy --------------------------------------------------------------------------------------


def test_copy_for_others(ledger: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    target = tmp_path / "copy.jsonl"
    result = run("copy", ledger, target, "--redact", "--key", keys[0])
    report = verify(target, public_key=keys[1])
    assert report.findings == []
    assert result.stdout == f"16 receipts; head {report.head}\n"
    assert b"chat/" not in target.read_bytes()
    assert parse(target.read_bytes())[0]["copy_of"] == verify(ledger).head
    assert stat.S_IMODE(target.stat().st_mode) & 0o077 == 0
    assert report.events == verify(ledger).events
    with pytest.raises(LedgerOptionError, match="already exists"):
        run("copy", ledger, target)


def test_copies_with_one_salt_can_be_compared(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "salt").write_text("ab" * 32)
    bodies = []
    for name in ("one", "two"):
        run("copy", ledger, tmp_path / name, "--redact", "--salt", tmp_path / "salt")
        bodies.append([line.get("receipt") for line in parse((tmp_path / name).read_bytes())[1:]])
    assert bodies[0] == bodies[1]


def test_damaged_ledger_is_not_copied(ledger: Path, tmp_path: Path) -> None:
    ledger.write_bytes(ledger.read_bytes().replace(b'"pool_total":65536', b'"pool_total":65537', 1))
    with pytest.raises(DamagedLedgerError, match=r"does not verify, .*pool_total"):
        run("copy", ledger, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


# -- the rest ----------------------------------------------------------------------------------


def test_keygen_overwrites_nothing(keys: tuple[Path, Path]) -> None:
    before = [path.read_bytes() for path in keys]
    with pytest.raises(LedgerError, match="is there already"):
        run("keygen", keys[0])
    assert [path.read_bytes() for path in keys] == before


def test_schema_is_printed() -> None:
    assert run("schema").stdout == schema_text()


@pytest.mark.parametrize("command", ["verify", "show", "summary", "copy", "keygen", "schema"])
def test_help_fits(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert command in run("--help").stdout


def test_types_of_options() -> None:
    arguments: list[Any] = ["show", "x", "--reason", "bored"]
    assert run(*arguments).exit_code == 2
