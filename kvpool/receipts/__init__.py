"""Receipts: records of what the pool did, and the sinks that they go to.

A manager makes a receipt of each eviction and hands it to sinks: a log, a ledger, or a sink
of a plugin. The sink that writes a ledger, and `verify`, are in `kvpool.ledger`. For one more
release, `LedgerSink`, `verify`, `Finding` and `VerifyReport` can be imported from here, too.

A name is imported when it is first used: a program that keeps no ledger never loads one, and
``import kvpool`` stays quick.
"""

from __future__ import annotations

import typing

from kvpool import _first_use

if typing.TYPE_CHECKING:
    from kvpool.ledger import Finding, LedgerSink, VerifyReport, verify
    from kvpool.receipts._emitter import ReceiptEmitter
    from kvpool.receipts._registry import Receipts, create_sink, open_emitter, registry
    from kvpool.receipts._stream import ReceiptStream
    from kvpool.receipts.codec import ReceiptRecord, decode_receipt, encode_receipt
    from kvpool.receipts.sink import ReceiptSink, SinkFactory
    from kvpool.receipts.sinks.log import LoggingSink
    from kvpool.receipts.sinks.memory import MemorySink
    from kvpool.receipts.types import (
        SCHEMA_VERSION,
        KvEvictionBatchReceipt,
        KvEvictionReceipt,
        KvPoolSnapshotReceipt,
        KvTierEvictionReceipt,
        KvTierLoadReceipt,
        KvTierRefusalReceipt,
        Receipt,
    )

__all__ = [
    "SCHEMA_VERSION",
    "Finding",
    "KvEvictionBatchReceipt",
    "KvEvictionReceipt",
    "KvPoolSnapshotReceipt",
    "KvTierEvictionReceipt",
    "KvTierLoadReceipt",
    "KvTierRefusalReceipt",
    "LedgerSink",
    "LoggingSink",
    "MemorySink",
    "Receipt",
    "ReceiptEmitter",
    "ReceiptRecord",
    "ReceiptSink",
    "ReceiptStream",
    "Receipts",
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
    "SCHEMA_VERSION": "receipts.types",
    "Finding": "ledger",
    "KvEvictionBatchReceipt": "receipts.types",
    "KvEvictionReceipt": "receipts.types",
    "KvPoolSnapshotReceipt": "receipts.types",
    "KvTierEvictionReceipt": "receipts.types",
    "KvTierLoadReceipt": "receipts.types",
    "KvTierRefusalReceipt": "receipts.types",
    "LedgerSink": "ledger",
    "LoggingSink": "receipts.sinks.log",
    "MemorySink": "receipts.sinks.memory",
    "Receipt": "receipts.types",
    "ReceiptEmitter": "receipts._emitter",
    "ReceiptRecord": "receipts.codec",
    "ReceiptSink": "receipts.sink",
    "ReceiptStream": "receipts._stream",
    "Receipts": "receipts._registry",
    "SinkFactory": "receipts.sink",
    "VerifyReport": "ledger",
    "create_sink": "receipts._registry",
    "decode_receipt": "receipts.codec",
    "encode_receipt": "receipts.codec",
    "open_emitter": "receipts._registry",
    "registry": "receipts._registry",
    "verify": "ledger",
}

if not typing.TYPE_CHECKING:  # a type checker knows the names from above, and no others
    __getattr__, __dir__ = _first_use.on_first_use(
        __name__, {name: f"kvpool.{home}" for name, home in _HOMES.items()}
    )
