"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich import box
from rich.table import Table

from kvpool.cli._chat.book import SessionBook
from kvpool.cli._chat.screen import Screen
from kvpool.cli._chat.session import ChatError, ChatSession
from kvpool.cli._chat.tables import sessions_table, stats_table
from kvpool.cli._sizes import format_size

__all__ = ["COMMANDS", "Command", "run_command"]


@dataclass(frozen=True, slots=True)
class Command:
    """What a line like ``/fork NAME`` does.

    Attributes
    ----------
    name : str
        With its slash.
    summary : str
    run : callable
        Takes the book, the screen, and the argument if there is one.
    takes_name : bool
        Whether it has an argument.
    knows_name : bool
        Whether that names a session that there is.
    """

    name: str
    summary: str
    run: Callable[..., None]
    takes_name: bool = False
    knows_name: bool = False

    @property
    def usage(self) -> str:
        """How to write it."""
        return f"{self.name} NAME" if self.takes_name else self.name


def _new(book: SessionBook, screen: Screen, name: str) -> None:
    _say_where(screen, book.new(name))


def _switch(book: SessionBook, screen: Screen, name: str) -> None:
    _say_where(screen, book.switch(name))


def _fork(book: SessionBook, screen: Screen, name: str) -> None:
    parent = book.present.name
    fork = book.fork(name)
    screen.note(f"now in {fork.name}, which begins as {parent}: {_extent(fork)}")


def _drop(book: SessionBook, screen: Screen, name: str) -> None:
    was_present = name == book.present.name
    book.drop(name)
    screen.note(f"dropped {name}")
    if was_present:
        _say_where(screen, book.present)


def _reset(book: SessionBook, screen: Screen) -> None:
    screen.note(f"{book.reset().name} begins anew")


def _sessions(book: SessionBook, screen: Screen) -> None:
    screen.show(sessions_table(book, time.monotonic()))


def _stats(book: SessionBook, screen: Screen) -> None:
    screen.show(stats_table(book))


def _help(_book: SessionBook, screen: Screen) -> None:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for command in COMMANDS.values():
        table.add_row(command.usage, command.summary)
    table.add_row("Ctrl-C", "Stop an answer; what there is of it stays. Clear a line.")
    table.add_row("Ctrl-D", "Leave.")
    screen.show(table, "Anything else is said to the model; // at the beginning is one slash.")


def _quit(_book: SessionBook, _screen: Screen) -> None:
    raise EOFError


COMMANDS = {
    command.name: command
    for command in (
        Command("/new", "Begin a session.", _new, takes_name=True),
        Command("/switch", "Turn to a session.", _switch, takes_name=True, knows_name=True),
        Command("/fork", "Branch the session, and turn to the branch.", _fork, takes_name=True),
        Command("/sessions", "Show all sessions, and what the pool holds of them.", _sessions),
        Command("/stats", "Show the figures of the pool.", _stats),
        Command("/drop", "Forget a session.", _drop, takes_name=True, knows_name=True),
        Command("/reset", "Forget what was said in the present session.", _reset),
        Command("/help", "Show this.", _help),
        Command("/quit", "Leave.", _quit),
    )
}
"""By name, in the order of the help."""


def run_command(book: SessionBook, screen: Screen, line: str) -> None:
    """Do what a line that begins with a slash says.

    Raises
    ------
    ChatError
        There is no such command, or it is not written so.
    KVPoolError
        As the command does; nothing has changed.
    EOFError
        It was ``/quit``: as if there were no more lines.
    """
    name, *arguments = line.split()
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else "/help shows which there are"
        raise ChatError(f"there is no command {name}; {hint}")
    if len(arguments) != command.takes_name:
        raise ChatError(f"write it so: {command.usage}")
    command.run(book, screen, *arguments)


def _say_where(screen: Screen, session: ChatSession) -> None:
    screen.note(f"now in {session.name}: {_extent(session)}")


def _extent(session: ChatSession) -> str:
    """Return how much a session is, in words."""
    if not session.tokens:
        return "nothing said yet"
    text = f"{len(session.tokens):,} tokens"
    if session.entry is None:
        return f"{text}, none of them in the pool: they will be computed again"
    return f"{text}, {format_size(session.entry.committed_bytes)} of the pool"
