"""The output of a chat: answers while they are generated, tables, notes."""

from __future__ import annotations

import sys
import unicodedata
from typing import Self

from rich.console import Console, RenderableType
from rich.status import Status

__all__ = ["Screen"]

_TAB = 4
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Screen:
    """A terminal, or two pipes: answers and tables on standard output, notes on standard error.

    Parameters
    ----------
    interactive : bool
        Whether standard input and output are a terminal.

    Attributes
    ----------
    interactive : bool
    failures : int
        How many errors were shown.
    """

    def __init__(self, *, interactive: bool) -> None:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(
                    errors="replace"
                )  # a character that cannot be encoded must not end the program
        self.interactive = interactive
        self.failures = 0
        self._out = _console(stderr=False)
        self._notes = self._out if interactive else _console(stderr=True)
        self._status: Status | None = None
        self._at_line_start = True
        self._in_answer = False

    def show(self, *parts: RenderableType) -> None:
        """Show tables or texts."""
        for part in parts:
            self._out.print(part)

    def note(self, text: str, style: str = "dim") -> None:
        """Show a note that is not part of the conversation."""
        if self.interactive:
            self._notes.print(text, style=style)
        else:
            self._notes.print(text, soft_wrap=True)  # one line, for programs

    def remark(self, text: str) -> None:
        """Show a note in a terminal only."""
        if self.interactive:
            self.note(text)

    def error(self, text: str) -> None:
        """Show an error, and count it."""
        self.failures += 1
        self.end_answer()
        self.note(text if self.interactive else f"kvpool: {text}", style="red")

    # -- answers -------------------------------------------------------------------------

    def progress(self, text: str) -> None:
        """Show a progress message until the next text of an answer."""
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
            if not self._in_answer:
                self._in_answer = True
                text = text.lstrip(" ")
            text = _harmless(text.expandtabs(_TAB))
        self._out.file.write(text)
        self._out.file.flush()

    def end_answer(self) -> None:
        """Move to the beginning of a line."""
        self._stop_progress()
        self._in_answer = False
        if not self._at_line_start:
            self._out.file.write("\n")
            self._out.file.flush()
            self._at_line_start = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_progress()  # which hides the cursor

    def _stop_progress(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _console(*, stderr: bool) -> Console:
    """Return a console without markup, because messages may contain brackets."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def _harmless(text: str) -> str:
    """Return a text without control characters, which a terminal would obey."""
    return "".join(_REPLACEMENT if _is_control(sign) else sign for sign in text)


def _is_control(sign: str) -> bool:
    return sign != "\n" and unicodedata.category(sign) == "Cc"
