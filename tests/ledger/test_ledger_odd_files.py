"""Paths that are not ledgers: pipes, devices, endless lines, directories without permission."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from kvpool.ledger import read_ledger, verify
from kvpool.receipts.errors import LedgerError
from tests.support.ledgers import record, rules
from tests.support.terminal import run_into

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices of POSIX")


def fifo(folder: Path) -> Path:
    path = folder / "a.fifo"
    os.mkfifo(path)
    return path


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = fifo(tmp_path)
    report = verify(path)
    assert rules(report) == [(0, "file")]
    assert "is not a regular file" in report.findings[0].rule
    with pytest.raises(LedgerError, match=r"a\.fifo is not a regular file"):
        list(read_ledger(path))


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_device_is_not_read(device: str) -> None:
    assert "is not a regular file" in verify(device).findings[0].rule
    with pytest.raises(LedgerError, match="is not a regular file"):
        list(read_ledger(device))


def test_directory_may_hold_other_things(tmp_path: Path) -> None:
    record(tmp_path / "b.jsonl")
    fifo(tmp_path)
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    assert verify(tmp_path).findings == []


def test_line_without_an_end_takes_no_memory(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl")
    os.truncate(path, 64 << 20)  # zeros behind the seal, as a crash of the machine leaves them
    tracemalloc.start()
    try:
        report = verify(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [finding.expected for finding in report.findings] == ["at most 262144 bytes"]
    assert peak < 16 << 20


NOBODY = """
import os, sys
from kvpool.ledger import read_ledger, verify
from kvpool.receipts.errors import LedgerError
if os.geteuid() == 0:
    os.seteuid(65534)
print(verify(sys.argv[1]).findings[0].rule)
try:
    list(read_ledger(sys.argv[1]))
except LedgerError as error:
    print(error)
"""


def test_directory_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    record(folder / "a.jsonl")
    folder.chmod(0)
    try:
        command = [sys.executable, "-c", NOBODY, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        folder.chmod(0o700)
    rule, error = done.stdout.splitlines()
    assert "Permission denied" in rule
    assert rule == error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["verify", "show", "summary"])
def test_full_disk_behind_standard_output(tmp_path: Path, command: str) -> None:
    path = record(tmp_path / "a.jsonl")
    done = run_into(Path("/dev/full"), "receipts", command, str(path))
    assert done.returncode == 1
    assert done.stderr.startswith("kvpool: ")
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1
