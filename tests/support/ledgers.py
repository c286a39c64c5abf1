"""Ledgers for tests: recorded ones, and forged ones."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kvpool.ledger import (
    ZERO,
    Checkpoint,
    LedgerSink,
    Rotation,
    Seal,
    VerifyReport,
    decode_line,
    line_hash,
    signed_bytes,
    verify,
)
from kvpool.ledger.ed25519 import Signer
from tests.support.recorder import Recorder

__all__ = [
    "PRIVATE",
    "Line",
    "check",
    "forge",
    "parse",
    "public_key_file",
    "record",
    "rules",
    "short_ledger",
]

Line = dict[str, Any]
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def record(path: Path, *, tiers: bool = False, **options: Any) -> Path:
    """Write a ledger with every kind of line and of receipt; return its first file.

    Parameters
    ----------
    path : Path
    tiers : bool, default False
        Whether there are receipts of tiers, too.
    **options
        Of the `LedgerSink`.
    """
    recorder = Recorder([LedgerSink(path, **options)], capacity=64 * 1024)
    leased = recorder.make("leased", 4096).data()
    for number in range(6):
        recorder.make(number, 6000 + 1000 * number)
    recorder.snapshot()
    recorder.remove("leased")
    recorder.make_tokens("grows", 20)
    recorder.make_tokens("grows", 40)
    recorder.make("large", 30_000)  # for which several have to go
    recorder.stream.flush()
    del leased
    recorder.make("briefly", 500, ttl=60)
    recorder.expire()
    recorder.make("briefly", 700)
    if tiers:
        recorder.use_tiers()
    recorder.snapshot()
    recorder.close()
    return path


@cache
def short_ledger(*, signed: bool) -> bytes:
    """Return a whole ledger of a few lines."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "short.jsonl"
        key = PRIVATE if signed else None
        recorder = Recorder([LedgerSink(path, key=key, checkpoint_every=3)])
        for number in range(3):
            recorder.make(number, 1000 * number + 500)
        for number in range(3):
            recorder.remove(number)
        recorder.close()
        return path.read_bytes()


def public_key_file(path: Path, key: Ed25519PrivateKey) -> Path:
    """Write the public half of a key."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(pem)
    return path


def check(data: bytes | Sequence[bytes], **options: Any) -> VerifyReport:
    """Verify bytes, or lines without their ends."""
    whole = data if isinstance(data, bytes) else b"".join(line + b"\n" for line in data)
    return verify(io.BytesIO(whole), **options)


def parse(data: bytes) -> list[Line]:
    """Return the lines of a ledger as they read."""
    return [json.loads(line) for line in data.splitlines()]


def forge(
    lines: Sequence[Line],
    key: Ed25519PrivateKey | None = None,
    encode: Callable[[Line], bytes] = rfc8785.dumps,
) -> bytes:
    """Chain lines anew, as one can who may write to the file; sign them if there is a key."""
    data, prev = b"", ZERO
    for line in lines:
        raw = encode({**line, "prev": prev})
        if key is not None and "signature" in line:
            signed = decode_line(raw)
            assert isinstance(signed, (Checkpoint, Rotation, Seal))
            raw = encode({**json.loads(raw), "signature": Signer(key).sign(signed_bytes(signed))})
        prev = line_hash(raw)
        data += raw + b"\n"
    return data


def rules(report: VerifyReport) -> list[tuple[int, str]]:
    """Return line and field of each finding."""
    return [(finding.line, finding.field) for finding in report.findings]
