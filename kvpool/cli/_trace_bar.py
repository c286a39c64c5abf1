"""`TraceBar`: a progress bar over a trace, on standard error if that is a terminal."""

from __future__ import annotations

import time
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from kvpool.replay import TraceReader

__all__ = ["TraceBar"]

_SECONDS = 0.2  # between two updates, so that the bar costs nothing


class TraceBar:
    """Shows how much of a trace was read, in bytes: the number of requests is unknown.

    Parameters
    ----------
    reader : TraceReader
    what : str
        Shown in front of the bar.
    *columns : ProgressColumn
        Shown behind it.
    **fields : object
        First values of what the columns show.
    """

    def __init__(
        self, reader: TraceReader, what: str, *columns: ProgressColumn, **fields: Any
    ) -> None:
        self._reader = reader
        self._next_update = 0.0
        self._bar: Progress | None = None
        console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        # Not `Progress(disable=True)`: some versions of rich print an empty line even then.
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TaskProgressColumn(),
                *columns,
                TimeRemainingColumn(),
                console=console,
                auto_refresh=False,
                transient=True,
            )
            self._bar.add_task(what, total=reader.bytes_total or None, **fields)

    def read(self, **fields: Any) -> None:
        """Show how much was read, if the last time was some time ago."""
        now = time.monotonic()
        if self._bar is not None and now >= self._next_update:
            self._next_update = now + _SECONDS
            done = self._reader.bytes_read
            self._bar.update(self._bar.task_ids[0], completed=done, refresh=True, **fields)

    def show(self, what: str, done: int, total: int) -> None:
        """Show another work, of which `done` of `total` parts are done."""
        if self._bar is not None:
            task = self._bar.task_ids[0]
            if self._bar.tasks[0].description != what:
                self._bar.reset(task, description=what)
            self._bar.update(task, completed=done, total=total or None, refresh=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
