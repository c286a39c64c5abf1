"""What a distribution that brings a sink implements."""

from __future__ import annotations

from kvpool.hookspecs import hookspec
from kvpool.receipts.sink import SinkFactory

__all__ = ["ReceiptSinkSpec"]


class ReceiptSinkSpec:
    """Hooks of the entry-point group ``kvpool.sinks``."""

    @hookspec
    def kvpool_receipt_sink(self) -> SinkFactory:
        """Describe a sink for receipts and say how to create it.

        Returns
        -------
        SinkFactory
        """
        raise AssertionError("a hook specification is never called")
