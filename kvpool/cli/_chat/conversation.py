"""The loop of ``kvpool chat``: read a line, answer it or run its command."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvpool.cli._chat.book import SessionBook
from kvpool.cli._chat.commands import run_command
from kvpool.cli._chat.screen import Screen
from kvpool.cli._chat.session import ChatSession, Turn
from kvpool.cli._interrupts import Interrupts
from kvpool.cli._sizes import format_size
from kvpool.errors import KVPoolError, PoolExhaustedError

if TYPE_CHECKING:
    from kvpool.integrations.chat import TokenText

__all__ = ["Conversation"]

_SHORT_PROMPT = 64
"""Prompts up to this many tokens are read without a progress message."""


class Conversation:
    """Reads lines and shows answers until the end of input.

    Parameters
    ----------
    book : SessionBook
    screen : Screen
    max_new_tokens : int
        Longest answer.

    Attributes
    ----------
    interrupted : bool
        Whether Ctrl-C ended the conversation, which it does if the screen is not interactive.
    """

    def __init__(self, book: SessionBook, screen: Screen, max_new_tokens: int) -> None:
        self._book = book
        self._screen = screen
        self._max_new_tokens = max_new_tokens
        self.interrupted = False

    def run(self, read_line: Callable[[], str]) -> None:
        """Handle lines until the end of input.

        Parameters
        ----------
        read_line : callable
            Returns the next line; raises `EOFError` at the end of input, and
            `KeyboardInterrupt` on Ctrl-C.
        """
        while not self.interrupted:
            try:
                line = read_line().strip()
                if line:
                    self._handle(line)
            except KeyboardInterrupt:
                self.interrupted = not self._screen.interactive
            except EOFError:  # or /quit
                return

    def _handle(self, line: str) -> None:
        """Handle one line; an error is shown, and the chat continues."""
        try:
            if line.startswith("/") and not line.startswith("//"):
                run_command(self._book, self._screen, line)
            else:
                self._send(line.removeprefix("/"))
        except PoolExhaustedError as error:
            self._screen.error(self._no_room(error))
        except KVPoolError as error:
            self._screen.error(str(error))
        self._announce(self._book.evicted())

    def _send(self, text: str) -> None:
        """Send a message to the model, and show the answer while it is generated."""
        session = self._book.current
        name = session.name
        if session.tokens and session.entry is None:
            holders = "no other session holds"
            if self._book.loaded_tokens is not None:
                holders = "neither another session nor a tier has"
            self._screen.note(
                f"{session.name} was evicted: computing what {holders} of its "
                f"{len(session.tokens):,} tokens"
            )
        with Interrupts(raises=False) as interrupts:
            answer = _Answer(self._screen, self._book.model.token_text(), interrupts)
            try:
                turn = self._book.ask(text, self._max_new_tokens, answer)
            finally:
                answer.end()
                if session.name != name:
                    self._screen.note(f"another chat keeps {name}: this session is {session.name}")
        self._screen.remark(_footnote(turn, answer.rate))
        if interrupts.pressed and not self._screen.interactive:
            raise KeyboardInterrupt

    def _announce(self, evicted: list[ChatSession]) -> None:
        for session in evicted:
            self._screen.note(
                f"evicted: {session.name}, {len(session.tokens):,} tokens; "
                f"they will be {self._book.remedy} when it continues",
                style="yellow",
            )

    def _no_room(self, error: PoolExhaustedError) -> str:
        capacity = self._book.manager.get_stats().total_capacity
        lacking = (
            f"cannot allocate {format_size(error.requested)} in the pool of {format_size(capacity)}"
        )
        if error.requested > capacity:
            return f"{lacking}; shorten the message or use a larger --capacity"
        return (
            f"{lacking} while {self._book.current.name} is in use; /reset it, use a larger "
            "--capacity, or set --max-context so that a session never moves to a larger block"
        )


class _Answer:
    """Shows an answer while it is generated.

    Attributes
    ----------
    rate : float
        Tokens per second, counted from the first token; 0 for fewer than two tokens.
    """

    def __init__(self, screen: Screen, text: TokenText, interrupts: Interrupts) -> None:
        self._screen = screen
        self._text = text
        self._interrupts = interrupts
        self._count = 0
        self._first = self._last = 0.0

    @property
    def rate(self) -> float:
        if self._count < 2:
            return 0.0
        return (self._count - 1) / max(self._last - self._first, 1e-9)

    def on_read(self, done: int, total: int) -> None:
        """Show how much of a long prompt was read."""
        if total > _SHORT_PROMPT:
            self._screen.progress(f"reading, {done:,} of {total:,} tokens")

    def on_token(self, token: int) -> None:
        """Show the text that a token adds."""
        self._last = time.monotonic()
        self._first = self._first or self._last
        self._count += 1
        self._screen.write(self._text.add(token))

    def should_stop(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self._interrupts.pressed

    def end(self) -> None:
        """Show the rest of the text, and end the line."""
        self._screen.write(self._text.rest())
        self._screen.end_answer()


def _footnote(turn: Turn, rate: float) -> str:
    """Return the line below an answer: the tokens that were reused, loaded, read and generated."""
    read = turn.prompt_tokens - turn.reused_tokens
    parts = [
        f"{turn.reused_tokens - turn.loaded_tokens:,} tokens from the pool",
        *([f"{turn.loaded_tokens:,} from tiers"] if turn.loaded_tokens else []),
        f"{read:,} read",
        f"{turn.answer_tokens:,} answered",
    ]
    if rate:
        parts.append(f"{rate:,.0f} tokens/s")
    if not turn.answer_tokens:
        parts.append("stopped before the first token")
    elif turn.was_stopped:
        parts.append("stopped")
    elif turn.is_open:
        parts.append("cut off")
    return ", ".join(parts)
