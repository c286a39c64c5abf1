"""The sessions of a chat, in a pool that may take them back."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from kvpool.cli._chat.book import SessionBook
from kvpool.cli._chat.session import ChatError, ChatSession
from kvpool.cli._chat.tables import sessions_table, stats_table
from kvpool.errors import PoolExhaustedError
from tests.support.managers import MakeManager

pytestmark = pytest.mark.transformers

LONG = "a long message, which is read in more than one step. " * 20
SIX = 6


class Clock:
    """Goes on by a second with each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def book(chatting: Any, make_manager: MakeManager) -> SessionBook:
    return SessionBook(make_manager(), chatting.tiny(), clock=Clock())


def small_book(chatting: Any, make_manager: MakeManager, tokens: int) -> SessionBook:
    """Return a book whose pool has room for so many tokens."""
    model = chatting.tiny()
    manager = make_manager(tokens * model.layout.bytes_per_token)
    return SessionBook(manager, model, clock=Clock())


def state(session: ChatSession) -> tuple[object, ...]:
    return list(session.messages), session.text, list(session.tokens)


def test_it_begins_in_an_empty_session(book: SessionBook) -> None:
    assert (book.names(), book.current.name, book.current.tokens) == (["main"], "main", [])


def test_a_turn_computes_what_is_new(chatting: Any, book: SessionBook) -> None:
    first = book.ask("hello", SIX, chatting.Heard())
    assert (first.reused_tokens, first.answer_tokens, first.is_open) == (0, SIX, True)
    held = book.current.held
    assert held == len(book.current.tokens) - 1
    with chatting.Computed(book.model.model) as computed:
        second = book.ask("more", SIX, chatting.Heard())
    assert second.reused_tokens == held
    assert computed.tokens == second.prompt_tokens - held + SIX - 1
    assert [message["role"] for message in book.current.messages] == ["user", "assistant"] * 2


def test_a_system_text_is_in_front_of_every_session(
    chatting: Any, make_manager: MakeManager
) -> None:
    book = SessionBook(make_manager(), chatting.tiny(), system="Be brief.")
    for name in ("main", "other"):
        if name != "main":
            book.new(name)
        book.ask("hello", SIX, chatting.Heard())
        assert book.current.text.startswith("<|start|>system\nBe brief.<|end|>\n<|start|>user")
    book.reset()
    assert book.current.messages == [{"role": "system", "content": "Be brief."}]


def test_branches_begin_alike_and_go_on_apart(chatting: Any, book: SessionBook) -> None:
    book.ask("hello", SIX, chatting.Heard())
    trunk = book.current
    before = state(trunk)
    fork = book.fork("branch")
    assert state(fork) == before
    assert fork.held == trunk.held
    turn = book.ask("in the branch", SIX, chatting.Heard())
    assert turn.reused_tokens == trunk.held
    assert state(trunk) == before
    book.switch("main")
    book.ask("in the trunk", SIX, chatting.Heard())
    assert fork.tokens[: len(before[1:])] == trunk.tokens[: len(before[1:])]
    assert fork.text != trunk.text


def test_a_branch_of_an_evicted_session_is_computed(chatting: Any, book: SessionBook) -> None:
    book.ask("hello", SIX, chatting.Heard())
    book.manager.remove_cache_entry(book.current.key)
    assert book.evicted() == [book.current]
    fork = book.fork("branch")
    assert (fork.entry, fork.key in book.manager) == (None, False)
    assert book.ask("more", SIX, chatting.Heard()).reused_tokens == 0


