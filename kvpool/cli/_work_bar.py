"""`WorkBar`: progress on standard error: a bar, or a line from time to time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

__all__ = ["WorkBar"]

_SECONDS = 0.2  # between two updates, so that the bar costs nothing
_LINE_SECONDS = 10.0  # between two lines, if standard error is not a terminal


class WorkBar:
    """Shows how much of a work is done.

    In a terminal it is a bar. Elsewhere it is a line every ten seconds, for logs.

    Parameters
    ----------
    what : str
        Shown in front of the bar.
    total : int, optional
        [default: not known]
    text : str, default ""
        Shown behind it: a format string over the fields.
    amount : callable, optional
        Returns how much is done as a text, for a line without a total and a text.
    clock : callable, default `time.monotonic`
        Returns seconds.
    **fields : object
        First values of what `text` shows.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        text: str = "",
        *,
        amount: Callable[[int], str] = "{:,}".format,
        clock: Callable[[], float] = time.monotonic,
        **fields: Any,
    ) -> None:
        self._what = what
        self._text = text
        self._amount = amount
        self._clock = clock
        self._next_update = clock() + _LINE_SECONDS
        self._shown = 0
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
            self._bar.add_task(what, total=total or None, **fields)
            self._next_update = 0.0

    def show(
        self, done: int, total: int | None = None, what: str | None = None, **fields: Any
    ) -> None:
        """Show how much is done: in a line now and then, in a bar also another work and the end."""
        now, is_new = self._clock(), what not in {None, self._what}
        is_end = done == total != self._shown
        if now < self._next_update and (self._bar is None or not (is_new or is_end)):
            return
        self._shown = done
        self._what = self._what if what is None else what
        if self._bar is None:
            self._line(now, done, total, self._text.format_map(fields) if fields else "")
            return
        self._next_update = now + _SECONDS
        task = self._bar.task_ids[0]
        if is_new:
            self._bar.reset(task, description=self._what)
        self._bar.update(task, completed=done, total=total or None, refresh=True, **fields)

    def _line(self, now: float, done: int, total: int | None, text: str) -> None:
        """Print a line, which a log may keep: nothing of it is drawn over."""
        self._next_update = now + _LINE_SECONDS
        parts = [f"{done / total:.0%}" if total else "", text]
        shown = ", ".join(part for part in parts if part) or self._amount(done)
        self._console.print(f"kvpool: {self._what}: {shown}", soft_wrap=True)

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
