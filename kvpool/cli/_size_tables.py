"""What ``kvpool size`` prints: two tables, and the answer in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from kvpool.cli._sizes import counted
from kvpool.cli._tables import Fitted
from kvpool.replay import TraceReader
from kvpool.sizing import SHARES, HitCurve, SizingReport, describe

__all__ = ["print_sizing"]

_COLUMNS = 5  # sizes in a table of 80 characters
_COLUMN = 13  # characters of one


def print_sizing(console: Console, report: SizingReport, title: str, reader: TraceReader) -> None:
    """Print what pools of some sizes would reuse, and the sizes for shares of all reuse.

    Parameters
    ----------
    console : Console
    report : SizingReport
    title : str
    reader : TraceReader
        The trace, which was read.
    """
    layout = f", layout {report.layout}" if report.layout else ""
    console.print(
        f"{title}, blocks of {counted(report.block_tokens, 'token')}{layout}", style="italic"
    )
    console.print(Fitted(_ratios(report, console.width)))
    console.print(Fitted(_needs(report)))
    for sentence in describe(report):
        console.print(sentence)
    if report.layout is None:
        console.print("With --layout or --model, sizes are in bytes.", style="dim")
    if reader.first_skipped is not None:
        console.print(f"Skipped {counted(reader.skipped, 'line')}.", style="dim")
        console.print(f"Skipped first: {reader.first_skipped}", soft_wrap=True)


def _ratios(report: SizingReport, width: int) -> Table:
    sizes = _some(report.sizes, min(max(width // _COLUMN - 1, 2), _COLUMNS))
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"hit ratio by size of the pool{_unit(report)}",
        title_style="",
        title_justify="left",
    )
    table.add_column("policy", no_wrap=True)
    for size in sizes:
        table.add_column(_size(report, size), justify="right", no_wrap=True)
    if report.sample_rate < 1:
        table.add_column("±", justify="right", no_wrap=True)
    for curve in report.curves.values():
        table.add_row(*_ratios_of(curve, sizes)[: len(table.columns)])
    table.add_row(*_ratios_of(report.bound, sizes)[: len(table.columns)], style="dim")
    return table


def _needs(report: SizingReport) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"pool for a share of what an infinite pool reuses{_unit(report)}",
        title_style="",
        title_justify="left",
    )
    table.add_column("policy", no_wrap=True)
    for share in SHARES:
        table.add_column(f"{share:.0%}", justify="right", no_wrap=True)
    table.add_column("knee", justify="right", no_wrap=True)
    for name, curve in report.curves.items():
        answers = [report.answer(name, share).blocks for share in SHARES]
        table.add_row(name, *(_size(report, blocks) for blocks in [*answers, curve.knee()]))
    return table


def _ratios_of(curve: HitCurve, sizes: Sequence[int]) -> list[str]:
    error = f"{curve.error:.2%}" if curve.error else "exact"
    return [curve.name, *(f"{curve.hit_ratio(size):.2%}" for size in sizes), error]


def _some(sizes: Sequence[int], most: int) -> list[int]:
    """Return the sizes for the columns of a table, the first and the last one among them."""
    last = len(sizes) - 1
    count = min(most, len(sizes))
    return [sizes[round(number * last / max(count - 1, 1))] for number in range(count)]


def _size(report: SizingReport, blocks: int | None) -> str:
    if blocks is None:
        return "n/a"
    return f"{blocks:,}" if report.bytes_per_block is None else report.size_text(blocks)


def _unit(report: SizingReport) -> str:
    return ", blocks" if report.bytes_per_block is None else ""
