"""Figures are whole in a console of any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from kvpool.cli._tables import Figures, Fitted


def shown(renderable: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def table() -> Table:
    made = Table(title="pools", show_footer=True)
    made.add_column("policy", "all", no_wrap=True)
    made.add_column("hit blocks", "3,000,000", justify="right", no_wrap=True)
    made.add_column("", no_wrap=True)
    made.add_row("lru", "1,234,567", "-")
    made.add_row("hit-density", "2,345,678", "")
    return made


def test_a_table_that_fits_is_a_table() -> None:
    lines = shown(Fitted(table()), 60).splitlines()
    assert any("lru" in line and "1,234,567" in line for line in lines)


@pytest.mark.parametrize("width", [25, 30])
def test_a_table_that_does_not_fit_becomes_lines(width: int) -> None:
    text = shown(Fitted(table()), width)
    assert "…" not in text
    lines = [line.split() for line in text.splitlines()]
    assert ["policy", "hit-density"] in lines
    assert ["hit", "blocks", "2,345,678"] in lines
    assert ["hit", "blocks", "3,000,000"] in lines  # of the footer
    assert ["pools"] in lines


GROUPS = ([("requests", "160"), ("session hits", "91")], [("capacity", "512.0 MiB")])


def test_groups_of_figures_stand_beside_each_other() -> None:
    assert [line.split() for line in shown(Figures(GROUPS), 60).splitlines() if line.strip()] == [
        ["requests", "160", "capacity", "512.0", "MiB"],
        ["session", "hits", "91"],
    ]


def test_groups_of_figures_stand_below_each_other() -> None:
    assert [line.split() for line in shown(Figures(GROUPS), 30).splitlines() if line.strip()] == [
        ["requests", "160"],
        ["session", "hits", "91"],
        ["capacity", "512.0", "MiB"],
    ]
