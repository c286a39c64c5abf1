"""The tables of a run, for the terminal; and how figures are written, there and on the page."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.harness import Measurement, Ratio, Report
from benchmarks.record import Record
from benchmarks.suite import Outcome

__all__ = ["figure", "quartiles", "show", "show_summary", "times", "value"]


def show(outcome: Outcome) -> None:
    """Print what came of a benchmark."""
    console = _console()
    if outcome.report is None:
        colour = "red" if outcome.status == "failed" else "yellow"
        reason = escape(outcome.reason)
        console.print(f"[{colour}]{outcome.name} {outcome.status}[/]: {reason}", highlight=False)
        return
    report = outcome.report
    console.print(_figures(report))
    if report.ratios:
        console.print(_ratios(report))
    for note in report.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def show_summary(record: Record) -> None:
    """Print one line for each benchmark, and one for each target that is missed."""
    console = _console()
    table = Table("benchmark", "", "seconds", "targets met", title="benchmarks")
    for outcome in record.benchmarks:
        figures = outcome.report.targeted() if outcome.report else []
        met = f"{sum(one.met is True for one in figures)} of {len(figures)}" if figures else ""
        table.add_row(outcome.name, outcome.status, f"{outcome.seconds:.1f}", met)
    console.print(table)
    for name, one in record.missed():
        line = f"missed: {name}: {one.what}, {one.subject}: {value(one)}, target {one.target}"
        console.print(line, markup=False, highlight=False)


def figure(number: float) -> str:
    """Return a number as people read it: four digits, or all those before the point."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def value(one: Measurement | Ratio) -> str:
    """Return what was found, with its unit."""
    return times(one) if isinstance(one, Ratio) else f"{figure(one.value)} {one.unit}"


def times(ratio: Ratio) -> str:
    """Return what a ratio says: how many times as much of what."""
    number = f"{ratio.value:.2f}" if ratio.value < 100 else figure(ratio.value)
    return f"{number} {ratio.unit}"


def quartiles(one: Measurement) -> str:
    """Return the quartiles around a median."""
    return f"{figure(one.lower_quartile)} / {figure(one.upper_quartile)}"


def _figures(report: Report) -> Table:
    table = Table("what", "subject", "median", "quartiles", "target", title=report.title)
    for one in report.measurements:
        table.add_row(one.what, one.subject, value(one), quartiles(one), _verdict(one))
    return table


def _ratios(report: Report) -> Table:
    table = Table("what", "ours", "theirs", "ratio", "target", title="side by side")
    for ratio in report.ratios:
        ours, theirs = (f"{side.subject}\n{value(side)}" for side in (ratio.ours, ratio.theirs))
        table.add_row(ratio.what, ours, theirs, times(ratio), _verdict(ratio))
    return table


def _verdict(one: Measurement | Ratio) -> str:
    if one.target is None:
        return ""
    return f"{one.target} [green]met[/]" if one.met else f"{one.target} [red]missed[/]"


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120)
