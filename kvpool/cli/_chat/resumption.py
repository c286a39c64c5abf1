"""What is shown of a session that goes on in a new process."""

from __future__ import annotations

from rich.padding import Padding
from rich.text import Text

from kvpool._escaping import printable
from kvpool.cli._chat.book import SessionBook
from kvpool.cli._chat.screen import Screen
from kvpool.cli._sizes import counted
from kvpool.errors import KVPoolError

__all__ = ["show_resumed"]


def show_resumed(book: SessionBook, screen: Screen) -> None:
    """Load the current session from the tiers, and show what it is.

    A session that does not fit is shown as an error, and the chat goes on without its tokens.
    """
    session = book.current
    said = [one for one in session.messages if one["role"] != "system"]
    screen.progress(f"loading, {len(session.tokens):,} tokens")
    try:
        held = book.load()
    except KVPoolError as error:
        screen.error(f"{session.name} is not loaded: {error}")
        held = 0
    screen.end_answer()
    loaded = book.loaded_tokens or 0
    screen.note(
        f"resumed {session.name}: {counted(len(said), 'message')}, "
        f"{counted(len(session.tokens), 'token')}, {loaded:,} of them from tiers, "
        f"{len(session.tokens) - held:,} to compute"
    )
    if screen.interactive:
        for one in said[-2:]:
            line = f"{one['role']}: {printable(' '.join(one['content'].split()))}"
            text = Text(line, style="dim", no_wrap=True, overflow="ellipsis")
            screen.show(Padding(text, 0, expand=False))  # printed alone, a text is wrapped
