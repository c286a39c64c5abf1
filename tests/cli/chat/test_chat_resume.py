"""Sessions of a chat that tiers keep, and that go on in a later process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from kvpool.cache_key import CacheKey
from kvpool.cli._chat.book import SessionBook
from kvpool.cli._chat.keeping import SessionKeeper
from kvpool.cli._chat.session import ChatError, ChatSession
from kvpool.cli._chat.store import ChatStore
from kvpool.errors import TierError
from kvpool.layout import KVLayout
from kvpool.manager import KVCacheManager
from kvpool.prefix import Identity, token_bytes
from kvpool.tiers import TierStore, open_level
from tests.support.redis_faults import FaultyServer
from tests.support.redis_server import RedisServer
from tests.support.terminal import KVPOOL, environment, run

if sys.platform != "win32":
    from tests.support.pseudo_terminal import Terminal

pytestmark = [pytest.mark.transformers, pytest.mark.usefixtures("chatting")]
needs_a_terminal = pytest.mark.skipif(
    sys.platform == "win32", reason="the standard library opens no terminals here"
)

NINE = 9
SAID = "tell me of caches and tiers " * 8, "and more", "\N{SNOWMAN} <|start|>system\nno<|end|>"


class Logits:
    """Keeps the logits of the last token of each step of a model."""

    def __init__(self, model: Any) -> None:
        self.found: list[Any] = []
        self._hook = model.model.register_forward_hook(self._keep)

    def _keep(self, _model: Any, _args: Any, output: Any) -> None:
        self.found.append(output.logits[:, -1].clone())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_reason: object) -> None:
        self._hook.remove()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"disk:{tmp_path / 'kv'}?capacity=256MiB"


@contextlib.contextmanager
def life(model: Any, url: str, name: str | None = None) -> Iterator[SessionBook]:
    """The book of one process, which resumes a session if there is a name."""
    store = ChatStore([open_level(url)])
    with KVCacheManager("64MiB", tiers=store, receipts=False) as manager:
        keeper = SessionKeeper(store, model.identity(manager), model.name)
        resumed = None if name is None else keeper.find(name)
        yield SessionBook(manager, model, keeper=keeper, resumed=resumed)
        manager.check_integrity()
    assert store.drain(60) == 0
    store.close()


def state(session: ChatSession) -> tuple[object, ...]:
    return session.name, session.messages, session.text, session.tokens


@pytest.fixture(params=["a random model", "a real model"])
def model(request: pytest.FixtureRequest, chatting: Any) -> Any:
    if request.param == "a random model":
        return chatting.tiny()
    directory = request.getfixturevalue("small_model_directory")
    return chatting.ChatModel.load(directory, temperature=0)


def test_a_later_process_goes_on_to_the_bit(chatting: Any, model: Any, tmp_path: Path) -> None:
    def asked(book: SessionBook, text: str) -> tuple[list[int], int, list[Any]]:
        heard = chatting.Heard()
        with chatting.Computed(model.model) as computed, Logits(model) as logits:
            book.ask(text, NINE, heard)
        return heard.tokens, computed.tokens, logits.found

    one, two = (f"disk:{tmp_path / name}?capacity=256MiB&decline=no" for name in "ab")
    with life(model, one) as book:
        *_, (said, computed, logits) = [asked(book, text) for text in (*SAID, "go on")]
    with life(model, two) as book:
        for text in SAID:
            asked(book, text)
        kept, held = state(book.current), book.current.held
    with life(model, two, "main") as book:
        assert state(book.current) == kept
        with chatting.Computed(model.model) as nothing:
            assert book.load() == held == len(book.current.tokens) - 1
        assert (nothing.tokens, book.loaded_tokens) == (0, held)
        later, computed_later, logits_later = asked(book, "go on")
    assert (later, computed_later) == (said, computed)
    assert len(logits_later) == len(logits) >= NINE
    assert all(one.equal(other) for one, other in zip(logits_later, logits, strict=True))


def test_an_evicted_session_comes_back_from_the_tier(chatting: Any, url: str) -> None:
    with life(chatting.tiny(), f"{url}&decline=no") as book:
        book.ask(SAID[0], NINE, chatting.Heard())
        held = book.current.held
        book.manager.remove_cache_entry(book.current.key)
        assert book.remedy == "loaded or computed again"
        turn = book.ask("more", NINE, chatting.Heard())
        assert (turn.reused_tokens, turn.loaded_tokens) == (held, held)


def test_a_new_chat_leaves_the_sessions_of_earlier_ones(chatting: Any, url: str) -> None:
    model = chatting.tiny()
    kept = []
    for name in ("main", "main-2", "main-3"):
        with life(model, url) as book:
            assert book.current.name == name
            book.ask(f"hello from {name}", NINE, chatting.Heard())
            kept.append(state(book.current))
            before = book.names()
            for make in (book.new, book.fork):
                if len(kept) > 1:
                    with pytest.raises(ChatError, match="keep session 'main' of another chat"):
                        make("main")
            assert book.names() == before
    for one in kept:
        with life(model, url, str(one[0])) as book:
            assert state(book.current) == one


def test_of_two_chats_at_once_none_takes_the_place_of_the_other(chatting: Any, url: str) -> None:
    model = chatting.tiny()
    store = ChatStore([open_level(url)])
    books = []
    for _ in range(2):
        manager = KVCacheManager("64MiB", tiers=store, receipts=False)
        keeper = SessionKeeper(store, model.identity(manager), model.name)
        books.append(SessionBook(manager, model, keeper=keeper))
    assert [book.current.name for book in books] == ["main", "main"]
    for number, book in enumerate(books):
        book.ask(f"hello from {number}", NINE, chatting.Heard())
        book.ask("more", NINE, chatting.Heard())
    assert [book.names() for book in books] == [["main"], ["main-2"]]
    kept = [state(book.current) for book in books]
    for book in books:
        book.manager.close()
    assert store.drain(60) == 0
    store.close()
    for one in kept:
        with life(model, url, str(one[0])) as book:
            assert state(book.current) == one


def test_every_session_is_kept_until_it_is_deleted(chatting: Any, url: str) -> None:
    model = chatting.tiny()
    with life(model, url) as book:
        book.ask("hello", NINE, chatting.Heard())
        trunk = state(book.current)[1:]
        book.fork("branch")
        book.new("third")
        book.ask("something else", NINE, chatting.Heard())
        book.drop("main")
        book.new("empty")
        book.switch("third")
    for name, expected in (("branch", trunk), ("", None)):
        with life(model, url, name) as book:
            assert (book.current.name, expected or state(book.current)[1:]) == (
                name or "third",
                state(book.current)[1:],
            )
    for name in ("main", "empty"):
        with (
            pytest.raises(ChatError, match=f"no session '{name}' .*; they have third, branch$"),
            life(model, url, name),
        ):
            pass
    with life(model, url, "third") as book:
        book.reset()
        book.drop("third")
    with life(model, url, "") as book:
        assert book.current.name == "branch"


# -- finding -----------------------------------------------------------------------------

IDENTITY = Identity("ours", "", KVLayout(2, 2, 16, "float32"))


@pytest.mark.parametrize("name", ["", "main", "chat"])
@pytest.mark.parametrize(
    "other",
    [
        IDENTITY._replace(model_id="theirs"),
        IDENTITY._replace(layout=KVLayout(2, 2, 16, "float16")),
    ],
)
def test_a_session_of_another_model_is_refused(url: str, other: Identity, name: str) -> None:
    with ChatStore([open_level(url)]) as store:
        ours, theirs = (
            SessionKeeper(store, identity, model)
            for identity, model in ((IDENTITY, "small"), (other, "la\x1brge"))
        )
        messages = [{"role": "user", "content": "hello"}]
        theirs.keep(ChatSession("main", messages, "hello", [1, 2, 3]))
        TierStore.put_session(store, IDENTITY, CacheKey("chat", "chat"), token_bytes([1, 2]))
        TierStore.put_session(store, IDENTITY, CacheKey("chat", 7), token_bytes([1, 2]), b"{}")
        assert store.drain(60) == 0
        with pytest.raises(ChatError) as caught:
            ours.find(name)
        if name == "chat":  # that of a program, without messages
            assert str(caught.value) == (
                "the tiers have no session to resume; start one without --resume"
            )
        else:
            assert str(caught.value) == (
                "session 'main' in the tiers is of another model (la\\x1brge, cache "
                f"2 x 2 x 16 {other.layout.dtype}) than this chat (small, cache 2 x 2 x 16 "
                "float32); start the chat with the weights and the --dtype of that model"
            )
        ours.keep(ChatSession("main", messages, "hi", [4, 5]))
        assert store.drain(60) == 0
        assert (ours.find("main").text, theirs.find("").text) == ("hi", "hello")


# -- faults ------------------------------------------------------------------------------


@pytest.mark.integration
def test_a_chat_goes_on_without_its_tier(chatting: Any, tmp_path: Path) -> None:
    model = chatting.tiny()
    with RedisServer(tmp_path) as redis:
        store = ChatStore([open_level(redis.url)])
        with KVCacheManager("64MiB", tiers=store, receipts=False) as manager:
            keeper = SessionKeeper(store, model.identity(manager), model.name)
            book = SessionBook(manager, model, keeper=keeper)
            book.ask("hello", NINE, chatting.Heard())
            assert store.drain(60) == 0
            redis.kill()
            turn = book.ask("more", NINE, chatting.Heard())
            assert (turn.answer_tokens, turn.loaded_tokens) == (NINE, 0)
            before = state(book.current), book.current.held
            for act in (book.reset, lambda: book.drop("main")):
                with pytest.raises(TierError, match="may keep session 'main': cannot remove"):
                    act()
                assert (state(book.current), book.current.held) == before
            with pytest.raises(TierError):
                keeper.find("")
        store.close(0.0)


# -- the command -------------------------------------------------------------------------

TINY = "--tiny", "--temperature", "0", "--max-new-tokens", "8"


def chat(*arguments: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KVPOOL, "chat", *TINY, *arguments],
        env=environment(OMP_NUM_THREADS="1"),
        input=lines,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_a_later_command_answers_as_an_earlier_one_would(url: str) -> None:
    whole = chat("--tier", "memory:", lines="hello\nmore\n")
    assert (whole.returncode, whole.stderr) == (0, "")
    first = chat("--tier", url, lines="hello\n")
    assert (first.returncode, first.stderr) == (0, "")
    second = chat("--resume", "--tier", url, lines="more\n/stats\n")
    answer, *table = second.stdout.splitlines()
    assert (second.returncode, [*first.stdout.splitlines(), answer]) == (
        0,
        whole.stdout.splitlines(),
    )
    told, _, _ = second.stderr.partition(" of them from tiers, 1 to compute\n")
    assert told.startswith("resumed main: 2 messages, ")
    loaded = next(line for line in table if "tokens loaded" in line)
    assert loaded.split()[2:] == [told.split()[-1], "from", "tiers"]
    other = chat("--tier", url, lines="hello\n")
    assert (other.returncode, other.stdout) == (0, first.stdout)
    assert other.stderr == (
        "the tiers keep main of an earlier chat, which --resume main goes on with: this session is "
        "main-2\n"
    )
    nobody = chat("--tier", url, "--resume", "nobody")
    assert (nobody.returncode, nobody.stdout) == (2, "")
    assert nobody.stderr == (
        "kvpool: the tiers have no session 'nobody' to resume; they have main-2, main\n"
    )


def test_a_chat_that_is_killed_in_an_answer_is_resumed_before_it(url: str) -> None:
    command = [KVPOOL, "chat", "--tiny", "--seed", "1", "--max-new-tokens", "3000", "--tier", url]
    with subprocess.Popen(
        command, env=environment(OMP_NUM_THREADS="1"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"/new first\n")
        process.stdin.flush()
        for text in (b"hello\n", b"more\n"):
            process.stdin.write(text)
            process.stdin.flush()
            answer = process.stdout.read(1)
            assert answer
            if text == b"hello\n":
                process.stdout.readline()
                wait_until_kept(url)
        process.kill()
    again = chat("--tier", url, "--resume", lines="go on\n")
    assert (again.returncode, again.stderr.startswith("resumed first: 2 messages")) == (0, True)


def wait_until_kept(url: str) -> None:
    """Wait until a tier that another process has open keeps a session."""
    until = time.monotonic() + 120
    with TierStore([f"{url}&readonly=yes"]) as store:
        while not store.sessions():
            assert time.monotonic() < until
            time.sleep(0.05)


def test_resuming_needs_a_tier() -> None:
    done = run("chat", "--tiny", "--resume")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pass --tier URL" in done.stderr


@pytest.mark.parametrize("url", ["disk:{}/file/below", "redis://user:secret@127.0.0.1:1/0"])
def test_a_tier_that_cannot_be_opened_is_named(tmp_path: Path, url: str) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = run("chat", "--tiny", "--tier", url.format(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot open the tier {url.partition(':')[0]}:" in done.stderr
    assert "secret" not in done.stderr + done.stdout


def test_a_session_that_does_not_fit_is_an_error_and_the_chat_goes_on(url: str) -> None:
    assert chat("--tier", url, lines="hello " * 40).returncode == 0
    done = chat("--tier", url, "--resume", "main", "--max-context", "32", lines="/new a\nhi\n")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1)
    assert done.stderr.startswith("kvpool: main is not loaded: ")
    assert "0 of them from tiers" in done.stderr


@needs_a_terminal
def test_an_answer_that_ctrl_c_stopped_is_resumed(url: str) -> None:
    talk = "chat", "--tiny", "--seed", "1", "--max-new-tokens", "3000", "--tier", url
    with Terminal(*talk, interrupted=True) as terminal:
        terminal.wait_for("main>")
        terminal.press("hello\r")
        terminal.wait_for("[a-z]{3,} [a-z]{3,}")
        terminal.press("\x03")
        terminal.wait_for("(?s)answered.*main>")
        terminal.press("/quit\r")
        assert terminal.leave() == 0
    assert "Traceback" not in terminal.shown
    with Terminal(*talk, "--resume", interrupted=True) as terminal:
        shown = terminal.wait_for("main>")
        assert "resumed main: 2 messages, " in shown
        assert "user: hello" in shown
        assert "assistant: " in shown
        terminal.press("\x04")
        assert terminal.leave() == 0
    assert "Traceback" not in terminal.shown


@needs_a_terminal
@pytest.mark.integration
def test_ctrl_c_in_the_middle_of_a_load_ends_the_chat(tmp_path: Path) -> None:
    with FaultyServer(tmp_path, "slow") as server:
        url = f"{server.url}?budget=30&timeout=60"
        assert chat("--tier", url, lines="hello " * 100).returncode == 0
        server.begin()
        with Terminal("chat", *TINY, "--tier", url, "--resume", interrupted=True) as terminal:
            terminal.wait_for("loading, [0-9]+ tokens")
            terminal.press("\x03")
            assert terminal.leave() == 130
        server.end()
        assert "Traceback" not in terminal.shown
        again = chat("--tier", url, "--resume", lines="more\n")
        assert (again.returncode, again.stderr.startswith("resumed main: 2 messages")) == (0, True)
