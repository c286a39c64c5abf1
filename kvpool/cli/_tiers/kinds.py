"""The kinds of tiers and codecs that there are, as tables and as JSON."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvpool.plugins import PluginReport, PluginState
from kvpool.tiers import LEVEL_OPTIONS, codec_registry, registry

__all__ = ["kinds_document", "print_kinds"]

_STYLES = {
    PluginState.OK: "green",
    PluginState.DISABLED: "dim",
    PluginState.CONFLICT: "yellow",
    PluginState.BROKEN: "red",
}


class _Kind(NamedTuple):
    """Plugins that describe themselves alike: one kind of tier under several schemes."""

    names: tuple[str, ...]
    report: PluginReport[Any]

    @property
    def options(self) -> dict[str, str]:
        return dict(self.report.plugin.options) if self.report.plugin else {}

    @property
    def summary(self) -> str:
        return self.report.plugin.summary if self.report.plugin else self.report.reason

    @property
    def lacks(self) -> str:
        """What has to be installed before it can be used."""
        plugin = self.report.plugin
        return "" if plugin is None or plugin.is_installed else str(plugin.extra)


def kinds_document() -> dict[str, object]:
    """Return the kinds of tiers and codecs as JSON has them."""
    return {
        "kinds": [
            _entry(kind) | {"schemes": list(kind.names)} for kind in _kinds(_reports(registry))
        ],
        "level_options": dict(LEVEL_OPTIONS),
        "codecs": [_entry(kind) | {"name": kind.names[0]} for kind in _codecs()],
    }


def print_kinds(console: Console, *, options: bool) -> None:
    """Print the kinds of tiers and codecs.

    Parameters
    ----------
    console : Console
    options : bool
        Whether to print their options as well.
    """
    tiers, codecs = _kinds(_reports(registry)), _codecs()
    console.print(_table("schemes", tiers))
    console.print(_table("codec", codecs))
    if options:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("of", overflow="fold", max_width=13)
        table.add_column("option", no_wrap=True)
        table.add_column("meaning", overflow="fold")
        _add_options(table, "any tier", LEVEL_OPTIONS)
        for kind in (*tiers, *codecs):
            _add_options(table, " ".join(kind.names), kind.options)
        console.print(table)


def _add_options(table: Table, owner: str, options: Mapping[str, str]) -> None:
    for name, meaning in options.items():
        table.add_row(owner, name, meaning)
        owner = ""  # once is enough


def _table(first: str, kinds: Sequence[_Kind]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold", max_width=13)
    table.add_column("what it is", overflow="fold")
    table.add_column("state", overflow="fold", max_width=16)
    for kind in kinds:
        state = kind.report.state
        lacking = Text(f"needs {kind.lacks}", "yellow")
        shown = lacking if kind.lacks else Text(state.value, _STYLES[state])
        table.add_row(" ".join(kind.names), kind.summary, shown)
    return table


def _entry(kind: _Kind) -> dict[str, object]:
    report = kind.report
    return {
        "distribution": report.distribution,
        "version": report.version,
        "state": report.state.value,
        "reason": report.reason,
        "summary": report.plugin.summary if report.plugin else "",
        "options": kind.options,
        "needs": kind.lacks or None,
    }


def _codecs() -> list[_Kind]:
    return [_Kind((report.name,), report) for report in _reports(codec_registry)]


def _kinds(reports: Sequence[PluginReport[Any]]) -> list[_Kind]:
    """Return plugins; those that are equal but for their names are one."""
    kinds: list[_Kind] = []
    for report in reports:
        for number, kind in enumerate(kinds):
            if report.plugin is not None and report.plugin == kind.report.plugin:
                kinds[number] = _Kind((*kind.names, report.name), kind.report)
                break
        else:
            kinds.append(_Kind((report.name,), report))
    return kinds


def _reports(plugins: Any) -> list[PluginReport[Any]]:
    """Load all plugins. Their warnings are in the rows; what they print goes to stderr."""
    with _quiet():
        found: list[PluginReport[Any]] = plugins.reports()
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield
