"""``kvpool size``: how big a pool a trace needs."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kvpool.cli._interrupts import EXIT_CODE, Interrupts
from kvpool.cli._options import (
    LAYOUT,
    OUTPUT,
    HashBlockTokensOption,
    JsonOption,
    MaxRequestsOption,
    SkipBadOption,
    TraceArgument,
    TraceFormatOption,
    alternatives,
    policy_names,
    with_default,
)
from kvpool.cli._size_layout import chosen_layout
from kvpool.cli._size_tables import print_sizing
from kvpool.cli._trace_bar import TraceBar
from kvpool.layout import DTYPES
from kvpool.replay import TraceReader, TraceRequest
from kvpool.sizing import (
    PrefixTrace,
    SizingError,
    SizingReport,
    measure,
    require_charts,
    write_page,
)

__all__ = ["size"]


def size(
    trace: TraceArgument,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERSxHEADSxDIM",
            rich_help_panel=LAYOUT,
            help=with_default(
                "Layers, key-value heads and elements per head, for sizes in bytes.",
                "sizes in blocks",
            ),
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=LAYOUT,
            help="The config.json of a model, instead of --layout.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=LAYOUT,
            help=with_default(
                f"Data type of the cache: {alternatives(list(DTYPES))}.",
                "float16, or that of the model",
            ),
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=policy_names,
            help=with_default("Eviction policy to measure beside lru; may be repeated.", "all"),
        ),
    ] = None,
    points: Annotated[
        int, typer.Option(min=2, max=1000, help="Sizes at which policies are simulated.")
    ] = 16,
    sample: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="RATE",
            help=with_default(
                "Part of the trace to simulate, above 0.", "all up to 1,000,000 blocks"
            ),
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=2, max=100, help="Samples to draw, if not all is simulated.")
    ] = 3,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help=with_default("Processes of the simulation.", "one per processor")
        ),
    ] = None,
    max_requests: MaxRequestsOption = None,
    trace_format: TraceFormatOption = None,
    hash_block_tokens: HashBlockTokensOption = None,
    skip_bad: SkipBadOption = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=OUTPUT,
            help="Also write a page with charts, which needs no network; needs kvpool[report].",
        ),
    ] = None,
    as_json: JsonOption = False,
    as_csv: Annotated[
        bool,
        typer.Option(
            "--csv", rich_help_panel=OUTPUT, help="Print one row for each policy and size, as CSV."
        ),
    ] = False,
) -> None:
    """Say how big a pool a trace needs: what each policy would reuse, at each size.

    Reads Mooncake traces (JSON lines), whose ids of blocks tell which prompts begin alike.
    """
    if as_json and as_csv:
        raise typer.BadParameter("give --json or --csv, not both")
    if sample == 0:
        raise typer.BadParameter("--sample must be above 0")
    shape = chosen_layout(layout, model, dtype)
    if report is not None:  # before all the work, not after it
        require_charts()
        if not report.parent.is_dir():
            raise SizingError(f"cannot write {report}: there is no directory {report.parent}")
    try:
        with (
            Interrupts(),
            TraceReader(
                trace, trace_format, skip_bad=skip_bad, hash_block_tokens=hash_block_tokens
            ) as reader,
            TraceBar(reader, "read") as bar,
        ):
            prompts = PrefixTrace.read(reader, _counted(reader, max_requests, bar))
            found = measure(
                prompts,
                policy,
                layout=shape,
                points=points,
                sample_rate=sample,
                seeds=seeds,
                workers=workers or os.cpu_count() or 1,
                on_progress=functools.partial(bar.show, what="simulate"),
            )
    except KeyboardInterrupt:
        typer.echo("kvpool: interrupted", err=True)
        raise typer.Exit(EXIT_CODE) from None
    if report is not None:
        write_page(found, report, trace.name)
    if as_json:
        typer.echo(json.dumps(_document(found, reader), indent=2))
    elif as_csv:
        _print_csv(found)
    else:
        console = Console(markup=False, highlight=False, emoji=False)
        print_sizing(console, found, trace.name, reader)
        if report is not None:
            console.print(f"Charts: {report}", soft_wrap=True)


def _counted(reader: TraceReader, limit: int | None, bar: TraceBar) -> Iterator[TraceRequest]:
    for request in itertools.islice(reader, limit):
        yield request
        bar.read()


def _document(report: SizingReport, reader: TraceReader) -> dict[str, object]:
    return {
        "trace": reader.path,
        "format": reader.trace_format.value,
        "skipped_lines": reader.skipped,
        **report.as_dict(),
    }


def _print_csv(report: SizingReport) -> None:
    rows = list(report.rows())
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
