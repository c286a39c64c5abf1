"""The ledger format as its page describes it, implemented a second time, without kvpool."""

from __future__ import annotations

import json
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from kvpool.ledger import read_salt
from tests.support.ledgers import PRIVATE, record

FIELDS = {
    "header": {"format", "ledger_id", "file", "created", "public_key", "redaction", "copy_of"},
    "receipt": {"receipt"},
    "checkpoint": {"lines", "receipts", "signature"},
    "rotation": {"lines", "receipts", "signature", "next"},
    "seal": {"lines", "receipts", "signature"},
    "recovery": {"torn_bytes", "torn_sha256"},
}


def read(first: Path) -> list[dict[str, Any]]:
    """Read a ledger; check form, chain, counts and signatures."""
    lines: list[dict[str, Any]] = []
    file: Path | None = first
    prev = "0" * 64
    while file is not None:
        *raws, rest = file.read_bytes().split(b"\n")
        assert rest == b""
        file_lines = [json.loads(raw) for raw in raws]
        for raw, line in zip(raws, file_lines, strict=True):
            assert rfc8785.dumps(line) == raw
            assert line["prev"] == prev
            assert set(line) == {"kind", "prev"} | FIELDS[line["kind"]]
            prev = sha256(raw).hexdigest()
        check_segments(file_lines)
        lines += file_lines
        file = first.parent / file_lines[-1]["next"] if "next" in file_lines[-1] else None
    return lines


def check_segments(lines: list[dict[str, Any]]) -> None:
    start, key = 0, None
    for index, line in enumerate(lines):
        if line["kind"] == "header":
            start, key = index, line["public_key"]
        if "signature" in line:
            segment = lines[start:index]
            assert line["lines"] == len(segment)
            assert line["receipts"] == sum(one["kind"] == "receipt" for one in segment)
            if key is None:
                assert line["signature"] is None
            else:
                signed = b"kvpool ledger 1\n" + rfc8785.dumps({**line, "signature": None})
                public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
                public.verify(bytes.fromhex(line["signature"]), signed)


@pytest.mark.parametrize("options", [{}, {"key": PRIVATE}, {"key": PRIVATE, "rotate_at": 2500}])
def test_ledger_is_as_its_page_says(tmp_path: Path, options: dict[str, Any]) -> None:
    lines = read(record(tmp_path / "a.jsonl", checkpoint_every=4, **options))
    assert lines[-1]["kind"] == "seal"
    files = [line["file"] for line in lines if line["kind"] == "header"]
    assert files == list(range(len(files)))


def test_arithmetic_is_as_the_page_says(tmp_path: Path) -> None:
    lines = read(record(tmp_path / "a.jsonl", tiers=True))
    evicted = pending = evictions = 0
    for sequence, one in enumerate(line["receipt"] for line in lines if "receipt" in line):
        assert one["sequence"] == sequence
        used = one["bytes_allocated_total"] - one["bytes_freed_total"]
        if one["event"].startswith("kv_tier_"):
            assert 0 <= used <= one["pool_total"]
            assert one["schema_version"] == "2.0.0"
        else:
            assert one.get("pool_used", one.get("pool_used_after")) == used <= one["pool_total"]
            assert one["schema_version"] == "1.0.0"
        if one["event"] == "kv_eviction":
            evicted, pending = evicted + one["bytes_freed"], pending + one["bytes_pending"]
            evictions += 1
            assert one["pool_used_before"] - one["bytes_freed"] == one["pool_used_after"]
            assert one["sessions_before"] - 1 == one["sessions_after"]
            assert one["session_number"] <= one["sessions_after"] + evictions
        elif one["event"] == "kv_pool_snapshot":
            assert one["total_evictions"] == evictions
            assert one["active_sessions"] + evictions == one["total_sessions_created"]
        assert one["bytes_evicted_total"] == evicted
        returned = one["bytes_freed_total"] - evicted
        assert 0 <= returned <= pending + one["bytes_moved_total"]
    assert evictions > 0 < pending


def test_digests_are_as_the_page_says(tmp_path: Path) -> None:
    clear = read(record(tmp_path / "clear.jsonl"))
    redacted = read(record(tmp_path / "a.jsonl", redact=True))
    salt = read_salt(tmp_path / "a.jsonl.salt")

    def digest(data: bytes, purpose: bytes) -> str:
        return blake2b(data, digest_size=16, key=salt, person=purpose).hexdigest()

    assert redacted[0]["redaction"] == {
        "algorithm": "blake2b-128",
        "salt_id": digest(b"", b"kvpool salt id"),
    }
    for one, other in zip(clear, redacted, strict=True):
        if "session_id" in one.get("receipt", {}):
            expected = digest(one["receipt"]["session_id"].encode(), b"kvpool session")
            assert other["receipt"]["session_id"] == expected
