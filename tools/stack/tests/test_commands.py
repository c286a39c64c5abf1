"""The README has every command of the tool, in the words of its help."""

from __future__ import annotations

import re

import typer

from milestones.cli import app

from .scratch import ROOT, Scratch


def table() -> list[str]:
    """Return the rows of the table, as the commands have them."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    helps = {name: (one.help or "").strip() for name, one in group.commands.items()}
    return [f"| `{name}` | {text.partition(chr(10))[0]} |" for name, text in helps.items()]


def test_the_readme_has_every_command_in_the_words_of_its_help() -> None:
    _, _, text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Commands\n")
    section = text.partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == table()


def test_every_help_says_what_each_option_is_for() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    for name, command in group.commands.items():
        for parameter in command.params:
            assert getattr(parameter, "help", ""), f"{name} {parameter.name}"


def test_every_default_that_a_help_names_is_shown(scratch: Scratch) -> None:
    """Brackets are marks of colour to the printer, if they are not escaped."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    found = 0
    for name, command in group.commands.items():
        words = " ".join(scratch.run(name, "--help", columns=200).text.split())
        for parameter in command.params:
            for default in re.findall(r"\[default: [^]]*\]", getattr(parameter, "help", "")):
                assert default in words, f"{name} {parameter.name}"
                found += 1
    assert found > 5
