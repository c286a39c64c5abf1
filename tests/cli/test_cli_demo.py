"""`kvpool demo`, run as a user runs it."""

from __future__ import annotations

import json
import re
import signal
import sys

import pytest

from tests.support.called import run
from tests.support.terminal import in_terminal

needs_a_terminal = pytest.mark.skipif(
    sys.platform == "win32", reason="the standard library opens no terminals here"
)


@pytest.fixture(scope="module")
def shown(backend: str) -> str:
    """What the demo prints into a pipe."""
    done = run("demo", "--backend", backend)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_in_a_pipe_it_is_plain_text(shown: str, backend: str) -> None:
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(sign < " " for line in lines for sign in line)
    assert sum("one character is" in line for line in lines) == 5  # a map for each phase
    assert re.search(r"checksum failures +0\b", shown)
    assert backend in shown


def test_it_has_hits_and_evictions_of_both_kinds() -> None:
    done = run("demo", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert figures["complete"]
    assert figures["requests"] == 160
    assert figures["checksum_failures"] == 0
    assert figures["hits"] > 40
    assert figures["tokens"]["reused"] > 10_000
    assert figures["evictions"]["lru"] > 10
    assert figures["evictions"]["ttl"] > 0


def test_a_conversation_branches(shown: str, backend: str) -> None:
    if backend == "numpy":
        assert "4 forks are copies: this arena cannot share pages." in shown
    else:
        found = re.search(r"4 forks share (\d+\.\d) MiB of pages and have (\d+\.\d) MiB", shown)
        assert found
        assert float(found[1]) > 2 * float(found[2]) > 0


@pytest.mark.no_cover
@pytest.mark.parametrize("drawn", ["mmap", "numpy"], ids=["pages", "blocks"])
def test_a_console_without_unicode(drawn: str) -> None:
    done = run("demo", "--backend", drawn, encoding="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "...." in done.stdout
    assert "=|" in done.stdout


def test_a_backend_that_is_not_there() -> None:
    done = run("demo", "--backend", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kvpool: unknown backend 'nowhere'")


@needs_a_terminal
def test_in_a_terminal_it_is_drawn_in_one_place() -> None:
    with in_terminal("demo", "--seconds", "0") as (process, chunks):
        shown = "".join(chunks)
    assert process.returncode == 0
    assert "\x1b[" in shown
    assert "Sessions return" in shown
    assert "checksum failures" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is back


@needs_a_terminal
def test_ctrl_c_ends_it_with_what_there_is() -> None:
    with in_terminal("demo", "--seconds", "60", interrupted=True) as (process, chunks):
        shown = next(chunks)
        while "requests" not in shown:
            shown += next(chunks)
        process.send_signal(signal.SIGINT)
        shown += "".join(chunks)
    assert process.returncode == 130
    assert "kvpool: interrupted after" in shown
    assert "Incomplete" in shown
    assert "Traceback" not in shown
    assert shown.count("\x1b[?25h") == 1
