"""The progress bar of ``kvpool size``, on standard error if that is a terminal."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from kvpool.replay import TraceReader

__all__ = ["SizeProgress"]

_SECONDS = 0.2  # between two updates, so that the bar costs nothing


class SizeProgress:
    """Shows how much of a trace was read, in bytes, and then how many simulations are done."""

    def __init__(self, reader: TraceReader) -> None:
        console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._reader = reader
        self._next_update = 0.0
        # Not `Progress(disable=True)`: some versions of rich print an empty line even then.
        self._bar = _bar(console, reader.bytes_total) if console.is_terminal else None

    def read(self) -> None:
        """Show that a request was read."""
        now = time.monotonic()
        if now >= self._next_update:
            self._next_update = now + _SECONDS
            self._show("read", self._reader.bytes_read, self._reader.bytes_total)

    def simulated(self, done: int, total: int) -> None:
        """Show that a simulation is done."""
        self._show("simulate", done, total)

    def _show(self, what: str, completed: int, total: int) -> None:
        if self._bar is not None:
            task = self._bar.task_ids[0]
            if self._bar.tasks[0].description != what:
                self._bar.reset(task, description=what)
            self._bar.update(task, completed=completed, total=total or None, refresh=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar(console: Console, bytes_total: int) -> Progress:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
    )
    bar.add_task("read", total=bytes_total or None)
    return bar
