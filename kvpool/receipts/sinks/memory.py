"""The sink ``memory``: receipts in a list, for tests and for a look at the last ones."""

from __future__ import annotations

from collections import deque

from kvpool.hookspecs import hookimpl
from kvpool.receipts.sink import ReceiptSink, SinkFactory
from kvpool.receipts.types import Receipt

__all__ = ["MemorySink", "kvpool_receipt_sink"]


class MemorySink(ReceiptSink):
    """Keeps receipts.

    Parameters
    ----------
    limit : int, optional
        How many to keep, the last ones; by default all.

    Attributes
    ----------
    receipts : deque of Receipt
        The oldest first.
    flushes : int
        How often it was flushed.
    closed : bool
    """

    def __init__(self, limit: int | None = None) -> None:
        self.receipts: deque[Receipt] = deque(maxlen=limit)
        self.flushes = 0
        self.closed = False

    @property
    def name(self) -> str:
        """What messages call the sink."""
        return "memory"

    def emit(self, receipt: Receipt, /) -> None:
        """Keep a receipt, unless it is the one that was kept last."""
        if not self.receipts or self.receipts[-1] is not receipt:
            self.receipts.append(receipt)

    def flush(self) -> None:
        """Count the call."""
        self.flushes += 1

    def close(self) -> None:
        """Note the call; the receipts stay."""
        self.closed = True


@hookimpl
def kvpool_receipt_sink() -> SinkFactory:
    """Describe the sink to kvpool."""
    return SinkFactory(
        create=MemorySink,
        summary="a list in memory, for tests",
        options={"limit": "how many receipts to keep, the last ones"},
    )
