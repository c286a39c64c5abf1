"""A lock whose holder delivers receipts once it has let go of it."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvpool.receipts import ReceiptStream

__all__ = ["DeliveringLock"]


class DeliveringLock:
    """A lock after whose release the queued receipts are delivered, so no sink runs under it.

    Parameters
    ----------
    stream : ReceiptStream
    """

    def __init__(self, stream: ReceiptStream) -> None:
        self._lock = threading.Lock()
        self._stream = stream

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()
        self._stream.deliver()
