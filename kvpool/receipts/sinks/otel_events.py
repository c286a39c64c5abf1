"""Receipts as events, which are log records with a name, of OpenTelemetry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from opentelemetry._logs import (
    LoggerProvider,
    LogRecord,
    SeverityNumber,
    get_logger,
    get_logger_provider,
)

from kvpool.__about__ import __version__
from kvpool.receipts.sink import ReceiptSink
from kvpool.receipts.sinks.log import summary_line
from kvpool.receipts.types import Receipt

__all__ = [
    "EPOCH",
    "OpenTelemetrySink",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OpenTelemetrySink(ReceiptSink):
    """Emits a log record named ``kvpool.<event>`` for each receipt.

    The attributes are the fields, each with ``kvpool.`` in front; the body is a line for people.

    Parameters
    ----------
    provider : LoggerProvider, optional
        By default the global one.
    """

    def __init__(self, provider: LoggerProvider | None = None) -> None:
        self._provider = provider
        self._logger = get_logger("kvpool.receipts", __version__, logger_provider=provider)

    @property
    def name(self) -> str:
        """What messages call the sink."""
        return "otel"

    def emit(self, receipt: Receipt, /) -> None:
        """Emit a receipt as a log record."""
        fields: dict[str, Any] = msgspec.to_builtins(receipt)
        since_epoch = datetime.fromisoformat(receipt.timestamp) - EPOCH
        self._logger.emit(
            LogRecord(
                timestamp=since_epoch // timedelta(microseconds=1) * 1000,
                severity_number=SeverityNumber.INFO,
                severity_text="INFO",
                body=summary_line(receipt),
                attributes={f"kvpool.{name}": value for name, value in fields.items()},
                event_name=f"kvpool.{receipt.event}",
            )
        )

    def flush(self) -> None:
        """Flush the provider, if it can be flushed."""
        provider = self._provider or get_logger_provider()
        flush = getattr(provider, "force_flush", None)
        if flush is not None:
            flush()

    def close(self) -> None:
        """Do nothing: the provider belongs to the application."""
