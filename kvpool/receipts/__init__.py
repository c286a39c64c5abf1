"""Receipts: what the pool did, as records that a stranger can verify.

A manager makes a receipt of each eviction and hands it to sinks: a log, a ledger, anything
that a plugin brings. `LedgerSink` writes a ledger and `verify` checks one.

The names are imported when they are first asked for: a program that keeps no ledger never
loads one, and ``import kvpool`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOMES = {
    "SCHEMA_VERSION": "types",
    "Finding": "verification.report",
    "KvEvictionBatchReceipt": "types",
    "KvEvictionReceipt": "types",
    "KvPoolSnapshotReceipt": "types",
    "LedgerSink": "ledger.sink",
    "LoggingSink": "sinks.log",
    "MemorySink": "sinks.memory",
    "Receipt": "types",
    "ReceiptEmitter": "emitter",
    "ReceiptRecord": "codec",
    "ReceiptSink": "sink",
    "ReceiptStream": "stream",
    "SinkFactory": "sink",
    "VerifyReport": "verification.report",
    "create_sink": "opening",
    "decode_receipt": "codec",
    "encode_receipt": "codec",
    "open_emitter": "opening",
    "registry": "opening",
    "verify": "verification.ledger",
}

if not TYPE_CHECKING:  # whoever checks types knows the names from above, and no others

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
