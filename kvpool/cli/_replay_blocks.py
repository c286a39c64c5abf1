"""``kvpool replay --capacity-blocks``: how many blocks of a trace a pool would have reused."""

from __future__ import annotations

import json

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from kvpool._escaping import printable
from kvpool.cli._interrupts import EXIT_CODE
from kvpool.cli._replay_loop import serve_all
from kvpool.cli._tables import Figures, Fitted
from kvpool.replay import BlockReplay, BlockReport, TraceReader, to_csv

__all__ = ["replay_blocks"]


def replay_blocks(
    run: BlockReplay, requests: TraceReader, limit: int | None, *, as_json: bool, as_csv: bool
) -> None:
    """Serve a trace by its blocks, and print the figures.

    Parameters
    ----------
    run : BlockReplay
    requests : TraceReader
    limit : int or None
        Stop after this many requests.
    as_json, as_csv : bool
    """
    is_interrupted = serve_all(run, requests, limit)
    report = run.report()
    if as_json:
        head = {"trace": requests.path, "skipped_lines": requests.skipped}
        typer.echo(json.dumps({**head, **report.as_dict()}, indent=2))
    elif as_csv:
        typer.echo(to_csv([report]), nl=False)
    else:
        _print(report, requests)
    if report.checksum_failures:
        typer.echo(
            f"kvpool: {report.checksum_failures:,} requests read other bytes than were written",
            err=True,
        )
        raise typer.Exit(1)
    if is_interrupted:
        typer.echo(f"kvpool: interrupted after {report.requests:,} requests", err=True)
        raise typer.Exit(EXIT_CODE)


def _levels(report: BlockReport) -> Table:
    """Return the hits of the pool and of each tier."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("level")
    for name in ("hit blocks", "hit ratio", "stored", "not stored", "evicted", "held"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = report.as_dict()["levels"]
    for level in shown:
        others = [""] * 4
        if level is not shown[0]:
            lost, held = level["dropped"] + level["refused"], level["held"]
            counts = level["stored"], lost, level["evicted"]
            others = [*(f"{count:,}" for count in counts), "?" if held is None else f"{held:,}"]
        hits = f"{level['hit_blocks']:,}", f"{level['hit_ratio']:.4f}"
        table.add_row(printable(level["level"]), *hits, *others)
    return table


def _print(report: BlockReport, requests: TraceReader) -> None:
    console = Console(markup=False, highlight=False, emoji=False)
    by_source = report.stats.prefix.tokens_by_source
    figures = (
        ("requests", f"{report.requests:,}"),
        ("skipped lines", f"{requests.skipped:,}"),
        ("blocks asked for", f"{report.blocks:,}"),
        ("hit blocks", f"{report.hit_blocks:,}"),
        ("hit ratio", f"{report.hit_ratio:.4f}"),
        ("  of sessions that go on", f"{by_source['continued']:,}"),
        ("  of others", f"{by_source['forked'] + by_source['copied']:,}"),
        *((("  of tiers", f"{by_source['loaded']:,}"),) if report.tiers else ()),
        ("blocks held at the end", f"{report.stats.prefix.tokens_held:,}"),
        ("checksum failures", f"{report.checksum_failures:,}"),
        ("seconds", f"{report.seconds:.1f}"),
    )
    console.print(
        f"{requests.path}, {report.capacity_blocks:,} blocks, policy {report.policy}",
        style="italic",
        soft_wrap=True,
    )
    console.print(Figures((figures,)))
    if report.tiers:
        console.print(Fitted(_levels(report)))
    if requests.first_skipped is not None:
        console.print(f"Skipped first: {requests.first_skipped}", soft_wrap=True)
