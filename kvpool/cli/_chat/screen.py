"""Where a chat shows what it has to say: answers as they come, tables, notes."""

from __future__ import annotations

import sys
import unicodedata
from typing import Self

from rich.console import Console, RenderableType
from rich.status import Status

from kvpool.cli._chat.wrapping import WordWrap

__all__ = ["Screen"]

_TAB = 4
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Screen:
    """A terminal, or two pipes: answers and tables on standard output, notes on standard error.

    Parameters
    ----------
    interactive : bool
        Whether somebody sits there.

    Attributes
    ----------
    interactive : bool
    failures : int
        Errors that were shown.
    """

    def __init__(self, *, interactive: bool) -> None:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="replace")  # no letter of an answer ends the program
        self.interactive = interactive
        self.failures = 0
        self._out = _console(stderr=False)
        self._notes = self._out if interactive else _console(stderr=True)
        self._status: Status | None = None
        self._at_line_start = True
        self._wrap: WordWrap | None = None

    def show(self, *parts: RenderableType) -> None:
        """Show tables or texts."""
        for part in parts:
            self._out.print(part)

    def note(self, text: str, style: str = "dim") -> None:
        """Say something beside the conversation."""
        if self.interactive:
            self._notes.print(text, style=style)
        else:
            self._notes.print(text, soft_wrap=True)  # a line for programs

    def remark(self, text: str) -> None:
        """Say something that only somebody who sits there wants to know."""
        if self.interactive:
            self.note(text)

    def error(self, text: str) -> None:
        """Say that something could not be done."""
        self.failures += 1
        self.end_answer()
        self.note(text if self.interactive else f"kvpool: {text}", style="red")

    # -- answers -------------------------------------------------------------------------

    def progress(self, text: str) -> None:
        """Show that something takes its time, until the next text of an answer."""
        if not self.interactive:
            return
        if self._status is None:
            self._status = self._out.status(text, spinner_style="dim")
            self._status.start()
        self._status.update(text)

    def write(self, text: str) -> None:
        """Show the next piece of an answer at once."""
        self._stop_progress()
        if not text:
            return
        self._at_line_start = text.endswith("\n")
        if self.interactive:
            if self._wrap is None:
                self._wrap = WordWrap(self._out.width)
                text = text.lstrip(" ")
            text = self._wrap.add(_harmless(text.expandtabs(_TAB)))
        self._out.file.write(text)
        self._out.file.flush()

    def end_answer(self) -> None:
        """Go to the beginning of a line."""
        self._stop_progress()
        self._wrap = None
        if not self._at_line_start:
            self._out.file.write("\n")
            self._out.file.flush()
            self._at_line_start = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_progress()  # it hides the cursor

    def _stop_progress(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _console(*, stderr: bool) -> Console:
    """Return a console that prints texts as they are: what is said may hold brackets."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def _harmless(text: str) -> str:
    """Return a text that cannot give orders to a terminal."""
    return "".join(_REPLACEMENT if _is_control(sign) else sign for sign in text)


def _is_control(sign: str) -> bool:
    return sign != "\n" and unicodedata.category(sign) == "Cc"
