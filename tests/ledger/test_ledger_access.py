"""Who may write to a ledger, with which key, and what it gives away."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvpool.ledger import LedgerSink, Redactor, read_salt, verify
from kvpool.ledger.ed25519 import Signer, generate_key_files
from kvpool.receipts.errors import (
    DamagedLedgerError,
    LedgerError,
    LedgerLockedError,
    LedgerOptionError,
    SigningKeyError,
)
from tests.support.ledgers import PRIVATE, parse, record
from tests.support.recorder import Recorder

needs_posix = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")


def snapshots(sink: LedgerSink, count: int) -> None:
    """Emit receipts of a new pool, one by one."""
    recorder = Recorder([sink])
    for _ in range(count):
        recorder.snapshot()


# -- who may read and write --------------------------------------------------------------------


@needs_posix
def test_files_are_the_owners_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        record(tmp_path / "a.jsonl", redact=True, rotate_at=3000)
        private, public = generate_key_files(tmp_path / "key")
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes.pop(public.name) == 0o644
    assert {private.name, "a.jsonl", "a.000001.jsonl", "a.jsonl.salt"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with LedgerSink(path, rotate_at=1) as sink:
        before = path.read_bytes()
        with pytest.raises(LedgerLockedError, match=r"a\.jsonl is being written by"):
            LedgerSink(path)
        snapshots(sink, 3)  # which end in other files: the lock stays with the first
        with pytest.raises(LedgerLockedError):
            LedgerSink(path)
        assert path.read_bytes().startswith(before)
    LedgerSink(path).close()
    assert verify(path).ok


OTHER_PROCESS = """
import sys
from kvpool.ledger import LedgerSink
from kvpool.receipts.errors import LedgerLockedError
try:
    LedgerSink(sys.argv[1])
except LedgerLockedError as error:
    print(error)
"""


def test_writer_in_another_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with LedgerSink(path):
        command = [sys.executable, "-c", OTHER_PROCESS, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"the ledger {path} is being written by" in done.stdout


# -- keys and redaction ------------------------------------------------------------------------


def test_key_comes_from_a_file(tmp_path: Path) -> None:
    private, public = generate_key_files(tmp_path / "key")
    path = record(tmp_path / "a.jsonl", key=private)
    assert verify(path, public_key=public).ok
    assert verify(path).public_key == Signer(private).public_key
    with pytest.raises(LedgerError, match="already"):
        generate_key_files(private)
    public.unlink()
    before = private.read_bytes()
    with pytest.raises(LedgerError, match="already"):
        generate_key_files(private)
    assert private.read_bytes() == before
    assert not public.exists()


def test_wrong_key_files(tmp_path: Path) -> None:
    private, public = generate_key_files(tmp_path / "key")
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"no key")
    for wrong in (public, nonsense, tmp_path / "missing", tmp_path):
        with pytest.raises(SigningKeyError, match=wrong.name):
            LedgerSink(tmp_path / "a.jsonl", key=wrong)
    assert not (tmp_path / "a.jsonl").exists()
    path = record(tmp_path / "a.jsonl", key=private)
    for wrong in (private, nonsense, tmp_path / "missing"):
        with pytest.raises(SigningKeyError, match=wrong.name):
            verify(path, public_key=wrong)


def test_redacted_ledger_names_no_session(tmp_path: Path) -> None:
    clear = record(tmp_path / "clear.jsonl")
    path = record(tmp_path / "a.jsonl", redact=True)
    assert b"chat/" in clear.read_bytes()
    assert b"chat/" not in path.read_bytes()
    assert verify(path).findings == []
    salt = read_salt(tmp_path / "a.jsonl.salt")
    digests = [
        line["receipt"]["session_id"]
        for line in parse(path.read_bytes())
        if line["kind"] == "receipt" and "session_id" in line["receipt"]
    ]
    names = [
        line["receipt"]["session_id"]
        for line in parse(clear.read_bytes())
        if line["kind"] == "receipt" and "session_id" in line["receipt"]
    ]
    assert digests == [Redactor(salt).digest(name) for name in names]
    assert len(set(digests)) == len(set(names))
    assert salt.hex() not in path.read_text()


def test_digest_needs_the_salt() -> None:
    first, second = Redactor(bytes(32)), Redactor(b"\1" * 32)
    assert first.digest("a") != second.digest("a")
    assert first.redaction != second.redaction
    assert len(first.digest("a")) == 32


@pytest.mark.parametrize(
    ("begun", "continued", "text"),
    [
        ({"key": PRIVATE}, {}, "is signed with key .*: it cannot go on unsigned"),
        ({}, {"key": PRIVATE}, "is unsigned: it cannot go on signed with key"),
        ({"redact": True}, {}, "is redacted: it cannot go on unredacted"),
        ({}, {"redact": True}, "is unredacted: it cannot go on redacted"),
        ({"redact": True}, {"redact": True, "salt": bytes(32)}, "is redacted with salt"),
    ],
)
def test_ledger_is_continued_as_it_was_begun(
    tmp_path: Path, begun: dict[str, Any], continued: dict[str, Any], text: str
) -> None:
    path = record(tmp_path / "a.jsonl", **begun)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(LedgerOptionError, match=text):
        LedgerSink(path, **continued)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    LedgerSink(path, **begun).close()  # the lock is free again
    assert verify(path).segments == 2


def test_salt_that_is_missing_is_not_made_up(tmp_path: Path) -> None:
    path = record(tmp_path / "a.jsonl", redact=True)
    (tmp_path / "a.jsonl.salt").unlink()
    with pytest.raises(LedgerError, match=r"a\.jsonl\.salt"):
        LedgerSink(path, redact=True)
    assert not (tmp_path / "a.jsonl.salt").exists()


# -- files that are no ledgers -----------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"a diary", b"a diary\n", b'{"copy_of":1}\n', b"\n", b"\n\n", b"\0" * 600_000, b"{" * 600_000],
)
def test_other_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DamagedLedgerError, match=r"a\.jsonl"):
        LedgerSink(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
