"""Displays for ``kvpool demo``: a live terminal, plain output, or nothing (``--json``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

__all__ = ["Display", "LiveDisplay", "PrintedDisplay"]

_FRAME_SECONDS = 1 / 15


class Display:
    """Shows nothing; the base class of the displays that do."""

    def begin(self, title: str) -> None:
        """Note that a phase of the demo begins."""

    def step(self) -> None:
        """Note that a request was served."""

    def end(self) -> None:
        """Note that the phase ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class PrintedDisplay(Display):
    """Prints one drawing at the end of each phase, for files, pipes and dumb terminals.

    Parameters
    ----------
    console : Console
    draw : callable
        Takes the title of the phase; returns the drawing of the pool as it is now.
    """

    def __init__(self, console: Console, draw: Callable[[str], RenderableType]) -> None:
        self._console = console
        self._draw = draw
        self._title = ""

    def begin(self, title: str) -> None:
        """Keep the title for the end of the phase."""
        self._title = title

    def end(self) -> None:
        """Print the drawing."""
        self._console.print(self._draw(self._title))
        self._console.print()


class LiveDisplay(Display):
    """Redraws the pool in place, in a terminal.

    Parameters
    ----------
    console : Console
    draw : callable
        Takes the title of the phase; returns the drawing of the pool as it is now.
    step_seconds, end_seconds : float
        Minimum time to show a step, and the end of a phase.
    """

    def __init__(
        self,
        console: Console,
        draw: Callable[[str], RenderableType],
        step_seconds: float,
        end_seconds: float,
    ) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._draw = draw
        self._step_seconds = step_seconds
        self._end_seconds = end_seconds
        self._title = ""
        self._next_step = self._next_frame = time.monotonic()

    def begin(self, title: str) -> None:
        """Show this title from now on."""
        self._title = title

    def step(self) -> None:
        """Redraw, at most once per frame, and wait until the next step is due."""
        now = time.monotonic()
        if now >= self._next_frame:
            self._next_frame = now + _FRAME_SECONDS
            self._redraw()
        self._wait(self._step_seconds)

    def end(self) -> None:
        """Draw the end of the phase, and wait."""
        self._redraw()
        self._wait(self._end_seconds)

    def _wait(self, seconds: float) -> None:
        """Wait until `seconds` after the end of the previous wait, so slow work is caught up."""
        self._next_step += seconds
        time.sleep(max(self._next_step - time.monotonic(), 0))

    def _redraw(self) -> None:
        self._live.update(self._draw(self._title), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
