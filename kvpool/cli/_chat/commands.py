"""The commands of ``kvpool chat``: lines that begin with a slash."""

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
    """A command, such as ``/fork NAME``.

    Attributes
    ----------
    name : str
        With the slash.
    summary : str
    run : callable
        Takes the book, the screen, and the argument if the command has one.
    takes_name : bool
        Whether the command has an argument.
    knows_name : bool
        Whether the argument is the name of an existing session.
    """

    name: str
    summary: str
    run: Callable[..., None]
    takes_name: bool = False
    knows_name: bool = False

    @property
    def usage(self) -> str:
        """How the command is written."""
        return f"{self.name} NAME" if self.takes_name else self.name


def _new(book: SessionBook, screen: Screen, name: str) -> None:
    _say_where(book, screen, book.new(name))


def _switch(book: SessionBook, screen: Screen, name: str) -> None:
    _say_where(book, screen, book.switch(name))


def _fork(book: SessionBook, screen: Screen, name: str) -> None:
    parent = book.current.name
    fork = book.fork(name)
    screen.note(f"now in {fork.name}, a fork of {parent}: {_extent(book, fork)}")


def _drop(book: SessionBook, screen: Screen, name: str) -> None:
    was_current = name == book.current.name
    book.drop(name)
    screen.note(f"dropped {name}")
    if was_current:
        _say_where(book, screen, book.current)


def _reset(book: SessionBook, screen: Screen) -> None:
    screen.note(f"{book.reset().name} is empty now")


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
    table.add_row("Ctrl-C", "Stop an answer, or clear the input line. The tokens so far are kept.")
    table.add_row("Ctrl-D", "Exit.")
    screen.show(
        table, "Every other line is sent to the model. Begin it with // to send a leading slash."
    )


def _quit(_book: SessionBook, _screen: Screen) -> None:
    raise EOFError


COMMANDS = {
    command.name: command
    for command in (
        Command("/new", "Start a new session.", _new, takes_name=True),
        Command("/switch", "Switch to a session.", _switch, takes_name=True, knows_name=True),
        Command(
            "/fork", "Fork the current session and switch to the fork.", _fork, takes_name=True
        ),
        Command("/sessions", "List all sessions and their memory.", _sessions),
        Command("/stats", "Show the statistics of the pool.", _stats),
        Command("/drop", "Delete a session.", _drop, takes_name=True, knows_name=True),
        Command("/reset", "Empty the current session.", _reset),
        Command("/help", "Show this list.", _help),
        Command("/quit", "Exit.", _quit),
    )
}
"""All commands by name, in the order of ``/help``."""


def run_command(book: SessionBook, screen: Screen, line: str) -> None:
    """Run the command in a line that begins with a slash.

    Raises
    ------
    ChatError
        The command is unknown, or its number of arguments is wrong.
    KVPoolError
        The command failed; nothing has changed.
    EOFError
        The command was ``/quit``.
    """
    name, *arguments = line.split()
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else "/help lists all"
        raise ChatError(f"unknown command {name}; {hint}")
    if len(arguments) != command.takes_name:
        raise ChatError(f"usage: {command.usage}")
    command.run(book, screen, *arguments)


def _say_where(book: SessionBook, screen: Screen, session: ChatSession) -> None:
    screen.note(f"now in {session.name}: {_extent(book, session)}")


def _extent(book: SessionBook, session: ChatSession) -> str:
    """Return the size of a session, in words."""
    if not session.tokens:
        return "empty"
    text = f"{len(session.tokens):,} tokens"
    if session.entry is None:
        return f"{text}, not in the pool; they will be {book.remedy}"
    return f"{text}, {format_size(session.entry.committed_bytes)} of the pool"
