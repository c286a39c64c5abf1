"""The progress bar of a replay, on standard error if that is a terminal."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from kvpool.replay import TraceReader

__all__ = ["ReplayProgress"]

_SECONDS = 0.2  # between two updates, so that the bar costs nothing


class ReplayProgress:
    """Shows how much of a trace was read, in bytes: the number of requests is unknown."""

    def __init__(self, requests: TraceReader) -> None:
        console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._requests = requests
        self._served = self._tokens = 0
        self._next_update = 0.0
        # Not `Progress(disable=True)`: some versions of rich print an empty line even then.
        self._bar = _bar(console, requests.bytes_total) if console.is_terminal else None

    def advance(self, tokens: int) -> None:
        """Count a request that was served."""
        self._served += 1
        self._tokens += tokens
        now = time.monotonic()
        if self._bar is not None and now >= self._next_update:
            self._next_update = now + _SECONDS
            self._bar.update(
                self._bar.task_ids[0],
                completed=self._requests.bytes_read,
                served=self._served,
                tokens=self._tokens,
                refresh=True,
            )

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
        TextColumn("{task.fields[served]:,} requests, {task.fields[tokens]:,} tokens"),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
    )
    bar.add_task("replay", total=bytes_total or None, served=0, tokens=0)
    return bar
