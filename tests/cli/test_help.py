"""The help of all commands, as a user asks for it."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kvpool.cli import app


def commands(command: Any, *names: str) -> dict[tuple[str, ...], Any]:
    """Return all commands below one, by the words that call them."""
    found = {names: command}
    for name, below in getattr(command, "commands", {}).items():
        found |= commands(below, *names, name)
    return found


COMMANDS = commands(typer.main.get_command(app))


def run(*arguments: str, columns: int = 80) -> Any:
    terminal = {"TERM": "dumb", "COLUMNS": str(columns)}
    return CliRunner().invoke(app, arguments, prog_name="kvpool", env=terminal)


@functools.cache
def help_of(*names: str, columns: int = 80) -> str:
    """Return the help text of a command, which is drawn once for all tests."""
    shown: str = run(*names, "--help", columns=columns).stdout
    return shown


def test_all_commands_are_here() -> None:
    assert {("replay",), ("demo",), ("map",), ("chat",), ("receipts", "verify")} <= set(COMMANDS)


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_short_and_long_help_are_one(names: tuple[str, ...]) -> None:
    short = run(*names, "-h")
    assert (short.exit_code, short.stderr) == (0, "")
    assert short.stdout == help_of(*names)
    assert "Usage: kvpool" in short.stdout


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_bad_usage_has_exit_code_2(names: tuple[str, ...]) -> None:
    done = run(*names, "--no-such-option")
    assert (done.exit_code, done.stdout) == (2, "")


def test_a_text_that_several_commands_share_is_the_same_object() -> None:
    """An option that has another text in another command means something else there."""
    shared = Counter(
        (option, parameter.help)
        for command in COMMANDS.values()
        for parameter in command.params
        for option in parameter.opts
    )
    for option in ("--backend", "--elastic"):
        assert len([text for name, text in shared if name == option]) == 1


def test_defaults_are_shown_in_one_form() -> None:
    for names in COMMANDS:
        shown = " ".join(help_of(*names).replace("│", " ").split())
        assert "default: (" not in shown
        assert not re.search(r"(?i)\bby default\b", shown)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_a_line_is_as_long_as_the_terminal_lets_it_be(names: tuple[str, ...], columns: int) -> None:
    """A paragraph is wrapped once, for the terminal, and not where the docstring was."""
    shown = re.split("\u256d|^[A-Z]\\w+:$", help_of(*names, columns=columns), flags=re.MULTILINE)
    for line, after in itertools.pairwise(line.strip() for line in shown[0].splitlines()):
        if line and after:
            assert len(line) + 1 + len(after.split()[0]) > columns - 4


@pytest.mark.no_cover
@pytest.mark.parametrize("columns", [50, 60, 79, 80, 120])
@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_nothing_is_cut(names: tuple[str, ...], columns: int) -> None:
    """Names of options, what they accept and their defaults are there at any width."""
    shown = help_of(*names, columns=columns)
    assert "…" not in shown
    assert not re.search(r"\w\.\.\.$", shown, flags=re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= columns
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", shown).split())
    for parameter in COMMANDS[names].params:
        for name in [*parameter.opts, *parameter.secondary_opts]:
            if name.startswith("-"):
                assert re.search(rf"{name}\b", words)
    for name in getattr(COMMANDS[names], "commands", {}):
        assert f" {name} " in words


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_help_in_a_narrow_terminal_has_the_texts_of_a_wide_one(names: tuple[str, ...]) -> None:
    narrow, wide = (
        set(re.findall(r"[\w.-]+\b", help_of(*names, columns=columns))) for columns in (60, 200)
    )
    # A table gives flags a type too; that of typer 0.26 has the names of arguments and their type.
    arguments = {parameter.name for parameter in COMMANDS[names].params}
    assert wide - narrow <= {"bool", "PATH", *arguments}
