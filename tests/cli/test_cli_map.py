"""`kvpool map`, run as a user runs it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.called import run
from tests.support.marks import needs_pages
from tests.support.terminal import in_terminal


def shown(*arguments: str, encoding: str = "utf-8") -> str:
    done = run("map", *arguments, encoding=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@needs_pages
@pytest.mark.parametrize("elastic_backend", ["mmap", "ctypes"])
def test_what_is_reserved_committed_and_shared(elastic_backend: str) -> None:
    text = shown("--backend", elastic_backend)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(sign < " " for line in lines for sign in line)
    rows = [line for line in lines if re.match(r" \d+( of \d+)?  ", line)]
    assert len(rows) == 9
    assert sum(" of " in row for row in rows) == 4
    for row in rows:
        assert re.search(r"2\.0 MiB +[\d.]+ [KM]iB +[\d.]+ ([KM]i)?B +▒*█*·* *$", row), row
    agreed = re.search(r"([\d,]+) bytes by kvpool, ([\d,]+) by the system\.", text)
    assert agreed
    assert agreed[1] == agreed[2]


def test_whole_blocks_and_copies() -> None:
    text = shown("--backend", "numpy", "--sessions", "3", "--forks", "2")
    assert text.count("█" * 20) == 5
    assert "10.0 MiB committed of 10.0 MiB reserved; 0 sessions evicted." in text
    assert "2 forks are copies: this arena cannot share pages." in text
    assert "by the system" not in text


def test_sessions_are_evicted_from_a_small_pool(backend: str) -> None:
    text = shown("--backend", backend, "--capacity", "5MiB", "--sessions", "9", "--forks", "9")
    assert re.search(r"reserved; [1-9]\d* sessions? evicted\.", text)


@needs_pages
def test_pages_that_outlive_their_session_for_its_forks() -> None:
    text = shown("--backend", "ctypes", "--capacity", "5MiB", "--forks", "8")
    assert re.search(r" \d+ \(evicted\) +- ", text)


def test_a_conversation_that_is_as_long_as_can_be(backend: str) -> None:
    text = shown("--backend", backend, "--max-context", "8", "--sessions", "2", "--forks", "1")
    assert re.search(r"^ 2 of \d +8 ", text, re.MULTILINE)


def test_another_seed_makes_another_map() -> None:
    assert shown("--seed", "1") == shown("--seed", "1") != shown("--seed", "2")


@needs_pages
def test_a_console_without_unicode() -> None:
    text = shown("--backend", "mmap", encoding="ascii")
    assert text.isascii()
    assert re.search(r"%+#+\.+", text)


@pytest.mark.skipif(sys.platform == "win32", reason="the standard library opens no terminals here")
def test_a_terminal_shows_colours() -> None:
    with in_terminal("map") as (process, chunks):
        text = "".join(chunks)
    assert process.returncode == 0
    assert "\x1b[" in text
    assert "Use of the capacity" in text


@needs_pages
def test_json_has_the_figures_of_the_drawing() -> None:
    figures = json.loads(shown("--backend", "mmap", "--json"))
    sessions = figures["sessions"]
    assert len(sessions) == 9
    assert sum(one["is_fork"] for one in sessions) == 4
    assert sum(one["committed"] for one in sessions) == figures["committed"]
    assert figures["committed_by_system"] < figures["committed"] < figures["reserved"]
    assert (figures["elastic"], figures["copied_forks"]) == (True, 0)
    rows = re.findall(r"^ (\d+(?: of \d+)?) +([\d,]+) ", shown("--backend", "mmap"), re.MULTILINE)
    assert rows == [(one["session"], f"{one['tokens']:,}") for one in sessions]


@needs_pages
def test_json_of_a_session_that_was_evicted() -> None:
    options = ("--backend", "mmap", "--capacity", "5MiB", "--forks", "8")
    sessions = json.loads(shown(*options, "--json"))["sessions"]
    evicted = [one for one in sessions if one["is_evicted"]]
    assert evicted
    assert {one["tokens"] for one in evicted} == {None}


@pytest.mark.skipif(sys.platform == "win32", reason="the standard library opens no terminals here")
def test_a_terminal_without_colours_shows_the_same_with_characters() -> None:
    with in_terminal("map", "--backend", "mmap", NO_COLOR="1") as (process, chunks):
        text = "".join(chunks)
    assert process.returncode == 0
    assert re.search(r"▒+█+·+", text)
    assert re.search(r"▕0░+▕", text)


# -- the picture -------------------------------------------------------------------------


def test_a_picture(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "map.SVG"
    shown("--backend", backend, "-o", str(path))
    picture = path.read_text(encoding="utf-8")
    assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    assert "session" in picture
    assert picture.count("http") == 1  # the name of the format: nothing is fetched


def test_a_picture_of_another_format() -> None:
    done = run("map", "-o", "map.gif")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'map.gif'" in done.stderr


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "map.svg"
    done = run("map", "--output", str(path))
    assert done.returncode == 1
    assert done.stderr == f"kvpool: cannot write {path}: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "reason", "code"),
    [
        (("--backend", "nowhere"), "unknown backend 'nowhere'", 2),
        (("--backend", "numpy", "--elastic"), "numpy", 2),
        (("--backend", "numpy", "--capacity", "64KiB"), "cannot allocate", 1),
    ],
)
def test_what_cannot_be(arguments: tuple[str, ...], reason: str, code: int) -> None:
    done = run("map", *arguments)
    assert done.returncode == code
    assert done.stderr.startswith("kvpool: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr
