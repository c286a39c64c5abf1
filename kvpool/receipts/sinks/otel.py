"""The sink ``otel``: receipts as events of OpenTelemetry.

The extra ``kvpool[otel]`` brings the API. Where events go is the application's choice, as
always with OpenTelemetry: without a logger provider they go nowhere.
"""

from __future__ import annotations

from typing import Any

from kvpool._optional_imports import load
from kvpool.hookspecs import hookimpl
from kvpool.receipts.sink import ReceiptSink, SinkFactory

__all__ = ["kvpool_receipt_sink", "open_otel"]


def open_otel(**options: Any) -> ReceiptSink:
    """Return a new `kvpool.receipts.sinks.otel_events.OpenTelemetrySink`.

    Raises
    ------
    MissingExtraError
        The OpenTelemetry API is not installed.
    """
    module = load("kvpool.receipts.sinks.otel_events", "otel", "the sink otel")
    sink: ReceiptSink = module.OpenTelemetrySink(**options)
    return sink


@hookimpl
def kvpool_receipt_sink() -> SinkFactory:
    """Describe the sink to kvpool."""
    return SinkFactory(
        create=open_otel,
        summary="log records of OpenTelemetry; needs kvpool[otel]",
        options={"provider": "a logger provider; by default the global one"},
    )
