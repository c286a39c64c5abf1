"""The ledger: receipts in files that are chained by hashes, signed, continued and verified.

`LedgerSink` writes a ledger, `read_ledger` reads one, and `verify` checks one. Keys are made and
read by `kvpool.ledger.ed25519`, which needs the extra ``kvpool[sign]``.
"""

from __future__ import annotations

from kvpool import _exports
from kvpool.ledger._lines import (
    ZERO,
    Checkpoint,
    Header,
    ReceiptLine,
    Recovery,
    Redaction,
    Rotation,
    Seal,
    decode_line,
    line_hash,
    signed_bytes,
)
from kvpool.ledger._reader import read_ledger
from kvpool.ledger._redaction import Redactor, read_salt, salt_file
from kvpool.ledger._sink import LedgerSink
from kvpool.ledger._verification.ledger import verify
from kvpool.ledger._verification.report import Finding, VerifyReport

__all__ = [
    "ZERO",
    "Checkpoint",
    "Finding",
    "Header",
    "LedgerSink",
    "ReceiptLine",
    "Recovery",
    "Redaction",
    "Redactor",
    "Rotation",
    "Seal",
    "VerifyReport",
    "decode_line",
    "line_hash",
    "read_ledger",
    "read_salt",
    "salt_file",
    "signed_bytes",
    "verify",
]

_exports.publish(__name__)
