"""`TraceBar`: the progress over a trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kvpool.cli._sizes import format_size
from kvpool.cli._work_bar import WorkBar
from kvpool.replay import TraceReader

__all__ = ["TraceBar"]


class TraceBar(WorkBar):
    """Shows how much of a trace was read, in bytes: the number of requests is unknown.

    Parameters
    ----------
    reader : TraceReader
    what, text, clock, **fields
        As those of a `WorkBar`.
    """

    def __init__(
        self,
        reader: TraceReader,
        what: str,
        text: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
        **fields: Any,
    ) -> None:
        super().__init__(what, reader.bytes_total, text, amount=format_size, clock=clock, **fields)
        self._reader = reader

    def read(self, **fields: Any) -> None:
        """Show how much was read, if the last time was some time ago."""
        self.show(self._reader.bytes_read, self._reader.bytes_total, **fields)
