"""``kvpool backends``: list the backends, and say why a broken one cannot be used."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvpool.arena import ArenaBackend
from kvpool.backends import registry
from kvpool.cli._options import JsonOption
from kvpool.plugins import PluginReport, PluginState

__all__ = ["backends"]

Report = PluginReport[ArenaBackend]

STYLES = {
    PluginState.OK: "green",
    PluginState.DISABLED: "dim",
    PluginState.CONFLICT: "yellow",
    PluginState.BROKEN: "red",
}


def backends(
    as_json: JsonOption = False,
    options: Annotated[
        bool, typer.Option("--options", help="Also show the options of each backend.")
    ] = False,
) -> None:
    """List the storage backends; for a broken one, show the reason."""
    reports = _reports()
    if as_json:
        typer.echo(json.dumps(_document(reports), indent=2))
        return
    # Without markup, because reasons are error texts, which may contain brackets.
    console = Console(markup=False, highlight=False, emoji=False)
    console.print(_table(reports))
    if any(report.reason for report in reports):
        console.print(_reasons(reports))
    if options:
        console.print(_options(reports))
    console.print(_choice(reports))


def _reports() -> list[Report]:
    """Load all backends. Their warnings are in the rows; what they print goes to stderr."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        return registry.reports()


def _capabilities(report: Report) -> list[str]:
    return list(report.plugin.capabilities.names()) if report.plugin else []


def _document(reports: list[Report]) -> dict[str, object]:
    return {
        "chosen": registry.chosen_name(),
        "chosen_by": registry.chosen_by(),
        "backends": [
            {
                "name": report.name,
                "distribution": report.distribution,
                "version": report.version,
                "capabilities": _capabilities(report),
                "state": report.state.value,
                "reason": report.reason,
                "summary": report.plugin.summary if report.plugin else "",
                "options": dict(report.plugin.options) if report.plugin else {},
            }
            for report in reports
        ],
    }


def _choice(reports: list[Report]) -> str:
    """Return a line that names the default backend, and says whether it can be used."""
    chosen = registry.chosen_name()
    states = [report.state for report in reports if report.name == chosen]
    state = states[0].value if states else "unknown"
    trouble = "" if state == PluginState.OK else f"; it is {state}"
    return f"Default backend: {chosen} ({registry.chosen_by()}){trouble}."


def _table(reports: list[Report]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", overflow="fold")
    table.add_column("distribution", overflow="fold")
    table.add_column("version", overflow="fold")
    table.add_column("capabilities", overflow="fold")
    table.add_column("state", no_wrap=True)
    for report in reports:
        table.add_row(
            report.name,
            report.distribution,
            report.version,
            " ".join(_capabilities(report)) or "-",
            Text(report.state.value, STYLES[report.state]),
        )
    return table


def _reasons(reports: list[Report]) -> Table:
    """Return a table of the reasons, below the other one: sentences need the whole width."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for report in reports:
        if report.reason:
            table.add_row(Text(report.name, STYLES[report.state]), report.reason)
    return table


def _options(reports: list[Report]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("option", no_wrap=True)
    table.add_column("meaning", overflow="fold")
    for report in reports:
        for option, meaning in (report.plugin.options if report.plugin else {}).items():
            table.add_row(report.name, option, meaning)
    return table
