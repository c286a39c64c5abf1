"""`TraceBar`: the progress over a trace, on standard error: a bar, or a line from time to time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from kvpool.cli._sizes import format_size
from kvpool.replay import TraceReader

__all__ = ["TraceBar"]

_SECONDS = 0.2  # between two updates, so that the bar costs nothing
_LINE_SECONDS = 10.0  # between two lines, if standard error is not a terminal


class TraceBar:
    """Shows how much of a trace was read, in bytes: the number of requests is unknown.

    In a terminal it is a bar. Elsewhere it is a line every ten seconds, for logs.

    Parameters
    ----------
    reader : TraceReader
    what : str
        Shown in front of the bar.
    text : str, default ""
        Shown behind it: a format string over the fields.
    clock : callable, default `time.monotonic`
        Returns seconds.
    **fields : object
        First values of what `text` shows.
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
        self._reader = reader
        self._what = what
        self._text = text
        self._clock = clock
        self._next_update = clock() + _LINE_SECONDS
        self._bar: Progress | None = None
        self._console = console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        # Not `Progress(disable=True)`: some versions of rich print an empty line even then.
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TaskProgressColumn(),
                TextColumn(_in_fields(text)),
                TimeRemainingColumn(),
                console=console,
                auto_refresh=False,
                transient=True,
            )
            self._bar.add_task(what, total=reader.bytes_total or None, **fields)
            self._next_update = 0.0

    def read(self, **fields: Any) -> None:
        """Show how much was read, if the last time was some time ago."""
        now = self._clock()
        if now < self._next_update:
            return
        done, total = self._reader.bytes_read, self._reader.bytes_total
        if self._bar is not None:
            self._next_update = now + _SECONDS
            self._bar.update(self._bar.task_ids[0], completed=done, refresh=True, **fields)
        else:
            self._line(now, self._what, done, total, self._text.format_map(fields))

    def show(self, what: str, done: int, total: int) -> None:
        """Show another work, of which `done` of `total` parts are done."""
        if self._bar is None:
            now = self._clock()
            if now >= self._next_update:
                self._line(now, what, done, total)
        else:
            task = self._bar.task_ids[0]
            if self._bar.tasks[0].description != what:
                self._bar.reset(task, description=what)
            self._bar.update(task, completed=done, total=total or None, refresh=True)

    def _line(self, now: float, what: str, done: int, total: int | None, text: str = "") -> None:
        """Print a line, which a log may keep: nothing of it is drawn over."""
        self._next_update = now + _LINE_SECONDS
        parts = [f"{done / total:.0%}" if total else "", text]
        shown = ", ".join(part for part in parts if part) or format_size(done)
        self._console.print(f"kvpool: {what}: {shown}", soft_wrap=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _in_fields(text: str) -> str:
    """Return a format string over fields as `rich.progress.TextColumn` has them."""
    return re.sub(r"\{(\w+)", r"{task.fields[\1]", text)
