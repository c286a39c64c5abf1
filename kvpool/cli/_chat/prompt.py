"""The input line in a terminal: editing, history and completion, by prompt_toolkit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from kvpool.cli._chat.book import SessionBook
from kvpool.cli._chat.commands import COMMANDS

__all__ = ["ChatCompleter", "Prompt"]

_STYLE = Style.from_dict({"session": "ansicyan bold"})
_MENU_ROWS = 5


class Prompt:
    """Reads lines in a terminal.

    Parameters
    ----------
    book : SessionBook
    history : Path, optional
        File that keeps the lines for the next start; by default they are kept in memory.
    """

    def __init__(self, book: SessionBook, history: Path | None = None) -> None:
        kept: History = InMemoryHistory() if history is None else FileHistory(str(history))
        completer = ChatCompleter(book)
        self._book = book
        self._session: PromptSession[str] = PromptSession(
            history=kept,
            completer=completer,
            complete_while_typing=False,
            key_bindings=_tab_completes(completer),
            reserve_space_for_menu=_MENU_ROWS,
            style=_STYLE,
        )

    def read_line(self) -> str:
        """Return the next line.

        Raises
        ------
        EOFError
            Ctrl-D was pressed on an empty line.
        KeyboardInterrupt
            Ctrl-C was pressed; the typed text is discarded.
        """
        return self._session.prompt([("class:session", self._book.current.name), ("", "> ")])


def _tab_completes(completer: Completer) -> KeyBindings:
    """Make Tab insert a single completion at once, because the next key may be Enter."""
    bindings = KeyBindings()

    @bindings.add("tab")
    def complete(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None:
            buffer.complete_next()
            return
        asked = CompleteEvent(completion_requested=True)
        found = list(completer.get_completions(buffer.document, asked))
        if len(found) == 1:
            buffer.apply_completion(found[0])
        else:
            buffer.start_completion(insert_common_part=True)

    return bindings


class ChatCompleter(Completer):
    """Completes commands, and the names of sessions in their arguments."""

    def __init__(self, book: SessionBook) -> None:
        self._book = book

    def get_completions(self, document: Document, _event: CompleteEvent) -> Iterator[Completion]:
        """Yield the completions for the text before the cursor."""
        name, is_complete, argument = document.text_before_cursor.partition(" ")
        if not is_complete:
            yield from self._commands(name)
        elif name in COMMANDS and COMMANDS[name].knows_name:
            yield from self._sessions(argument.lstrip())

    def _commands(self, start: str) -> Iterator[Completion]:
        for command in COMMANDS.values() if start.startswith("/") else ():
            if command.name.startswith(start):
                text = f"{command.name} " if command.takes_name else command.name
                yield Completion(
                    text, -len(start), display=command.usage, display_meta=command.summary
                )

    def _sessions(self, start: str) -> Iterator[Completion]:
        for session in self._book:
            if session.name.startswith(start):
                meta = f"{len(session.tokens):,} tokens"
                yield Completion(session.name, -len(start), display_meta=meta)
