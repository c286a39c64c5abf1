"""The sink ``logging``: receipts as records of the standard library's logger kvpool.receipts."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from kvpool._escaping import printable
from kvpool.hookspecs import hookimpl
from kvpool.receipts.sink import ReceiptSink, SinkFactory
from kvpool.receipts.types import (
    KvEvictionBatchReceipt,
    KvEvictionReceipt,
    KvTierEvictionReceipt,
    KvTierLoadReceipt,
    KvTierRefusalReceipt,
    Receipt,
)

__all__ = [
    "LOGGER",
    "LoggingSink",
    "kvpool_receipt_sink",
    "summary_line",
]

LOGGER = "kvpool.receipts"


class LoggingSink(ReceiptSink):
    """Logs each receipt at level INFO; its fields are attributes of the record.

    Parameters
    ----------
    logger : str, default "kvpool.receipts"
        Name of the logger.

    Notes
    -----
    Without a handler that takes INFO, which is the standard library's default, a receipt
    ends here.
    """

    def __init__(self, logger: str = LOGGER) -> None:
        self._logger = logging.getLogger(logger)

    @property
    def name(self) -> str:
        """What messages call the sink."""
        return "logging"

    @property
    def is_listening(self) -> bool:
        """Whether the logger takes records of level INFO."""
        return self._logger.isEnabledFor(logging.INFO)

    def emit(self, receipt: Receipt, /) -> None:
        """Log a receipt."""
        if self.is_listening:
            fields: dict[str, Any] = msgspec.to_builtins(receipt)
            self._logger.info("%s", summary_line(receipt), extra=fields)

    def flush(self) -> None:
        """Flush the handlers that the records reach."""
        logger: logging.Logger | None = self._logger
        while logger is not None:
            for handler in logger.handlers:
                handler.flush()
            logger = logger.parent if logger.propagate else None

    def close(self) -> None:
        """Do nothing: loggers belong to the application."""


def summary_line(receipt: Receipt) -> str:
    """Return a receipt as a line for people."""
    if isinstance(receipt, KvEvictionReceipt):
        pending = f", {receipt.bytes_pending:,} pending" if receipt.bytes_pending else ""
        return (
            f"evicted {printable(receipt.session_id)} ({receipt.eviction_reason}): "
            f"{receipt.bytes_freed:,} bytes freed{pending}; "
            f"{_used(receipt.pool_used_after, receipt)}"
        )
    if isinstance(receipt, KvEvictionBatchReceipt):
        return (
            f"evicted {receipt.count} sessions in {receipt.duration_ms:.3f} ms: "
            f"{receipt.total_bytes_freed:,} bytes freed; {_used(receipt.pool_used_after, receipt)}"
        )
    if isinstance(receipt, KvTierLoadReceipt):
        return (
            f"loaded {receipt.tokens:,} tokens of {printable(receipt.session_id)} from "
            f"{printable(receipt.tier)} in {receipt.duration_ms:.3f} ms: "
            f"{receipt.bytes_loaded:,} bytes"
        )
    if isinstance(receipt, KvTierRefusalReceipt):
        return (
            f"refused chunk {printable(receipt.chunk)} of {printable(receipt.tier)} for "
            f"{printable(receipt.session_id)}: {printable(receipt.refusal_reason)}"
        )
    if isinstance(receipt, KvTierEvictionReceipt):
        return f"{printable(receipt.tier)} evicted {receipt.count:,} values"
    return (
        f"pool: {_used(receipt.pool_used, receipt)}, {receipt.active_sessions} sessions, "
        f"{receipt.total_evictions} evictions so far"
    )


def _used(used: int, receipt: Receipt) -> str:
    return f"{used:,} of {receipt.pool_total:,} bytes used"


@hookimpl
def kvpool_receipt_sink() -> SinkFactory:
    """Describe the sink to kvpool."""
    return SinkFactory(
        create=LoggingSink,
        summary=f"records of the logger {LOGGER}, level INFO",
        options={"logger": f"name of another logger than {LOGGER}"},
    )
