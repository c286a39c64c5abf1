"""What the pages show of a terminal is what a terminal shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from kvpool.cli import app
from tests.support.docs_pages import DOCS, ROOT, blocks, run_python
from tests.support.terminal import run_in

# What differs from one run to the next: hashes and ids, moments, and what happened at which.
_VARYING = (
    (re.compile(r"\b(?:[0-9a-f]{32}){1,4}\b"), "HEX"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+Z?)?"), "MOMENT"),
    (re.compile(r"[\d.]+ s per row"), "PERIOD"),
    (re.compile(r"[█-▏]+ \d+$|(?<=^MOMENT )0$", re.MULTILINE), "BAR"),
)


def settled(text: str) -> list[str]:
    """Return the lines of a text without what differs from run to run."""
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return [line.rstrip() for line in text.splitlines()]


def shows(page: list[str], terminal: list[str]) -> bool:
    """Tell whether lines of a page are those of a terminal; ``...`` stands for any lines."""
    if "..." not in page:
        return page == terminal
    cut = page.index("...")
    head, rest = page[:cut], page[cut + 1 :]
    if terminal[:cut] != head:
        return False
    return any(shows(rest, terminal[start:]) for start in range(cut, len(terminal) + 1))


def in_terminal(command: str, folder: Path) -> str:
    program, *arguments = shlex.split(command)
    assert program == "kvpool"
    done = run_in(folder, *arguments, TERM="dumb")
    return done.stdout + done.stderr


def steps(text: str) -> list[tuple[str, list[str]]]:
    """Return the commands of a block, each with the output that follows it."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.mark.parametrize("name", ["verifying-a-ledger.md"])
def test_the_terminal_shows_what_the_page_shows(name: str) -> None:
    page, names = DOCS / name, dict[str, Any]()
    compared = 0
    for block in blocks(page):
        if block.language == "python":
            run_python(page, block, names)
        elif block.language == "console":
            for command, output in steps(block.text):
                if output:
                    shown = settled(in_terminal(command, names["folder"]))
                    expected = settled("\n".join(output))
                    assert shows(expected, shown), (command, shown)
                    compared += 1
    assert compared > 5


def commands_of_pages() -> list[Any]:
    """Return what the pages have a reader type."""
    found = []
    for page in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]:
        for block in blocks(page):
            text = block.text.replace("\\\n", " ")
            typed = re.findall(r"^\$ (?:.*\| )?kvpool (.+?)(?: +#.*)?$", text, re.MULTILINE)
            if block.language == "console":
                found += [pytest.param(one, id=f"{page.name}: {one}") for one in typed]
    return found


@pytest.mark.parametrize("command", commands_of_pages())
def test_what_a_page_has_one_type_is_accepted(command: str) -> None:
    """The command and its options exist, and take values of this form."""
    words = iter(shlex.split(command))
    at: Any = typer.main.get_command(app)
    names = ["kvpool"]
    while hasattr(at, "commands"):
        names.append(next(words))
        at = at.commands[names[-1]]
    at.make_context(" ".join(names), list(words))


@pytest.mark.parametrize(
    ("page", "terminal", "same"),
    [
        ("a\nb", "a\nb", True),
        ("a\nb", "a\nc", False),
        ("a\n...\nb", "a\nx\ny\nb", True),
        ("a\n...\nb", "a\nb", True),
        ("a\n...", "a", True),
        ("a\n...\nb", "a\nx\nb\nc", False),
        ("a\n...\nb", "x\nb", False),
        ("head " + "0f" * 32, "head " + "a1" * 32, True),
        ("head " + "0f" * 32, "head " + "a1" * 31, False),
        ("at 2026-01-31 12:00:00 x", "at 2027-12-31 23:59:59 x", True),
    ],
)
def test_how_it_is_compared(page: str, terminal: str, same: bool) -> None:
    assert shows(settled(page), settled(terminal)) is same
