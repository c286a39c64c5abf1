"""Where the demo plays: in a terminal, on paper, or behind a curtain."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

__all__ = ["LiveStage", "PrintedStage", "Stage"]

_FRAME_SECONDS = 1 / 15


class Stage:
    """Shows nothing. The others show scenes, which are made when they are shown."""

    def begin(self, title: str) -> None:
        """Note that a chapter begins."""

    def step(self) -> None:
        """Note that a request was served."""

    def end(self) -> None:
        """Note that a chapter ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class PrintedStage(Stage):
    """Prints the scene at the end of each chapter, for files, pipes and people who scroll.

    Parameters
    ----------
    console : Console
    scene : callable
        Returns what is to be seen now, under the title of the chapter.
    """

    def __init__(self, console: Console, scene: Callable[[str], RenderableType]) -> None:
        self._console = console
        self._scene = scene
        self._title = ""

    def begin(self, title: str) -> None:
        """Keep the title for the end."""
        self._title = title

    def end(self) -> None:
        """Print the scene."""
        self._console.print(self._scene(self._title))
        self._console.print()


class LiveStage(Stage):
    """Draws the scene again and again in the same place of a terminal.

    Parameters
    ----------
    console : Console
    scene : callable
        As for `PrintedStage`.
    step_seconds, end_seconds : float
        How long a step and the end of a chapter are to be seen, at least.
    """

    def __init__(
        self,
        console: Console,
        scene: Callable[[str], RenderableType],
        step_seconds: float,
        end_seconds: float,
    ) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._scene = scene
        self._step_seconds = step_seconds
        self._end_seconds = end_seconds
        self._title = ""
        self._next_step = self._next_frame = time.monotonic()

    def begin(self, title: str) -> None:
        """Show the title from now on."""
        self._title = title

    def step(self) -> None:
        """Draw, unless it was done just now, and wait for the next step."""
        now = time.monotonic()
        if now >= self._next_frame:
            self._next_frame = now + _FRAME_SECONDS
            self._draw()
        self._wait(self._step_seconds)

    def end(self) -> None:
        """Draw how the chapter ended, and let it be seen."""
        self._draw()
        self._wait(self._end_seconds)

    def _wait(self, seconds: float) -> None:
        """Wait from when the last wait should have ended: work that took long is made good."""
        self._next_step += seconds
        time.sleep(max(self._next_step - time.monotonic(), 0))

    def _draw(self) -> None:
        self._live.update(self._scene(self._title), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
