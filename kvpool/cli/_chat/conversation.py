"""The conversation: lines in, answers out, until somebody leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvpool.cli._chat.book import SessionBook
from kvpool.cli._chat.commands import run_command
from kvpool.cli._chat.screen import Screen
from kvpool.cli._chat.session import ChatSession, Turn
from kvpool.cli._chat.stopping import StopKey
from kvpool.cli._sizes import format_size
from kvpool.errors import KVPoolError, PoolExhaustedError

if TYPE_CHECKING:
    from kvpool.integrations.chat import TokenText

__all__ = ["Conversation"]

_SHORT_PROMPT = 64
"""Tokens that are read so soon that nothing needs to be shown."""


class Conversation:
    """Talks with whoever writes the lines.

    Parameters
    ----------
    book : SessionBook
    screen : Screen
    max_new_tokens : int
        Of an answer.

    Attributes
    ----------
    interrupted : bool
        Whether Ctrl-C ended it, which it does where nobody sits in front of a terminal.
    """

    def __init__(self, book: SessionBook, screen: Screen, max_new_tokens: int) -> None:
        self._book = book
        self._screen = screen
        self._max_new_tokens = max_new_tokens
        self.interrupted = False

    def run(self, read_line: Callable[[], str]) -> None:
        """Take lines until there are no more.

        Parameters
        ----------
        read_line : callable
            Raises `EOFError` at the end, and `KeyboardInterrupt` where Ctrl-C was pressed.
        """
        while not self.interrupted:
            try:
                line = read_line().strip()
                if line:
                    self._take(line)
            except KeyboardInterrupt:
                self.interrupted = not self._screen.interactive
            except EOFError:  # or /quit
                return

    def _take(self, line: str) -> None:
        """Do what a line says; whatever goes wrong is said, and the chat goes on."""
        try:
            if line.startswith("/") and not line.startswith("//"):
                run_command(self._book, self._screen, line)
            else:
                self._say(line.removeprefix("/"))
        except PoolExhaustedError as error:
            self._screen.error(self._no_room(error))
        except KVPoolError as error:
            self._screen.error(str(error))
        self._announce(self._book.evicted())

    def _say(self, text: str) -> None:
        """Say something, and show the answer as it comes."""
        session = self._book.present
        if session.tokens and session.entry is None:
            self._screen.note(
                f"the pool holds nothing of {session.name}: "
                f"its {len(session.tokens):,} tokens are computed again"
            )
        with StopKey() as stop:
            answer = _Answer(self._screen, self._book.model.token_text(), stop)
            try:
                turn = self._book.ask(text, self._max_new_tokens, answer)
            finally:
                answer.end()
        self._screen.remark(_footnote(turn, answer.rate))
        if stop.pressed and not self._screen.interactive:
            raise KeyboardInterrupt

    def _announce(self, evicted: list[ChatSession]) -> None:
        for session in evicted:
            self._screen.note(
                f"evicted: {session.name}, {len(session.tokens):,} tokens; "
                "they will be computed again when it goes on",
                style="yellow",
            )

    def _no_room(self, error: PoolExhaustedError) -> str:
        capacity = self._book.manager.get_stats().total_capacity
        lacking = (
            f"the pool of {format_size(capacity)} has no room for {format_size(error.requested)}"
        )
        if error.requested > capacity:
            return f"{lacking}, whoever is evicted: say less, or give a larger --capacity"
        return (
            f"{lacking} beside what {self._book.present.name} holds: /reset it, or give a larger "
            "--capacity, or a --max-context, with which a session never has to move"
        )


class _Answer:
    """Shows an answer as it comes.

    Attributes
    ----------
    rate : float
        Tokens in a second, from the first one on; 0 for less than two.
    """

    def __init__(self, screen: Screen, text: TokenText, stop: StopKey) -> None:
        self._screen = screen
        self._text = text
        self._stop = stop
        self._count = 0
        self._first = self._last = 0.0

    @property
    def rate(self) -> float:
        if self._count < 2:
            return 0.0
        return (self._count - 1) / max(self._last - self._first, 1e-9)

    def on_read(self, done: int, total: int) -> None:
        """Show how far the prompt was read, where that takes its time."""
        if total > _SHORT_PROMPT:
            self._screen.progress(f"reading, {done:,} of {total:,} tokens")

    def on_token(self, token: int) -> None:
        """Show what a token adds to the text."""
        self._last = time.monotonic()
        self._first = self._first or self._last
        self._count += 1
        self._screen.write(self._text.add(token))

    def should_stop(self) -> bool:
        """Tell whether Ctrl-C was pressed."""
        return self._stop.pressed

    def end(self) -> None:
        """Show what was held back."""
        self._screen.write(self._text.rest())
        self._screen.end_answer()


def _footnote(turn: Turn, rate: float) -> str:
    """Return what a turn cost."""
    read = turn.prompt_tokens - turn.reused_tokens
    parts = [
        f"{turn.reused_tokens:,} tokens from the pool",
        f"{read:,} read",
        f"{turn.answer_tokens:,} answered",
    ]
    if rate:
        parts.append(f"{rate:,.0f} tokens/s")
    if not turn.answer_tokens:
        parts.append("stopped: nothing was said")
    elif turn.was_stopped:
        parts.append("stopped")
    elif turn.is_open:
        parts.append("cut off")
    return ", ".join(parts)
