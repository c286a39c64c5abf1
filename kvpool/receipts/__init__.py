"""Receipts: what the pool did, as records that a stranger can verify.

A manager makes a receipt of each eviction and hands it to sinks: a log, a ledger, anything
that a plugin brings. `LedgerSink` writes a ledger and `verify` checks one.
"""

from __future__ import annotations

from kvpool.receipts.codec import ReceiptRecord, decode_receipt, encode_receipt
from kvpool.receipts.emitter import ReceiptEmitter
from kvpool.receipts.ledger.sink import LedgerSink
from kvpool.receipts.opening import create_sink, open_emitter, registry
from kvpool.receipts.sink import ReceiptSink, SinkFactory
from kvpool.receipts.sinks.log import LoggingSink
from kvpool.receipts.sinks.memory import MemorySink
from kvpool.receipts.stream import ReceiptStream
from kvpool.receipts.types import (
    SCHEMA_VERSION,
    KvEvictionBatchReceipt,
    KvEvictionReceipt,
    KvPoolSnapshotReceipt,
    Receipt,
)
from kvpool.receipts.verification.ledger import verify
from kvpool.receipts.verification.report import Finding, VerifyReport

__all__ = [
    "SCHEMA_VERSION",
    "Finding",
    "KvEvictionBatchReceipt",
    "KvEvictionReceipt",
    "KvPoolSnapshotReceipt",
    "LedgerSink",
    "LoggingSink",
    "MemorySink",
    "Receipt",
    "ReceiptEmitter",
    "ReceiptRecord",
    "ReceiptSink",
    "ReceiptStream",
    "SinkFactory",
    "VerifyReport",
    "create_sink",
    "decode_receipt",
    "encode_receipt",
    "open_emitter",
    "registry",
    "verify",
]