def test_an_evicted_session_goes_on_as_if_it_had_stayed(
    chatting: Any, make_manager: MakeManager
) -> None:
    answers = []
    for tokens in (2000, 300):
        book = small_book(chatting, make_manager, tokens)
        book.ask("hello", SIX, chatting.Heard())
        book.new("other")
        book.ask("something", SIX, chatting.Heard())
        gone = [session.name for session in book.evicted()]
        assert book.evicted() == []
        book.switch("main")
        heard = chatting.Heard()
        turn = book.ask("go on", SIX, heard)
        answers.append((heard.tokens, gone, turn.reused_tokens > 0))
    (ample, nobody, from_pool), (small, somebody, rebuilt) = answers
    assert ample == small
    assert (nobody, somebody) == ([], ["main"])
    assert (from_pool, rebuilt) == (True, False)


def test_a_stopped_answer_stays_as_far_as_it_came(chatting: Any, book: SessionBook) -> None:
    heard = chatting.Heard(most_tokens=3)
    turn = book.ask("hello", 50, heard)
    assert turn.was_stopped
    assert turn.answer_tokens == len(heard.tokens) < 50
    session = book.current
    assert session.messages[-1]["content"] == book.model.text_of(heard.tokens)
    assert session.held == len(session.tokens) - 1
    then = chatting.Heard()
    assert book.ask("go on", SIX, then).reused_tokens == turn.prompt_tokens + turn.answer_tokens - 1
    prompt_tokens = session.tokens[: -len(then.tokens)]
    assert then.tokens == chatting.continuation(book.model, prompt_tokens, SIX)


def test_a_turn_that_is_stopped_before_an_answer_was_not_said(
    chatting: Any, book: SessionBook
) -> None:
    book.ask("hello", SIX, chatting.Heard())
    session = book.current
    before, held = state(session), session.held
    turn = book.ask(LONG, SIX, chatting.Heard(most_steps=2))
    assert (turn.answer_tokens, turn.was_stopped) == (0, True)
    assert state(session) == before
    assert held <= session.held <= len(session.tokens)
    heard = chatting.Heard()
    book.ask("more", SIX, heard)
    assert heard.tokens == chatting.continuation(book.model, session.tokens[:-SIX], SIX)


def test_a_session_larger_than_the_pool_is_refused_and_nothing_was_said(
    chatting: Any, make_manager: MakeManager
) -> None:
    book = small_book(chatting, make_manager, 300)
    book.ask("hello", SIX, chatting.Heard())
    before = state(book.current)
    with pytest.raises(PoolExhaustedError):
        book.ask(LONG, SIX, chatting.Heard())
    assert state(book.current) == before
    heard = chatting.Heard()
    book.ask("more", SIX, heard)
    assert heard.tokens == chatting.continuation(book.model, book.current.tokens[:-SIX], SIX)


def test_a_pool_that_fills_up_within_an_answer_keeps_what_there_is(
    chatting: Any, make_manager: MakeManager
) -> None:
    book, heard = small_book(chatting, make_manager, 100), chatting.Heard()
    with pytest.raises(PoolExhaustedError):
        book.ask("hello", 1000, heard)
    session = book.current
    assert len(heard.tokens) > SIX
    assert session.tokens[-len(heard.tokens) :] == heard.tokens
    assert session.messages[-1]["role"] == "assistant"
    assert session.held == len(session.tokens) - 1


def test_the_limit_of_a_session_cuts_an_answer_and_then_refuses(
    chatting: Any, make_manager: MakeManager
) -> None:
    book = SessionBook(make_manager(), chatting.tiny(), max_context_length=40)
    turn = book.ask("hello", 1000, chatting.Heard())
    assert turn.prompt_tokens + turn.answer_tokens == 40
    before = state(book.current)
    with pytest.raises(
        ChatError, match=r"'main' would have \d+ tokens, but at most 40 are allowed"
    ):
        book.ask("more", SIX, chatting.Heard())
    assert state(book.current) == before
    assert SessionBook(make_manager(), chatting.tiny()).max_context_length == 4096


