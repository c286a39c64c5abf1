"""`Figures`: what SGLang wants to know of transfers."""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any

__all__ = ["Figures"]


class Figures:
    """Collects pages and speeds of transfers, for the metrics of SGLang.

    Parameters
    ----------
    wanted : bool
        Whether SGLang asks for them. Without that nothing is collected.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._new: Any = None
        if wanted:
            module = import_module("sglang.srt.observability.metrics_collector")
            self._new = module.StorageMetrics
        self._lock = threading.Lock()  # guards what follows
        self._metrics: Any = self._new() if wanted else None

    def note(self, what: str, pages: int, page_bytes: int, seconds: float) -> None:
        """Count a transfer: "load" or "backup"."""
        if self._new is None:
            return
        speed = pages * page_bytes / max(seconds, 1e-9) / (1 << 30)  # GiB/s, as SGLang has it
        with self._lock:
            if what == "load":
                self._metrics.prefetch_pgs.append(pages)
                self._metrics.prefetch_bandwidth.append(speed)
            else:
                self._metrics.backup_pgs.append(pages)
                self._metrics.backup_bandwidth.append(speed)

    def take(self) -> Any:
        """Return the ``StorageMetrics`` since the last call; None if none are wanted."""
        if self._new is None:
            return None
        with self._lock:
            taken, self._metrics = self._metrics, self._new()
        return taken
