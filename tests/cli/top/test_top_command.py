"""`kvpool top` as a user runs it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.called import run
from tests.support.http_answers import Answer, AnsweringServer

POOL = b'kvpool_pool_capacity_bytes 4194304\nkvpool_entries{state="unpinned"} 9\n'

if sys.platform != "win32":
    from tests.support.pseudo_terminal import Terminal

needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


def pool(_headers: Mapping[str, str]) -> Answer:
    return Answer(POOL)


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    with AnsweringServer(pool) as server:
        yield server


def test_without_a_terminal_there_is_one_table(server: AnsweringServer) -> None:
    done = run("top", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "9 unpinned" in done.stdout
    assert done.stdout.startswith(f"kvpool top {server.url} ")
    assert "\x1b" not in done.stdout


def test_a_server_that_is_not_there_is_one_line_and_exit_code_1() -> None:
    with AnsweringServer(pool) as server:
        pass
    done = run("top", server.url)
    assert (done.returncode, done.stdout) == (1, "")
    expected = f"kvpool: cannot read {server.url}/metrics: Connection refused\n"
    assert done.stderr == expected


def test_a_bad_address_is_bad_usage() -> None:
    done = run("top", "file:///etc/passwd")
    assert done.returncode == 2
    assert "invalid address" in done.stderr
    assert "file:///etc/passwd" in done.stderr


@pytest.mark.parametrize("interval", ["0", "inf", "nan"])
def test_a_bad_interval_is_bad_usage(interval: str) -> None:
    done = run("top", "host", "--interval", interval, COLUMNS="200")
    assert done.returncode == 2
    assert "Invalid value for '--interval'" in done.stderr


@pytest.mark.parametrize("how", ["file", "variable"])
@pytest.mark.parametrize("keys", ["abc\n", "abc second"])
def test_the_first_key_is_sent(how: str, keys: str, tmp_path: Path) -> None:
    def answer(headers: Mapping[str, str]) -> Answer:
        return Answer(POOL) if headers.get("Authorization") == "Bearer abc" else Answer(b"", 401)

    (tmp_path / "key").write_text(keys, encoding="utf-8")
    options = ["--api-key-file", str(tmp_path / "key")] if how == "file" else []
    variables = {"KVPOOL_API_KEY": keys} if how == "variable" else {}
    with AnsweringServer(answer) as server:
        assert run("top", server.url, *options, **variables).returncode == 0
        assert run("top", server.url).returncode == 1


@pytest.mark.parametrize("text", [None, "", "\n"])
def test_a_file_without_a_key_is_bad_usage(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "key").write_text(text, encoding="utf-8")
    done = run("top", "host", "--api-key-file", str(tmp_path / "key"))
    assert done.returncode == 2
    assert "--api-key-file" in done.stderr


@pytest.mark.parametrize("key", ["schl\u00fcssel", "\u65e5\u672c", "a\x7fb"])
def test_a_key_that_no_server_has_is_bad_usage_and_not_shown(key: str) -> None:
    done = run("top", "host", KVPOOL_API_KEY=key)
    assert done.returncode == 2
    assert "KVPOOL_API_KEY" in done.stderr
    assert key not in done.stderr


@needs_terminal
def test_figures_are_drawn_anew_until_ctrl_c() -> None:
    answers = itertools.count(1)
    body = 'kvpool_entries{{state="unpinned"}} {}\n'

    def answer(_headers: Mapping[str, str]) -> Answer:
        return Answer(body.format(next(answers)).encode())

    options = ("--interval", "0.1")
    with (
        AnsweringServer(answer) as server,
        Terminal("top", server.url, *options, interrupted=True) as it,
    ):
        it.wait_for(r"\b\d+ unpinned")
        it.wait_for(r"\b([5-9]|\d\d+) unpinned")  # an answer that comes too late is not shown
        it.press("\x03")
        assert it.leave("\x03") == 130
    assert "Traceback" not in it.shown
    assert "\x1b[?1049l" in it.raw  # what was on the screen before is there again


@needs_terminal
def test_figures_stay_while_the_server_is_away() -> None:
    with AnsweringServer(pool) as server:
        it = Terminal("top", server.url, "--interval", "0.1", interrupted=True)
        it.wait_for("9 unpinned")
    with it:
        it.wait_for(r"(?s)Connection refused; last read.*9 unpinned")
        with AnsweringServer(lambda _: Answer(POOL.replace(b"9", b"8")), server.port):
            it.wait_for("8 unpinned")
        it.press("\x03")
        assert it.leave("\x03") == 130


@needs_terminal
def test_once_prints_one_table_in_a_terminal_too(server: AnsweringServer) -> None:
    with Terminal("top", server.url, "--once") as it:
        it.wait_for("9 unpinned")
        assert it.leave() == 0
    assert "\x1b[?1049h" not in it.raw