def test_the_end_of_an_answer_is_written_once(chatting: Any, make_manager: MakeManager) -> None:
    book = SessionBook(make_manager(), chatting.brief())
    turn = book.ask("hello", SIX, chatting.Heard())
    assert (turn.answer_tokens, turn.is_open) == (1, False)
    assert book.current.messages[-1] == {"role": "assistant", "content": ""}
    reused = len(book.current.tokens)
    assert book.current.held == reused
    assert book.ask("more", SIX, chatting.Heard()).reused_tokens == reused
    end = "<|end|>\n<|start|>"
    assert book.current.text == (
        f"<|start|>user\nhello{end}assistant\n{end}user\nmore{end}assistant\n"
    )


def test_dropping_turns_to_the_session_used_last(chatting: Any, book: SessionBook) -> None:
    for name in ("a", "b", "c"):
        book.new(name)
        book.ask("hello", 1, chatting.Heard())
    book.switch("a")
    book.ask("more", 1, chatting.Heard())
    book.switch("c")
    dropped = book.drop("c")
    assert dropped.key not in book.manager
    assert book.current.name == "a"
    book.drop("b")
    assert book.current.name == "a"
    book.drop("a")
    book.drop("main")
    assert (book.names(), book.current.tokens) == (["main"], [])
    assert len(book.manager) == 0
    assert book.evicted() == []


def test_a_reset_session_gives_its_bytes_back(chatting: Any, book: SessionBook) -> None:
    book.ask("hello", SIX, chatting.Heard())
    book.reset()
    assert book.manager.get_stats().used_memory == 0
    assert book.current.tokens == []
    assert book.evicted() == []
    assert book.ask("hello", SIX, chatting.Heard()).reused_tokens == 0


@pytest.mark.parametrize("name", ["main", "two words", "x" * 25, "bell\a", ""])
def test_names_that_are_refused(book: SessionBook, name: str) -> None:
    for begin in (book.new, book.fork):
        with pytest.raises(ChatError, match=r"session 'main' already exists|invalid name"):
            begin(name)
    assert book.names() == ["main"]


@pytest.mark.parametrize("act", ["switch", "drop"])
def test_sessions_that_are_not_there(book: SessionBook, act: str) -> None:
    with pytest.raises(ChatError, match="unknown session 'nobody'"):
        getattr(book, act)("nobody")


def test_the_tables(chatting: Any, book: SessionBook) -> None:
    book.ask("hello", SIX, chatting.Heard())
    book.fork("branch")
    book.new("empty")
    book.manager.remove_cache_entry(book.switch("main").key)
    book.evicted()
    rows = {row[0]: row[1:] for row in cells(sessions_table(book, book.current.used_at + 120))}
    tokens = f"{len(book.current.tokens)}"
    assert list(rows) == ["  empty", "  branch", "* main"]  # who was used last comes first
    assert rows["* main"] == [tokens, "evicted", "-", "-", "2 min ago"]
    assert rows["  empty"][:4] == ["0", "-", "-", "-"]
    assert rows["  branch"][:2] == [tokens, f"{len(book.current.tokens) - 1}"]
    figures = dict(cells(stats_table(book)))
    assert figures["model"] == "tiny, cache 2 x 2 x 16 float32"
    assert figures["capacity"] == "16.0 MiB"
    assert figures["sessions"] == "1 in the pool, 3 in total"
    assert figures["evictions"] == "1 manual"


def test_the_figures_of_a_large_session_fit_80_columns(chatting: Any, book: SessionBook) -> None:
    book.new("a-name-as-long-as-it-is-")
    book.ask("hello", 1, chatting.Heard())
    book.current.tokens = [0] * 131_072
    book.current.used_at -= 3000
    screen = Console(width=80)
    with screen.capture() as shown:
        screen.print(sessions_table(book, book.current.used_at + 3000))
    assert "* a-name-as-long-as-it-is-  131,072 " in shown.get()
    assert " 50 min ago" in shown.get()


def cells(table: Any) -> list[list[str]]:
    """Return the rows of a table."""
    return [
        list(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)
    ]
