"""Lines in, answers out: the conversation without a terminal around it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kvpool.cli._chat.book import SessionBook
from kvpool.cli._chat.conversation import Conversation
from kvpool.cli._chat.screen import Screen
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

LONG = "a long message, which is read in more than one step. " * 20


class Talk:
    """A conversation with the tiny model, and what it showed."""

    def __init__(
        self, book: SessionBook, capsys: pytest.CaptureFixture[str], *, interactive: bool = False
    ) -> None:
        self.book = book
        self.screen = Screen(interactive=interactive)
        self.conversation = Conversation(book, self.screen, max_new_tokens=6)
        self._capsys = capsys

    def take(self, *lines: str | type[BaseException]) -> tuple[str, str]:
        """Let it read lines, some of which are keys; return what it wrote to both streams."""
        left: Iterator[str | type[BaseException]] = iter(lines)

        def read_line() -> str:
            line = next(left, EOFError)
            if isinstance(line, str):
                return line
            raise line

        self.conversation.run(read_line)
        out, err = self._capsys.readouterr()
        return out, err


@pytest.fixture
def begin(
    chatting: Any, make_manager: MakeManager, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Talk]:
    def make(tokens: int = 4000, *, interactive: bool = False) -> Talk:
        model = chatting.tiny()
        manager = make_manager(tokens * model.layout.bytes_per_token)
        return Talk(SessionBook(manager, model), capsys, interactive=interactive)

    return make


def test_an_answer_is_a_line_and_nothing_else(begin: Callable[..., Talk]) -> None:
    talk = begin()
    out, err = talk.take("hello\n", "\n", "  \n")
    assert out == talk.book.current.messages[-1]["content"] + "\n"
    assert (err, talk.screen.failures) == ("", 0)


def test_two_slashes_say_one(begin: Callable[..., Talk]) -> None:
    talk = begin()
    talk.take("//help")
    assert talk.book.current.messages[0]["content"] == "/help"


def test_errors_are_told_and_it_goes_on(begin: Callable[..., Talk]) -> None:
    talk = begin()
    out, err = talk.take("/sesions", "/fork", "/new a b", "/switch nobody", "/xyz", "hello")
    assert err.splitlines() == [
        "kvpool: unknown command /sesions; did you mean /sessions?",
        "kvpool: usage: /fork NAME",
        "kvpool: usage: /new NAME",
        "kvpool: unknown session 'nobody'; /sessions lists all",
        "kvpool: unknown command /xyz; /help lists all",
    ]
    assert out.strip()
    assert talk.screen.failures == 5


def test_every_command_is_in_the_help(begin: Callable[..., Talk]) -> None:
    out, _ = begin().take("/help")
    for usage in ("/new NAME", "/switch NAME", "/fork NAME", "/drop NAME", "/reset", "/quit"):
        assert usage in out
    assert max(map(len, out.splitlines())) <= 80


def test_quit_leaves_the_rest_unread(begin: Callable[..., Talk]) -> None:
    talk = begin()
    talk.take("/quit", "hello")
    assert talk.book.current.messages == []


def test_sessions_and_figures(begin: Callable[..., Talk]) -> None:
    out, err = begin().take("hello", "/fork branch", "/new other", "/sessions", "/stats", "/reset")
    assert "branch" in out
    assert "committed" in out
    assert "capacity" in out
    assert "now in branch, a fork of main: " in err
    assert "now in other: empty" in err
    assert "other is empty now" in err


def test_who_was_evicted_is_told_and_computed_again(begin: Callable[..., Talk]) -> None:
    talk = begin(tokens=300)
    _, err = talk.take("hello", "/new other", "hello", "/switch main", "go on", "/drop main")
    lines = err.splitlines()
    tokens = lines[1].split()[2]
    assert lines[1] == (
        f"evicted: main, {tokens} tokens; they will be computed again when it continues"
    )
    assert lines[2] == (
        f"now in main: {tokens} tokens, not in the pool; they will be computed again"
    )
    wanted = f"main was evicted: computing what no other session holds of its {tokens} tokens"
    assert lines[3] == wanted
    assert lines[4].startswith("evicted: other, ")
    assert lines[5] == "dropped main"
    assert lines[6].startswith("now in other: ")
    assert talk.screen.failures == 0


def test_a_full_pool_is_told_with_its_figures_and_it_goes_on(begin: Callable[..., Talk]) -> None:
    talk = begin(tokens=300)
    out, err = talk.take("hello", LONG, "/fork branch", "more")
    assert len(out.splitlines()) == 2
    first, second = err.splitlines()
    assert re.match(r"kvpool: cannot allocate \S+ \S+ in the pool of 150\.0 KiB; shorten", first)
    assert first.endswith("; shorten the message or use a larger --capacity")
    assert second.startswith(
        "kvpool: cannot allocate 32.0 KiB in the pool of 150.0 KiB while main is in use; /reset"
    )
    assert talk.book.names() == ["main"]


def test_a_terminal_shows_what_a_turn_cost(begin: Callable[..., Talk]) -> None:
    out, err = begin(interactive=True).take("hello", "more")
    notes = [line for line in out.splitlines() if "from the pool" in line]
    assert notes[0].startswith("0 tokens from the pool, ")
    assert ", 6 answered, " in notes[1]
    assert notes[1].endswith(", cut off")
    assert err == ""


def test_ctrl_c_at_the_prompt_clears_the_line(begin: Callable[..., Talk]) -> None:
    talk = begin(interactive=True)
    talk.take(KeyboardInterrupt, "hello")
    assert talk.book.current.tokens
    assert not talk.conversation.interrupted


def test_ctrl_c_in_a_pipe_ends_it(begin: Callable[..., Talk]) -> None:
    talk = begin()
    talk.take(KeyboardInterrupt, "hello")
    assert talk.book.current.tokens == []
    assert talk.conversation.interrupted


@pytest.mark.parametrize("interactive", [True, False])
def test_ctrl_c_ends_an_answer_and_keeps_what_there_is(
    begin: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch, interactive: bool
) -> None:
    talk, before = begin(interactive=interactive), signal.getsignal(signal.SIGINT)
    written = talk.screen.write

    def press_and_write(text: str) -> None:
        if text:
            signal.raise_signal(signal.SIGINT)
        written(text)

    monkeypatch.setattr(talk.screen, "write", press_and_write)
    out, _ = talk.take("hello", "more")
    session = talk.book.current
    assert len(session.messages) == (4 if interactive else 2)
    assert 0 < len(session.messages[1]["content"].split()) < 6
    assert session.messages[1]["content"].strip() in out
    assert session.held == len(session.tokens) - 1
    assert talk.conversation.interrupted is not interactive
    assert ("stopped" in out) is interactive
    assert signal.getsignal(signal.SIGINT) is before


def test_an_answer_gives_no_orders_to_a_terminal(
    begin: Callable[..., Talk], capsys: pytest.CaptureFixture[str]
) -> None:
    for interactive in (True, False):
        screen = begin(interactive=interactive).screen
        screen.write("a\x1b[2Jb\tc\r\n\x9b")
        screen.end_answer()
        shown = capsys.readouterr().out
        assert ("\x1b" in shown) is not interactive
        assert shown.startswith("a")
